package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/vmm"
	"github.com/hullvm/hull/vmm/boot"
)

// monitor is one way to run the guest.
type monitor struct {
	name   string
	window window
	// start runs the guest with the devices of r. work is the file that the guest
	// finds its work in, inherited are files for the process.
	start func(b *bench, r row, work string, inherited []*os.File) (*process, error)
}

// process is a running monitor and the guest's serial port.
type process struct {
	cmd       *exec.Cmd
	out       io.ReadCloser
	in        io.WriteCloser
	complaint bytes.Buffer
	control   *os.File // of hull-vmm: tells why a VM has ended
	opened    []io.Closer
}

// launch starts cmd, whose process ends with this one.
func (p *process) launch() error {
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p.cmd.Stderr = &p.complaint
	return p.cmd.Start()
}

// end kills the process, frees what it has, and returns what it had to say.
func (p *process) end() (said string) {
	if p.cmd.Process != nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait() // killed
		if p.control != nil {
			_, _ = io.Copy(&p.complaint, p.control) // ends: nobody else has the other end
		}
	}
	for _, c := range p.opened {
		c.Close()
	}
	return p.complaint.String()
}

// hull is hull-vmm as the engine starts it.
func hull() monitor {
	at := window{boot.VirtioDevice(0).Base, boot.VirtioSlotSize, boot.MaxDevices}
	return monitor{name: "hull", window: at, start: func(b *bench, r row, work string, inherited []*os.File) (*process, error) {
		cfg := vmm.Config{
			CPUs: 1, Memory: guestMemory, Platform: vmm.PlatformNone, Protocol: "pvh",
			TransparentHugePages: "always", // as QEMU has it, without being asked
			Kernel:               vmm.File{Path: b.guest}, Initrd: []vmm.File{{Path: work}},
			Serial: vmm.Serial{Output: &vmm.File{FD: 5}, Input: &vmm.File{FD: 6}},
		}
		switch r.work.Device {
		case idBlock:
			cfg.Disks = []vmm.Disk{{ID: "bench", File: &vmm.File{Path: b.disk}}}
		case idNet:
			cfg.NICs = []vmm.NIC{{MAC: guestMAC, Tap: []vmm.File{{FD: 7}}}}
		case idVsock:
			cfg.Vsock = &vmm.Vsock{CID: 3, Path: b.vsock}
		}
		config, err := json.Marshal(cfg)
		if err != nil {
			return nil, err
		}
		p := &process{cmd: exec.Command(b.hull)}
		if err := p.hullFiles(config); err != nil {
			p.end()
			return nil, err
		}
		given := p.cmd.ExtraFiles
		p.cmd.ExtraFiles = slices.Concat(given, inherited)
		err = p.launch()
		for _, f := range given {
			f.Close()
		}
		if err != nil {
			p.end()
			return nil, fmt.Errorf("%s: %w", b.hull, err)
		}
		return p, nil
	}}
}

// hullFiles makes what hull-vmm finds at descriptors 3 to 6.
func (p *process) hullFiles(config []byte) error {
	pipe := func() (r, w *os.File, err error) {
		if r, w, err = os.Pipe(); err == nil {
			p.opened = append(p.opened, r, w)
		}
		return r, w, err
	}
	configIn, configOut, err := pipe()
	if err != nil {
		return err
	}
	if _, err := configOut.Write(config); err != nil { // far less than a pipe holds
		return err
	}
	configOut.Close()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	mine, theirs := os.NewFile(uintptr(pair[0]), "control"), os.NewFile(uintptr(pair[1]), "control")
	p.opened = append(p.opened, mine, theirs)
	outR, outW, err := pipe()
	if err != nil {
		return err
	}
	inR, inW, err := pipe()
	if err != nil {
		return err
	}
	p.cmd.ExtraFiles = []*os.File{configIn, theirs, outW, inR}
	p.out, p.in = outR, inW
	p.control = mine
	return nil
}

// guestMAC is the address of the guest's network card.
var guestMAC = [6]byte{2, 0, 0, 0, 0, 1}

// qemuWindow is where QEMU's microvm has its virtio-mmio devices.
var qemuWindow = window{0xfeb0_0000, 0x200, 24}

// qemus are QEMU's microvm in the ways that may be the fastest for r.
func qemus(r row) []monitor {
	var all []monitor
	add := func(name string, args ...string) {
		all = append(all, monitor{name: "QEMU " + name, window: qemuWindow, start: func(b *bench, _ row, work string, inherited []*os.File) (*process, error) {
			return qemu(b, work, args, inherited)
		}})
	}
	switch r.work.Device {
	case idBlock:
		for _, aio := range []string{"threads", "io_uring"} {
			drive := "if=none,id=disk,format=raw,cache=writeback,aio=" + aio + ",file="
			add(aio, "-drive", drive, "-device", "virtio-blk-device,drive=disk")
			add(aio+", iothread", "-object", "iothread,id=io", "-drive", drive, "-device", "virtio-blk-device,drive=disk,iothread=io")
		}
	case idNet:
		add("tap", "-netdev", "tap,id=net,fd=3", "-device", "virtio-net-device,netdev=net,mac="+net.HardwareAddr(guestMAC[:]).String())
	}
	return all
}

// qemu starts QEMU. The disk's name is added to an argument that ends in "file=".
func qemu(b *bench, work string, args []string, inherited []*os.File) (*process, error) {
	argv := []string{
		"-M", "microvm,ioapic2=off,pit=off,pic=off,rtc=off,auto-kernel-cmdline=off", "-accel", "kvm", "-cpu", "qemu64", "-m", "128",
		"-kernel", b.guest, "-initrd", work, "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot",
		"-global", "virtio-mmio.force-legacy=false", "-global", "virtio-mmio.ioeventfd=on",
	}
	for _, a := range args {
		if strings.HasSuffix(a, "file=") {
			a += strings.ReplaceAll(b.disk, ",", ",,")
		}
		argv = append(argv, a)
	}
	p := &process{cmd: exec.Command(b.qemu, argv...)}
	p.cmd.ExtraFiles = inherited
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if p.out, err = p.cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	p.opened = append(p.opened, p.in, p.out)
	if err := p.launch(); err != nil {
		p.end()
		return nil, err
	}
	return p, nil
}
