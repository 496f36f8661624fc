package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/kvm"
	"github.com/hullvm/hull/vmm"
	"github.com/hullvm/hull/vmm/snapshot"
)

// machine is a VM process of hull's with its serial port on pipes.
type machine struct {
	cmd     *exec.Cmd
	began   time.Time
	control *net.UnixConn
	in, out *os.File
	stderr  bytes.Buffer
}

// patience is how long a guest may take to answer.
const patience = time.Minute

// launch starts a VM process as the engine does.
func launch(o options, config vmm.Config) (_ *machine, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	mine, theirs := os.NewFile(uintptr(pair[0]), "control"), os.NewFile(uintptr(pair[1]), "control")
	defer theirs.Close()
	conn, err := net.FileConn(mine)
	mine.Close()
	if err != nil {
		return nil, err
	}
	m := &machine{control: conn.(*net.UnixConn)}
	configIn, configOut, err1 := os.Pipe()
	guestIn, in, err2 := os.Pipe()
	out, guestOut, err3 := os.Pipe()
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	defer configIn.Close()
	defer guestIn.Close()
	defer guestOut.Close()
	m.in, m.out = in, out
	config.CPUs, config.Platform, config.Protocol = 1, vmm.PlatformNone, "pvh"
	config.Serial = vmm.Serial{Input: &vmm.File{FD: 5}, Output: &vmm.File{FD: 6}}
	err = json.NewEncoder(configOut).Encode(config)
	configOut.Close()
	if err != nil {
		return nil, err
	}
	m.cmd = exec.Command(o.vmm)
	m.cmd.ExtraFiles = []*os.File{configIn, theirs, guestIn, guestOut}
	m.cmd.Stderr = &m.stderr
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	m.began = time.Now()
	return m, m.cmd.Start()
}

func (m *machine) end() {
	_ = m.cmd.Process.Kill()
	_ = m.cmd.Wait() // it was killed
	m.control.Close()
	m.in.Close()
	m.out.Close()
}

// read takes the guest's next byte, which must be want.
func (m *machine) read(want byte) error {
	var p [1]byte
	if err := m.out.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := m.out.Read(p[:]); err != nil || p[0] != want {
		return fmt.Errorf("the guest answers %q, want %q: %v %s", p[0], want, err, m.stderr.String())
	}
	return nil
}

// ask sends the guest a byte and waits for it.
func (m *machine) ask(b byte) error {
	if _, err := m.in.Write([]byte{b}); err != nil {
		return err
	}
	return m.read(b)
}

// again asks once more.
func (m *machine) again() error { return m.ask('b') }

// answer waits for the answer to the byte that the machine was started with, and tells how long it took from exec.
func (m *machine) answer() (time.Duration, error) {
	err := m.read('a')
	return time.Since(m.began), err
}

// command has the VM process do something.
func (m *machine) command(c vmm.Command, files ...*os.File) error {
	if err := c.Send(m.control, files...); err != nil {
		return err
	}
	for s := bufio.NewScanner(m.control); s.Scan(); {
		var e vmm.Event
		switch err := json.Unmarshal(s.Bytes(), &e); {
		case err != nil:
			return err
		case e.Event == "ok" && e.Name == c.Command:
			return nil
		case e.Event == "error" || e.Event == "exit":
			return errors.New(e.Message)
		}
	}
	return errors.New("the VM process is gone")
}

// private is what the process has in memory that no other one shares, in KiB.
func (m *machine) private() (int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", m.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	sum := 0
	for line := range strings.Lines(string(b)) {
		name, rest, _ := strings.Cut(line, ":")
		if name == "Private_Clean" || name == "Private_Dirty" {
			var kib int
			if _, err := fmt.Sscan(rest, &kib); err != nil {
				return 0, err
			}
			sum += kib
		}
	}
	return sum, nil
}

// save boots the guest, waits until it has written to all of its memory and halts, and saves it.
func save(o options, guest string, size uint64, dir string) (time.Duration, error) {
	m, err := launch(o, vmm.Config{Memory: size, Kernel: vmm.File{Path: guest}})
	if err != nil {
		return 0, err
	}
	defer m.end()
	if err := errors.Join(m.read('R'), m.ask('h')); err != nil {
		return 0, err
	}
	if err := m.command(vmm.Command{Command: vmm.CommandPause}); err != nil {
		return 0, err
	}
	if err := warm(size); err != nil {
		return 0, err
	}
	begin := time.Now()
	out, err := snapshot.Create(dir)
	if err != nil {
		return 0, err
	}
	state, memory, err := out.Files()
	if err != nil {
		return 0, errors.Join(err, out.Abort())
	}
	err = m.command(vmm.Command{Command: vmm.CommandSnapshot}, state, memory)
	if err = errors.Join(err, state.Close(), memory.Close()); err != nil {
		return 0, errors.Join(err, out.Abort())
	}
	err = out.Commit()
	return time.Since(begin), err
}

// restore starts a machine from the snapshot, with a byte on its serial port that it will answer.
func restore(o options, size uint64, dir string) (*machine, error) {
	m, err := launch(o, vmm.Config{Memory: size, Restore: &vmm.Snapshot{
		State:  vmm.File{Path: filepath.Join(dir, vmm.SnapshotState)},
		Memory: vmm.File{Path: filepath.Join(dir, vmm.SnapshotMemory)},
	}})
	if err != nil {
		return nil, err
	}
	_, err = m.in.Write([]byte("a"))
	return m, err
}

// floor is what remains without a monitor: a VM whose memory is the snapshot's file, and its first instruction.
func floor(dir string, size uint64) (time.Duration, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	begin := time.Now()
	s, err := kvm.Open()
	if err != nil {
		return 0, err
	}
	defer s.Close()
	vm, err := s.CreateVM()
	if err != nil {
		return 0, err
	}
	defer vm.Close()
	f, err := os.Open(filepath.Join(dir, vmm.SnapshotMemory))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	mem, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_NORESERVE)
	if err != nil {
		return 0, err
	}
	defer unix.Munmap(mem)
	copy(mem, []byte{0xe6, 0xf4, 0xf4}) // out %al, $0xf4; hlt
	supported, err := s.SupportedCPUID()
	if err != nil {
		return 0, err
	}
	if err := errors.Join(vm.SetUserMemoryRegion(0, 0, 0, mem), vm.CreateIRQChip()); err != nil {
		return 0, err
	}
	v, err := vm.CreateVCPU(0)
	if err != nil {
		return 0, err
	}
	defer v.Close()
	sregs, err := v.Sregs()
	if err != nil {
		return 0, err
	}
	sregs.CS.Base, sregs.CS.Selector = 0, 0
	if err := errors.Join(v.SetCPUID(supported), v.SetSregs(&sregs), v.SetRegs(&kvm.Regs{RFLAGS: 2})); err != nil {
		return 0, err
	}
	for {
		if err := v.Run(); err == nil {
			break
		} else if !errors.Is(err, kvm.ErrInterrupted) {
			return 0, err
		}
	}
	if v.Exit() != kvm.KVM_EXIT_IO {
		return 0, fmt.Errorf("floor: %s", v.Describe())
	}
	return time.Since(begin), nil
}
