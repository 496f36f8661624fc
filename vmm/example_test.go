package vmm_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hullvm/hull/kvm"
	"github.com/hullvm/hull/vmm"
	"github.com/hullvm/hull/vmm/testguest"
)

// Examples cannot be skipped one by one where there is no KVM.
func TestMain(m *testing.M) {
	flag.Parse()
	if s, err := kvm.Open(); err == nil {
		s.Close()
	} else {
		flag.Set("test.skip", "^Example")
	}
	os.Exit(m.Run())
}

// guest writes a bare-metal guest, a kernel of a few hundred bytes, to a file.
func guest(dir string, program []byte) vmm.File {
	path := filepath.Join(dir, "guest.elf")
	if err := os.WriteFile(path, program, 0o600); err != nil {
		panic(err)
	}
	return vmm.File{Path: path}
}

// A machine with 16 MiB and one processor, whose serial port leads to a file. For Linux, Platform is left out, Kernel is a
// vmlinux or bzImage, and CommandLine has console=ttyS0.
func ExampleNew() {
	dir, _ := os.MkdirTemp("", "example")
	defer os.RemoveAll(dir)
	console := filepath.Join(dir, "console")
	if err := os.WriteFile(console, nil, 0o600); err != nil {
		fmt.Println(err)
		return
	}
	m, err := vmm.New(vmm.Config{
		CPUs: 1, Memory: 16 << 20,
		Kernel: guest(dir, testguest.Hello), Platform: vmm.PlatformNone,
		Serial: vmm.Serial{Output: &vmm.File{Path: console}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer m.Close()
	if err := m.Start(); err != nil {
		fmt.Println(err)
		return
	}
	end := m.Wait()
	said, _ := os.ReadFile(console)
	fmt.Printf("%q, then: %s\n", said, end.Message)
	// Output: "hello\r\n", then: the guest rebooted; hull does not start it again
}

// A guest that never ends by itself, stopped by a context.
func ExampleRun() {
	dir, _ := os.MkdirTemp("", "example")
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	end, err := vmm.Run(ctx, vmm.Config{CPUs: 1, Memory: 16 << 20, Kernel: guest(dir, testguest.Spin), Platform: vmm.PlatformNone})
	fmt.Println(end.Reason, errors.Is(err, context.DeadlineExceeded))
	// Output: stopped true
}

// reports is a device of the program's own: it prints what a guest writes to its port.
type reports struct{ write func(value byte) }

func (reports) Read(_ uint64, p []byte)    { clear(p) }
func (r reports) Write(_ uint64, p []byte) { r.write(p[0]) }

// Several machines in one process, each with a device of the program's own.
func ExampleWithPort() {
	dir, _ := os.MkdirTemp("", "example")
	defer os.RemoveAll(dir)
	kernel := guest(dir, testguest.Idle)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	said := make(chan byte)
	var machines sync.WaitGroup
	for range 4 {
		machines.Go(func() {
			device := reports{func(value byte) { said <- value }}
			_, err := vmm.Run(ctx, vmm.Config{CPUs: 1, Memory: 16 << 20, Kernel: kernel, Platform: vmm.PlatformNone},
				vmm.WithPort(testguest.Port, 4, device))
			if !errors.Is(err, context.Canceled) {
				fmt.Println(err)
			}
		})
	}
	for range 4 {
		fmt.Println("a guest says", <-said)
	}
	cancel()
	machines.Wait()
	// Output:
	// a guest says 1
	// a guest says 1
	// a guest says 1
	// a guest says 1
}

// A machine that is saved, and goes on in another one from where it was.
func ExampleMachine_Snapshot() {
	dir, _ := os.MkdirTemp("", "example")
	defer os.RemoveAll(dir)
	saved := filepath.Join(dir, "saved")
	config := vmm.Config{CPUs: 1, Memory: 16 << 20, Kernel: guest(dir, testguest.Spin), Platform: vmm.PlatformNone}
	m, err := vmm.New(config)
	if err == nil {
		err = errors.Join(m.Start(), m.Pause(), m.Snapshot(saved, vmm.SnapshotOptions{}), m.Close())
	}
	if err != nil {
		fmt.Println(err)
		return
	}
	config.Restore = &vmm.Snapshot{
		State:  vmm.File{Path: filepath.Join(saved, vmm.SnapshotState)},
		Memory: vmm.File{Path: filepath.Join(saved, vmm.SnapshotMemory)},
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	end, err := vmm.Run(ctx, config)
	fmt.Println(end.Reason, err)
	// Output: stopped context deadline exceeded
}
