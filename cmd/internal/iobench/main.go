// Command iobench measures requests to virtio devices at native speed, side by
// side in one run: under hull, under QEMU's microvm, and as the bare system
// calls that either ends in, which are the floor. "make bench-io" runs it.
//
// The guest is a program of a few kilobytes (guest.S) that runs its loops at
// privilege level 3, where even a software KVM runs code at full speed. It drives
// the queues as Linux does (indirect descriptors, EVENT_IDX), but polls the used
// ring where a row does not say that it waits for interrupts, and tells by the
// time stamp counter how long that took. It checks what it reads.
//
// "iobench linux" is for where Linux can boot, also in the lab's deterministic mode: what fio and iperf3 measure in
// a Linux guest, under hull and under QEMU. "make bench-linux" runs it.
//
// Rounds are interleaved, one run of each monitor a round, so that a machine
// whose speed drifts does so for all of them.
//
// Read in this order: row.go (what is measured), work.go (what the guest is
// told), measure.go (one measurement), monitor.go and floor.go (who is measured); linux.go by itself.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"

	"golang.org/x/sys/unix"
)

func main() {
	o := options{diskSize: diskSize}
	measure, words := run, os.Args[1:]
	if len(words) > 0 && words[0] == "linux" {
		measure, words = linux, words[1:]
	}
	flags := flag.NewFlagSet("iobench", flag.ExitOnError)
	flags.IntVar(&o.rounds, "n", 7, "rounds")
	flags.StringVar(&o.vmm, "hull-vmm", "build/hull-vmm", "the VM process")
	flags.StringVar(&o.hull, "hull", "bin/hull", "linux: the hull command")
	flags.StringVar(&o.kernel, "kernel", "build/kernel/vmlinux", "linux: the kernel that both boot")
	flags.StringVar(&o.qemu, "qemu", "qemu-system-x86_64", "QEMU, to compare with; left out when empty, but not by linux")
	flags.StringVar(&o.dir, "dir", os.TempDir(), "where the disk is")
	flags.Func("run", "only rows whose name matches", func(s string) (err error) { o.only, err = regexp.Compile(s); return err })
	_ = flags.Parse(words) // ExitOnError
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	if err := measure(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "iobench:", err)
		os.Exit(1)
	}
}

type options struct {
	rounds                       int
	vmm, hull, qemu, kernel, dir string
	only                         *regexp.Regexp
	diskSize                     uint64 // bytes
}

func run(ctx context.Context, o options) error {
	b, closeIt, err := newBench(o)
	if err != nil {
		return err
	}
	defer closeIt()
	var results []result
	taps := mayOpenTap()
	for _, r := range rows() {
		if o.only != nil && !o.only.MatchString(r.name) {
			continue
		}
		if r.work.Device == idNet && taps != nil {
			fmt.Fprintf(os.Stderr, "%s: left out: %v\n", r.name, taps)
			continue
		}
		res, err := b.compete(ctx, os.Stderr, r, o.rounds)
		if ctx.Err() != nil {
			return errors.New("interrupted")
		}
		if err != nil {
			return err
		}
		results = append(results, res)
	}
	return b.table(os.Stdout, results, o.rounds)
}

// newBench makes the files that all measurements share.
func newBench(o options) (_ *bench, closeIt func(), err error) {
	dir, err := os.MkdirTemp(o.dir, "iobench-")
	if err != nil {
		return nil, nil, err
	}
	b := &bench{
		dir: dir, hull: o.vmm, qemu: o.qemu, clock: newClock(), drain: drain,
		guest: filepath.Join(dir, "guest"), disk: filepath.Join(dir, "disk"), vsock: filepath.Join(dir, "vsock"),
	}
	closeIt = func() { os.RemoveAll(dir) }
	defer func() {
		if err != nil {
			closeIt()
		}
	}()
	if err := os.WriteFile(b.guest, guest, 0o600); err != nil {
		return nil, nil, err
	}
	if err := writeDisk(b.disk, o.diskSize); err != nil {
		return nil, nil, err
	}
	return b, closeIt, nil
}

// writeDisk makes the disk that the guest expects, whole MiB of it.
func writeDisk(path string, size uint64) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, 1<<20)
	for off := uint64(0); off < size; off += uint64(len(buf)) {
		pattern(buf, off)
		if _, err := f.Write(buf); err != nil {
			return err
		}
	}
	return f.Sync() // so that it is not written back while others are measured
}
