package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/images/bundle"
	"github.com/hullvm/hull/vmm"
)

// bareVM is a VM process without an engine: a test talks to it as an engine would.
type bareVM struct {
	cmd     *exec.Cmd
	control net.Conn
	events  *json.Decoder
	serial  *bufio.Reader
}

// startBare boots hull's kernel in a VM process of its own, with hull's init, which executes a command. The
// configuration has everything else.
func startBare(config vmm.Config, command string) (_ *bareVM, err error) {
	hull, err := exec.LookPath("hull")
	if err != nil {
		return nil, err
	}
	b, err := bundle.OpenFile(hull)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	files, err := b.Extract(os.Getenv("HULL_CACHE_DIR"))
	if err != nil {
		return nil, err
	}
	config.Kernel, config.Initrd = vmm.File{Path: files.Kernel}, []vmm.File{{Path: files.Initramfs}}
	config.Disks = append(config.Disks, vmm.Disk{ID: "root", ReadOnly: true, Layers: []vmm.File{{Path: files.Uroot}}})
	config.CommandLine = fmt.Sprintf("panic=-1 quiet console=ttyS0 hull.root=/dev/vd%c hull.exec=\"%s\"", 'a'+len(config.Disks)-1, command)
	config.Serial = vmm.Serial{Output: &vmm.File{FD: 5}}
	text, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	configIn, configOut, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer configIn.Close()
	_, err = configOut.Write(text) // less than a pipe holds
	if err := errors.Join(err, configOut.Close()); err != nil {
		return nil, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	mine, theirs := os.NewFile(uintptr(pair[0]), "control"), os.NewFile(uintptr(pair[1]), "control")
	defer mine.Close()
	defer theirs.Close()
	serialIn, serialOut, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer serialOut.Close()
	vm := &bareVM{cmd: exec.Command(files.VMM, "bare"), serial: bufio.NewReader(serialIn)}
	if vm.control, err = net.FileConn(mine); err != nil {
		return nil, err
	}
	vm.events = json.NewDecoder(vm.control)
	vm.cmd.Stderr = os.Stderr
	vm.cmd.ExtraFiles = []*os.File{configIn, theirs, serialOut}
	return vm, vm.cmd.Start()
}

// close ends the VM, which has lost whoever started it.
func (vm *bareVM) close() error {
	vm.control.Close()
	return vm.cmd.Wait()
}

// await reads the serial port up to a line with the text.
func (vm *bareVM) await(text string) error {
	var said strings.Builder
	for {
		line, err := vm.serial.ReadString('\n')
		if strings.Contains(line, text) {
			return nil
		}
		said.WriteString(line)
		if err != nil {
			return fmt.Errorf("no %q on the serial port: %w; it said %q", text, err, &said)
		}
	}
}

// command sends a command and returns its answer.
func (vm *bareVM) command(c vmm.Command) (vmm.Event, error) {
	_ = vm.control.SetDeadline(time.Now().Add(patience))
	if err := json.NewEncoder(vm.control).Encode(c); err != nil {
		return vmm.Event{}, err
	}
	for {
		var e vmm.Event
		if err := vm.events.Decode(&e); err != nil {
			return e, fmt.Errorf("%s: %w", c.Command, err)
		}
		switch {
		case e.Event == "exit" || e.Event == "error":
			return e, fmt.Errorf("%s: %s %s", c.Command, e.Event, e.Message)
		case e.Event == "ok" && e.Name == c.Command:
			return e, nil
		}
	}
}

// helperBalloon takes MiB from a guest and gives them back, twice: balloon MIB
func helperBalloon(args []string) error {
	if err := usage(args, 1, "balloon MIB"); err != nil {
		return err
	}
	var mib uint64
	if _, err := fmt.Sscan(args[0], &mib); err != nil {
		return err
	}
	vm, err := startBare(vmm.Config{ID: "balloon", CPUs: 1, Memory: 512 << 20, RNG: true, Balloon: true}, "echo up; sleep 10000")
	if err != nil {
		return err
	}
	defer vm.close()
	if err := vm.await("up"); err != nil {
		return err
	}
	free, err := vm.inflate(0, 0)
	if err != nil {
		return err
	}
	for range 2 {
		left, err := vm.inflate(mib<<20, free-mib<<20)
		if err != nil {
			return err
		}
		back, err := vm.inflate(0, free)
		if err != nil {
			return err
		}
		fmt.Printf("%d MiB free, %d with %d taken, %d with none\n", free>>20, left>>20, mib, back>>20)
	}
	if _, err := vm.command(vmm.Command{Command: vmm.CommandBalloon, Bytes: 513 << 20}); err == nil {
		return errors.New("more can be taken than there is")
	}
	return nil
}

// inflate asks for so many bytes in all, waits until the guest has given them or has got them back, and returns how
// many bytes are free then, as it says: those that are expected, unless that is 0, or nearly so.
func (vm *bareVM) inflate(target, expected uint64) (free uint64, err error) {
	if _, err := vm.command(vmm.Command{Command: vmm.CommandBalloon, Bytes: target}); err != nil {
		return 0, err
	}
	const about = 16 << 20 // what else a guest may need, or have, meanwhile
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var last vmm.BalloonStats
	for end := time.Now().Add(patience); time.Now().Before(end); <-tick.C {
		e, err := vm.command(vmm.Command{Command: vmm.CommandBalloonStats})
		if err != nil {
			return 0, err
		}
		// Pages that the guest is reporting are not free while it does.
		last, free = *e.Balloon, e.Balloon.Guest["free_memory"]
		if last.Target == target && last.Actual == target && free > 0 && (expected == 0 || free+about > expected && free < expected+about) {
			return free, nil
		}
	}
	return 0, fmt.Errorf("%v after a target of %d bytes, with %d bytes expected to be free: %+v", patience, target, expected, last)
}
