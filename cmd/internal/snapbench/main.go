// Command snapbench measures what it takes to save a machine and to start one from a snapshot, on this host's own KVM with a
// bare-metal guest that has written to all of its memory:
//
//	save      the request to the complete snapshot, beside QEMU that migrates the same guest to a file, and beside one
//	          thread that writes as many bytes to a file
//	restore   exec to the guest's first answer, beside QEMU that restores the same guest from a file, and beside
//	          the same system calls without a monitor
//	forks     many copies of one snapshot at once: until all have answered, and what memory each has of its own
//
// Rounds are interleaved, one of each monitor a round. "make bench-snapshot" runs all of it.
package main

import (
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

//go:generate ./generate.sh

//go:embed guest.elf
var guestELF []byte

type options struct {
	vmm, qemu string
	dir       string
	rounds    int
	forks     []int
	sizes     []uint64 // of guest memory, bytes
}

func main() {
	var o options
	var forks, sizes string
	flag.StringVar(&o.vmm, "hull-vmm", "build/hull-vmm", "the VM process")
	flag.StringVar(&o.qemu, "qemu", "qemu-system-x86_64", "QEMU, to compare with; left out when empty")
	flag.StringVar(&o.dir, "dir", "", "where snapshots are kept; a temporary directory if empty")
	flag.IntVar(&o.rounds, "n", 11, "rounds")
	flag.StringVar(&forks, "forks", "100,1000", "how many copies at once; empty: none")
	flag.StringVar(&sizes, "memory", "128,2048", "guest memory in MiB")
	flag.Parse()
	for s := range strings.FieldsFuncSeq(forks, func(r rune) bool { return r == ',' }) {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			fail(fmt.Errorf("-forks %s: want numbers", forks))
		}
		o.forks = append(o.forks, n)
	}
	for s := range strings.FieldsFuncSeq(sizes, func(r rune) bool { return r == ',' }) {
		n, err := strconv.ParseUint(s, 10, 16)
		if err != nil || n < 32 || n > 3072 {
			fail(fmt.Errorf("-memory %s: want 32 to 3072 MiB", sizes))
		}
		o.sizes = append(o.sizes, n<<20)
	}
	if err := bench(o); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "snapbench:", err)
	os.Exit(1)
}

func bench(o options) error {
	if o.dir == "" {
		dir, err := os.MkdirTemp("", "snapbench-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		o.dir = dir
	}
	guest := filepath.Join(o.dir, "guest.elf")
	if err := os.WriteFile(guest, guestELF, 0o600); err != nil {
		return err
	}
	for _, size := range o.sizes {
		if err := benchSize(o, guest, size); err != nil {
			return err
		}
	}
	return nil
}

// row is one monitor's measurements.
type row struct {
	name  string
	start func() (time.Duration, error)
	times []time.Duration
}

// benchSize makes snapshots of a guest with so much memory, and starts machines from them.
func benchSize(o options, guest string, size uint64) error {
	dir, file := filepath.Join(o.dir, "snapshot"), filepath.Join(o.dir, "qemu.state")
	saving := []*row{
		{name: "write", start: func() (time.Duration, error) { return write(filepath.Join(o.dir, "written"), size) }},
		{name: "hull", start: func() (time.Duration, error) { return save(o, guest, size, dir) }},
	}
	restoring := []*row{
		{name: "floor", start: func() (time.Duration, error) { return floor(dir, size) }},
		{name: "hull", start: func() (time.Duration, error) {
			f, err := restore(o, size, dir)
			if err != nil {
				return 0, err
			}
			defer f.end()
			return f.answer()
		}},
	}
	if o.qemu != "" {
		saving = append(saving, &row{name: "QEMU", start: func() (time.Duration, error) { return qemuSave(o.qemu, guest, size, file) }})
		restoring = append(restoring, &row{name: "QEMU", start: func() (time.Duration, error) { return qemuRestore(o.qemu, guest, size, file) }})
	}
	clean := func() error {
		err := errors.Join(os.RemoveAll(dir), os.RemoveAll(file))
		unix.Sync() // what one has left to be written to the disk would hold up the next
		return err
	}
	if err := errors.Join(interleave(saving, o.rounds, clean), clean()); err != nil {
		return fmt.Errorf("saving: %w", err)
	}
	for _, r := range saving {
		if _, err := r.start(); err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
	}
	report(saving, fmt.Sprintf("a guest of %d MiB, all written, is saved to a file", size>>20))
	if err := interleave(restoring, o.rounds, func() error { return nil }); err != nil {
		return fmt.Errorf("restoring: %w", err)
	}
	report(restoring, fmt.Sprintf("exec to the first answer of a guest restored from a file, %d MiB all written", size>>20))
	for _, n := range o.forks {
		if err := fork(o, n, size, dir); err != nil {
			return fmt.Errorf("%d forks: %w", n, err)
		}
	}
	return errors.Join(os.RemoveAll(dir), os.RemoveAll(file))
}

// interleave measures all rows once in each round, and once before the first, which warms up. Each round begins with another one:
// what a monitor finds depends on which was there before it. before is called before each measurement.
func interleave(rows []*row, rounds int, before func() error) error {
	for round := range rounds + 1 {
		for i := range rows {
			if err := before(); err != nil {
				return err
			}
			r := rows[(round+i)%len(rows)]
			d, err := r.start()
			if err != nil {
				return fmt.Errorf("%s: %w", r.name, err)
			}
			fmt.Fprintf(os.Stderr, "round %d  %-6s %8.2f ms\n", round, r.name, ms(d))
			if round > 0 {
				r.times = append(r.times, d)
			}
		}
	}
	return nil
}

// write is what remains of saving without a monitor: one thread that writes as many bytes to a new file, 256 KiB at a
// time as hull does.
func write(path string, size uint64) (_ time.Duration, err error) {
	ram, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return 0, err
	}
	defer unix.Munmap(ram)
	touch(ram)
	if err := warm(size); err != nil {
		return 0, err
	}
	begin := time.Now()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, err
	}
	defer os.Remove(path)
	for p := range slices.Chunk(ram, 256<<10) {
		if _, err := f.Write(p); err != nil {
			return 0, errors.Join(err, f.Close())
		}
	}
	return time.Since(begin), f.Close()
}

func touch(ram []byte) {
	for i := 0; i < len(ram); i += 4096 {
		ram[i] = 1
	}
}

// warm has this host find memory for a file of this size before it is written: a host that is a VM itself may have to wait for
// its own host with each page, seven times as long as the page takes to be written.
func warm(size uint64) error {
	ram, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	touch(ram)
	return unix.Munmap(ram)
}

func ms(d time.Duration) float64 { return float64(d) / 1e6 }

func median(d []time.Duration) time.Duration {
	d = slices.Clone(d)
	slices.Sort(d)
	return d[len(d)/2]
}

// report prints medians, and ratios to the last row.
func report(rows []*row, title string) {
	fmt.Printf("\n%s\n", title)
	tw := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "monitor\tms\tmin–max\tratio\t")
	reference := rows[len(rows)-1]
	for _, r := range rows {
		fmt.Fprintf(tw, "%s\t%.2f\t%.2f–%.2f\t%.3f\t\n", r.name, ms(median(r.times)), ms(slices.Min(r.times)), ms(slices.Max(r.times)),
			float64(median(r.times))/float64(median(reference.times)))
	}
	tw.Flush()
	fmt.Printf("medians of %d interleaved rounds; ratio to %s\n", len(reference.times), reference.name)
}

// fork starts n copies of a snapshot at once.
func fork(o options, n int, size uint64, dir string) error {
	begin := time.Now()
	all := make([]*machine, 0, n)
	defer func() {
		for _, m := range all {
			m.end()
		}
	}()
	for range n {
		m, err := restore(o, size, dir)
		if err != nil {
			return fmt.Errorf("copy %d: %w", len(all), err)
		}
		all = append(all, m)
	}
	for i, m := range all {
		if _, err := m.answer(); err != nil {
			return fmt.Errorf("copy %d: %w", i, err)
		}
	}
	took := time.Since(begin)
	var private []int
	for _, m := range all {
		kib, err := m.private()
		if err != nil {
			return err
		}
		private = append(private, kib)
	}
	// And once more: all of them are alive at the same time.
	for i, m := range all {
		if err := m.again(); err != nil {
			return fmt.Errorf("copy %d: %w", i, err)
		}
	}
	slices.Sort(private)
	fmt.Printf("%d copies of %d MiB at once: all have answered after %.0f ms (%.2f ms each); private memory %d KiB at the median, %d at most\n",
		n, size>>20, ms(took), ms(took)/float64(n), private[n/2], private[n-1])
	return nil
}
