package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/hullvm/hull/kvm"
)

// linuxRow is one figure that fio or iperf3 gives in a Linux guest; more is better.
type linuxRow struct {
	key, name, unit string
	// scale makes the unit of what the program prints.
	scale float64
}

func linuxRows() []linuxRow {
	return []linuxRow{
		{"randread", "fio: 4 KiB random reads, depth 32", "1/s", 1},
		{"randwrite", "fio: 4 KiB random writes, depth 32", "1/s", 1},
		{"read", "fio: 1 MiB reads in sequence, depth 4", "MiB/s", 1. / 1024},
		{"write", "fio: 1 MiB writes in sequence, depth 4", "MiB/s", 1. / 1024},
		{"out", "iperf3: 8 streams from the guest, tap", "Mbit/s", 1},
		{"in", "iperf3: 8 streams to the guest, tap", "Mbit/s", 1},
	}
}

// benchTap is the interface that guests are connected to, which is made for the run.
const (
	benchTap     = "hullbench"
	benchHost    = "198.51.100.1"
	benchGuest   = "198.51.100.2"
	benchNetmask = "/28"
)

// linuxPatience is how long a guest may take from exec to its end. The lab's counted clock leaps ahead while a
// first round waits for files.
const linuxPatience = 10 * time.Minute

// linuxBench compares hull and QEMU's microvm by what programs in a Linux guest measure: the same kernel, root disk,
// data disk and tap interface. It needs root, for the interface and the root disk.
type linuxBench struct {
	o                  options
	root, data, initrd string
}

// linux is "iobench linux".
func linux(ctx context.Context, o options) error {
	system, err := kvm.Open()
	if err != nil {
		return err
	}
	err = system.RequireLinux()
	system.Close()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(o.dir, "iobench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &linuxBench{o: o, root: filepath.Join(dir, "root.ext4"), data: filepath.Join(dir, "data"), initrd: filepath.Join(dir, "empty.cpio")}
	if err := b.prepare(ctx, dir); err != nil {
		return err
	}
	if err := command(ctx, "ip", "tuntap", "add", benchTap, "mode", "tap"); err != nil {
		return err
	}
	defer exec.Command("ip", "link", "delete", benchTap).Run() // also when ctx has ended
	if err := errors.Join(command(ctx, "ip", "addr", "add", benchHost+benchNetmask, "dev", benchTap), command(ctx, "ip", "link", "set", benchTap, "up")); err != nil {
		return err
	}
	server := exec.CommandContext(ctx, "iperf3", "-s", "-B", benchHost)
	server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := server.Start(); err != nil {
		return err
	}
	defer func() {
		server.Process.Kill()
		server.Wait() // killed
	}()
	ours, theirs := make([]map[string]float64, 0, o.rounds), make([]map[string]float64, 0, o.rounds)
	for round := range o.rounds + 1 {
		h, err := b.once(ctx, round, "hull", b.hull())
		if err != nil {
			return err
		}
		q, err := b.once(ctx, round, "QEMU", b.microvm())
		if err != nil {
			return err
		}
		if round > 0 { // the first one warms up
			ours, theirs = append(ours, h), append(theirs, q)
		}
	}
	return b.table(os.Stdout, ours, theirs)
}

// errNoFigure tells of a guest that ended well, and yet.
var errNoFigure = errors.New("no figure")

// command runs a command that has nothing to say unless it fails.
func command(ctx context.Context, name string, args ...string) error {
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// words is the kernel command line that both monitors give.
func (b *linuxBench) words(root string) string {
	return fmt.Sprintf("quiet panic=-1 root=%s ro rootwait init=%s", root, guestScript)
}

func (b *linuxBench) hull() []string {
	return []string{b.o.hull, "boot", "--kernel", b.o.kernel, "--initrd", b.initrd, "--memory", "512m",
		"--disk", b.root + ",ro", "--disk", b.data, "--network", "tap=" + benchTap, "--append", b.words("/dev/vda")}
}

// microvm is QEMU with a thread for its disk, where it may be faster, and what it takes by itself else.
func (b *linuxBench) microvm() []string {
	return []string{b.o.qemu, "-M", "microvm", "-accel", "kvm", "-cpu", "host", "-m", "512", "-kernel", b.o.kernel, "-initrd", b.initrd,
		"-append", "console=ttyS0 " + b.words("/dev/vda"), "-nodefaults", "-no-user-config", "-nographic", "-serial", "stdio", "-no-reboot",
		"-global", "virtio-mmio.force-legacy=false", "-global", "virtio-mmio.ioeventfd=on", "-object", "iothread,id=io",
		"-netdev", "tap,id=net,ifname=" + benchTap + ",script=no,downscript=no", "-device", "virtio-net-device,netdev=net",
		"-drive", "if=none,id=root,format=raw,read-only=on,file=" + b.root, "-device", "virtio-blk-device,drive=root",
		"-drive", "if=none,id=data,format=raw,file=" + b.data, "-device", "virtio-blk-device,drive=data,iothread=io"}
}

// once boots a guest to its end and returns the figures that it prints.
func (b *linuxBench) once(ctx context.Context, round int, name string, argv []string) (map[string]float64, error) {
	ctx, cancel := context.WithTimeout(ctx, linuxPatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	figures := make(map[string]float64)
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		var key string
		var value float64
		if n, _ := fmt.Sscanf(lines.Text(), resultMark+" %s %g", &key, &value); n == 2 {
			figures[key] = value
		}
	}
	for _, r := range linuxRows() {
		if figures[r.key] <= 0 {
			err = cmp.Or(ctx.Err(), err, errNoFigure)
			return nil, fmt.Errorf("%s: %s: %w; the guest said:\n%s", name, r.name, err, out)
		}
		figures[r.key] *= r.scale
		fmt.Fprintf(os.Stderr, "round %d  %-40s %-5s %10.1f %s\n", round, r.name, name, figures[r.key], r.unit)
	}
	return figures, nil
}

// table prints medians, and how many times hull is as fast as QEMU.
func (b *linuxBench) table(w io.Writer, ours, theirs []map[string]float64) error {
	fmt.Fprintln(w, "\nfio and iperf3 in a Linux guest: one vCPU, 512 MiB, the same kernel, disks and tap interface")
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "what\tunit\thull\tmin–max\tQEMU\tmin–max\tratio\t")
	for _, r := range linuxRows() {
		get := func(m map[string]float64) float64 { return m[r.key] }
		h, q := median(ours, get), median(theirs, get)
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%.2f\t\n", r.name, r.unit, whole(h), wholeSpan(ours, get), whole(q), wholeSpan(theirs, get), h/q)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, `medians of %d interleaved rounds; ratio: how many times hull is as fast as QEMU (%s)
The data disk is %d MiB in %s, through the page cache; QEMU has a thread of its own for it, and its tap does without vhost.
In the lab's deterministic mode a second is 1,000 M instructions of guest, monitor and host together.
`, len(ours), (&bench{qemu: b.o.qemu}).version(), b.o.diskSize>>20, b.o.dir)
	return err
}

func whole(v float64) string { return strconv.FormatFloat(v, 'f', 0, 64) }

func wholeSpan(samples []map[string]float64, get func(map[string]float64) float64) string {
	values := make([]float64, len(samples))
	for i, s := range samples {
		values[i] = get(s)
	}
	return whole(slices.Min(values)) + "–" + whole(slices.Max(values))
}
