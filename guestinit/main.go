package guestinit

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/guestinit/agent"
	"github.com/hullvm/hull/guestinit/proto"
	"github.com/hullvm/hull/guestinit/rootfs"
	"github.com/hullvm/hull/guestinit/stage"
)

// Main is the program. As PID 1 it never returns.
func Main() {
	if os.Args[0] == stage.Name {
		stage.Main()
		os.Exit(1)
	}
	started := boottime()
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "init: this is the init of a hull guest; the kernel starts it")
		os.Exit(1)
	}
	if err := boot(started); err != nil {
		say(err.Error())
	}
	powerOff()
}

// say prints a line on the guest's console.
func say(line string) { fmt.Fprintf(os.Stderr, "hull: %s\n", line) }

// boot does what the kernel command line asks for, until the guest is to power off.
func boot(started int64) error {
	if err := mountTable(firstMounts()); err != nil {
		return err
	}
	raw, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return fmt.Errorf("reading the kernel command line: %w", err)
	}
	cmdline := ParseCommandLine(string(raw))
	loadModules(modulesDir, say)
	openConsole()
	// When memory runs out the container is to go, not its agent.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0)
	if err := os.MkdirAll(stateDir, 0o700); err != nil {
		return err
	}
	if cmdline.Mode == ModeRun {
		return serve(started)
	}
	return console(cmdline)
}

// serve serves the host. What only a container needs is made ready while the host
// answers.
func serve(started int64) error {
	ready := make(chan string, 1)
	go func() {
		root := ""
		if err := mountTable(laterMounts()); err != nil {
			say(err.Error())
		} else {
			root = delegateCgroups()
		}
		if err := loopbackUp(); err != nil {
			say(err.Error())
		}
		ready <- root
	}()
	a := agent.New(agent.Options{
		Transport: vsock{},
		Program:   "/proc/self/exe",
		Dir:       stateDir,
		Dev:       "/dev",
		Kernel:    kernelRelease(),
		Stages:    map[string]int64{"init": started},
		Network:   setUpNetwork,
		Share:     mountShare,
		Volume: func(disk, dir string, readOnly bool) error {
			return rootfs.MountVolume(disk, "/dev", dir, readOnly)
		},
		SetClock: setClock, AddEntropy: addEntropy,
		AdjustClock: adjustClock, Reseed: reseed, Readdress: readdress, EndConnections: endConnections, Reread: reread,
		Log: say,
		Prepare: func() string {
			root := <-ready
			ready <- root
			return root
		},
		Mount: func(cfg proto.RootFS, dir, dev string) (agent.Root, error) {
			r, err := rootfs.Mount(cfg, dir, dev)
			if err != nil {
				return nil, err
			}
			return r, nil
		},
	})
	return a.Run()
}

// reapUntil waits for children, ours and orphans, until pid has ended.
func reapUntil(pid int) unix.WaitStatus {
	for {
		var status unix.WaitStatus
		got, err := unix.Wait4(-1, &status, 0, nil)
		if got == pid {
			return status
		}
		if err != nil && err != unix.EINTR {
			return status
		}
	}
}
