package main

import (
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/u-root/u-root/pkg/cpio"

	"github.com/hullvm/hull/kvm"
)

//go:generate ./generate.sh

//go:embed marker.elf
var markerInit []byte

// linuxMarker is what marker.S writes.
const linuxMarker = "HULL-BENCH-MARKER"

// linux compares the time to a line that the guest's first process writes, and
// to the end of the monitor's process after that process has switched off.
func linux(o options) error {
	system, err := kvm.Open()
	if err != nil {
		return err
	}
	err = system.RequireLinux()
	system.Close()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "bootbench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	initrd := filepath.Join(dir, "marker.cpio")
	if err := writeInitramfs(initrd); err != nil {
		return err
	}
	const words = "quiet panic=-1"
	hull := func(name, platform, words string) *contender {
		return &contender{
			name: name, note: "boot --platform " + platform, marker: linuxMarker, endsByItself: true,
			argv: []string{o.hull, "boot", "--platform", platform, "--kernel", o.kernel, "--initrd", initrd, "--memory", "256m", "--append", words},
		}
	}
	contenders := []*contender{hull("hull", "acpi", words), hull("hull-mptable", "mptable", "reboot=k "+words+" -- restart")}
	if o.qemu != "" {
		v := version(o.qemu, "--version")
		qemu := func(name, machine, words string) *contender {
			return &contender{
				name: name, note: "-M " + machine + " " + v, marker: linuxMarker, endsByItself: true,
				argv: []string{o.qemu, "-M", machine, "-accel", "kvm", "-cpu", "host", "-m", "256", "-kernel", o.kernel, "-initrd", initrd,
					"-append", "console=ttyS0 " + words, "-nodefaults", "-no-user-config", "-nographic", "-serial", "stdio", "-no-reboot"},
			}
		}
		contenders = append(contenders, qemu("qemu", "microvm", words),
			// Without ACPI there is no power-off: a restart is its end.
			qemu("qemu-noacpi", "microvm,acpi=off", "reboot=t "+words+" -- restart"))
	}
	if o.gokvm != "" {
		contenders = append(contenders, &contender{
			name: "gokvm", note: "(v0.0.8-0.20231003020000)", marker: linuxMarker, endsByItself: true,
			argv: []string{o.gokvm, "boot", "-k", o.kernel, "-i", initrd, "-m", "256M", "-c", "1", "-p", "console=ttyS0 reboot=t " + words + " -- restart"},
		})
	}
	// The same, to the first instruction of a container's workload.
	if o.run {
		contenders = append(contenders, hullRun(o, "cold", "--cold"))
	}
	all, err := compete(os.Stderr, contenders, o.rounds)
	if err != nil {
		return err
	}
	table(os.Stdout, "exec to the first line of /init and to the end of the process, same kernel and initramfs, 256 MiB, one vCPU\n"+
		"(in the lab's deterministic mode 1 ms is 1 M instructions)", "ms", all, "qemu")
	return nil
}

// hullRun is a container of the built-in image.
func hullRun(o options, name string, flags ...string) *contender {
	argv := append([]string{o.hull, "run", "--rm"}, flags...)
	return &contender{name: name, note: "hull run --rm uroot echo", marker: linuxMarker, endsByItself: true, argv: append(argv, "uroot", "echo", linuxMarker)}
}

// templatePatience is how long the template may take that the first container has made.
const templatePatience = 5 * time.Minute

// warm compares containers whose VM boots with those whose VM starts from a template.
func warm(o options) error {
	cache, err := os.MkdirTemp("", "bootbench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(cache)
	if err := os.Setenv("HULL_CACHE_DIR", cache); err != nil {
		return err
	}
	if _, _, err := hullRun(o, "first").measure(); err != nil {
		return err
	}
	for began := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		if all, _ := filepath.Glob(filepath.Join(cache, "templates", "*", "state")); len(all) > 0 {
			break
		}
		if time.Since(began) > templatePatience {
			return errors.New("no template was made")
		}
	}
	all, err := compete(os.Stderr, []*contender{hullRun(o, "warm"), hullRun(o, "cold", "--cold")}, o.rounds)
	if err != nil {
		return err
	}
	table(os.Stdout, "exec to the workload's first line and to the end of the process, 512 MiB, one vCPU\n"+
		"(in the lab's deterministic mode 1 ms is 1 M instructions)", "ms", all, "cold")
	return nil
}

// writeInitramfs makes an archive with nothing but the marker program and the
// console that it writes to.
func writeInitramfs(path string) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := cpio.Newc.Writer(f)
	records := []cpio.Record{
		cpio.Directory("dev", 0o755),
		cpio.CharDev("dev/console", 0o600, 5, 1),
		cpio.CharDev("dev/kmsg", 0o600, 1, 11),
		cpio.StaticFile("init", string(markerInit), 0o755),
	}
	for _, r := range records {
		if err := w.WriteRecord(cpio.MakeReproducible(r)); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return cpio.WriteTrailer(w)
}
