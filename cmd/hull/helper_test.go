package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/cmd/internal/engine"
	"github.com/hullvm/hull/images/guestkernel"
)

// helperPrograms are the programs that scripts can run besides hull: just one,
// as each is a copy of this binary. Its first argument says which part it plays.
func helperPrograms() map[string]func() {
	return map[string]func(){"e2e": func() {
		parts := map[string]func([]string) error{
			"pty":        helperPTY,
			"registry":   helperRegistry,
			"layers":     helperLayers,
			"image":      helperImage,
			"rootfs":     helperRootFS,
			"smallfs":    helperSmallFS,
			"as":         helperAs,
			"kill":       helperKill,
			"cut":        helperCut,
			"listing":    helperListing,
			"pack":       helperPack,
			"push":       helperPush,
			"at":         helperAt,
			"script":     helperScript,
			"head":       helperHead,
			"left":       helperLeft,
			"lists":      helperLists,
			"sums":       helperSums,
			"vmlinux":    helperVmlinux,
			"memory":     helperMemory,
			"balloon":    helperBalloon,
			"entropy":    helperEntropy,
			"outside":    helperOutside,
			"serve":      helperServe,
			"tree":       helperTree,
			"numbered":   helperNumbered,
			"get":        helperGet,
			"names":      helperNames,
			"ask":        helperAsk,
			"crowd":      helperCrowd,
			"spray":      helperSpray,
			"port":       helperPort,
			"disk":       helperDisk,
			"echo":       helperEcho,
			"answer":     helperAnswer,
			"flood":      helperFlood,
			"stall":      helperStall,
			"call":       helperCall,
			"example":    helperExample,
			"registries": helperRegistries,
			"behind":     helperBehind,
			"initramfs":  helperInitramfs,
			"program":    helperProgram,
			"pace":       helperPace,
			"line":       helperLine,
			"stay":       helperStay,
			"clock":      helperClock,
			"guest":      helperGuest,
			"monitors":   helperMonitors,
		}
		if len(os.Args) < 2 || parts[os.Args[1]] == nil {
			fmt.Fprintln(os.Stderr, "e2e: no such part")
			os.Exit(2)
		}
		if err := parts[os.Args[1]](os.Args[2:]); err != nil {
			fmt.Fprintf(os.Stderr, "e2e %s: %v\n", os.Args[1], err)
			os.Exit(1)
		}
	}}
}

func signalOf(s *os.ProcessState) syscall.Signal {
	if status, ok := s.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return status.Signal()
	}
	return 0
}

// usage checks the number of arguments of a helper.
func usage(args []string, n int, text string) error {
	if len(args) < n {
		return fmt.Errorf("usage: e2e %s", text)
	}
	return nil
}

// helperSmallFS runs a command with a file system of some bytes at DIR, which is
// gone afterwards: smallfs BYTES DIR COMMAND...
func helperSmallFS(args []string) error {
	if err := usage(args, 3, "smallfs BYTES DIR COMMAND..."); err != nil {
		return err
	}
	if err := os.MkdirAll(args[1], 0o700); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", args[1], "tmpfs", 0, "mode=0700,size="+args[0]); err != nil {
		return fmt.Errorf("mounting a small file system: %w", err)
	}
	defer unix.Unmount(args[1], unix.MNT_DETACH)
	return runAs(nil, args[2:])
}

// helperAs runs a command as another user: as UID COMMAND...
func helperAs(args []string) error {
	if err := usage(args, 2, "as UID COMMAND..."); err != nil {
		return err
	}
	uid, err := strconv.ParseUint(args[0], 10, 32)
	if err != nil {
		return err
	}
	return exitAs(runAs(&syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}, args[1:]))
}

// runAs runs a command, as another user if there is one.
func runAs(user *syscall.Credential, args []string) error {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: user}
	return cmd.Run()
}

// helperKill sends SIGKILL to the VM process of a container, or to that and its supervisor: kill CIDFILE [all]
func helperKill(args []string) error {
	if err := usage(args, 1, "kill CIDFILE [all]"); err != nil {
		return err
	}
	id, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	vm := processLike(isVMProcess, engine.ShortID(string(id)))
	if vm == 0 {
		return fmt.Errorf("no VM process of container %s", id)
	}
	if len(args) > 1 {
		supervisor := processLike(isSupervisor, string(id))
		if supervisor == 0 {
			return fmt.Errorf("no supervisor of container %s", id)
		}
		// Neither is to see the end of the other.
		for _, pid := range []int{vm, supervisor} {
			if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
				return err
			}
		}
		if err := unix.Kill(supervisor, unix.SIGKILL); err != nil {
			return err
		}
	}
	return unix.Kill(vm, unix.SIGKILL)
}

// vmProcess finds the VM process of a container; 0 if there is none.
func vmProcess(id string) int { return processLike(isVMProcess, id) }

// processLike finds the process whose command line is that of a part of a container; 0 if there is none.
func processLike(is func(cmdline, id string) bool, id string) int {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if line, err := os.ReadFile("/proc/" + e.Name() + "/cmdline"); err == nil && is(string(line), id) {
			return pid
		}
	}
	return 0
}

// isSupervisor tells whether a command line, as /proc has it, is that of the supervisor process of a container.
func isSupervisor(cmdline, id string) bool {
	args := strings.Split(strings.TrimSuffix(cmdline, "\x00"), "\x00")
	return len(args) == 3 && filepath.Base(args[0]) == "hull" && args[1] == "supervise" && args[2] == id
}

// isVMProcess tells whether a command line, as /proc has it, is that of the VM
// process of a container.
func isVMProcess(cmdline, id string) bool {
	args := strings.Split(strings.TrimSuffix(cmdline, "\x00"), "\x00")
	return len(args) == 2 && filepath.Base(args[0]) == "hull-vmm" && args[1] == id
}

// helperCut writes the first part of a file: cut IN OUT BYTES, or with a
// negative number all but the last bytes.
func helperCut(args []string) error {
	if err := usage(args, 3, "cut IN OUT BYTES"); err != nil {
		return err
	}
	data, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	if n < 0 {
		n = len(data) + n
	}
	return os.WriteFile(args[1], data[:min(max(n, 0), len(data))], 0o600)
}

// helperAt runs a command in whose arguments "@" stands for the first line of a
// file, such as a registry's address: at FILE COMMAND...
func helperAt(args []string) error {
	if err := usage(args, 2, "at FILE COMMAND..."); err != nil {
		return err
	}
	address, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	line, _, _ := strings.Cut(string(address), "\n")
	command := args[1:]
	for i := range command {
		command[i] = strings.ReplaceAll(command[i], "@", line)
	}
	return exitAs(runAs(nil, command))
}

// exitAs ends this process with the exit status of a command that failed.
func exitAs(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() > 0 {
		os.Exit(exit.ExitCode())
	}
	return err
}

// helperScript runs the commands in a file, one a line, and says how those that
// fail end; there is no shell in the lab: script FILE
func helperScript(args []string) error {
	if err := usage(args, 1, "script FILE"); err != nil {
		return err
	}
	lines, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(lines)) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		if err := runAs(nil, words); err != nil {
			fmt.Printf("%s: %v\n", words[0], err)
		}
	}
	return nil
}

// helperHead shows the first lines of a command's output and then reads no more:
// head LINES COMMAND...
func helperHead(args []string) error {
	if err := usage(args, 2, "head LINES COMMAND..."); err != nil {
		return err
	}
	lines, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	cmd := exec.Command(args[1], args[2:]...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	in := bufio.NewScanner(out)
	for range lines {
		if !in.Scan() {
			break
		}
		fmt.Println(in.Text())
	}
	out.Close()
	err = cmd.Wait()
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.ExitStatus() == 128+int(unix.SIGPIPE) {
		return nil
	}
	return err
}

// helperLeft fails if something is left of containers.
func helperLeft(args []string) error { return leftBehind(filepath.Dir(os.Getenv("HULL_DATA_DIR"))) }

// helperLists fails unless a command's output has the text: lists TEXT COMMAND...
func helperLists(args []string) error {
	if err := usage(args, 2, "lists TEXT COMMAND..."); err != nil {
		return err
	}
	out, err := exec.Command(args[1], args[2:]...).Output()
	if err == nil && !bytes.Contains(out, []byte(args[0])) {
		err = fmt.Errorf("no %q in:\n%s", args[0], out)
	}
	return err
}

// helperSums writes the SHA-256 of all images' disks into a file: sums OUT
func helperSums(args []string) error {
	if err := usage(args, 1, "sums OUT"); err != nil {
		return err
	}
	disks, err := filepath.Glob(filepath.Join(os.Getenv("HULL_DATA_DIR"), "layers", "*.ext4"))
	if err != nil {
		return err
	}
	var list strings.Builder
	for _, disk := range disks {
		f, err := os.Open(disk)
		if err != nil {
			return err
		}
		hash := sha256.New()
		_, err = io.Copy(hash, f)
		f.Close()
		if err != nil {
			return err
		}
		fmt.Fprintf(&list, "%x %s\n", hash.Sum(nil), filepath.Base(disk))
	}
	return os.WriteFile(args[0], []byte(list.String()), 0o600)
}

// helperVmlinux unpacks the ELF kernel inside a bzImage: vmlinux BZIMAGE OUT
func helperVmlinux(args []string) error {
	if err := usage(args, 2, "vmlinux BZIMAGE OUT"); err != nil {
		return err
	}
	f, err := os.Open(args[0])
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	elf, err := guestkernel.Vmlinux(f, info.Size())
	if err != nil {
		return err
	}
	return os.WriteFile(args[1], elf, 0o600)
}

// helperMemory fails unless the VM process of a container has had so many MiB of memory at some time, and has no more than
// so many now: memory CIDFILE PEAK NOW
func helperMemory(args []string) error {
	if err := usage(args, 3, "memory CIDFILE PEAK NOW"); err != nil {
		return err
	}
	id, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", vmProcess(engine.ShortID(string(id)))))
	if err != nil {
		return err
	}
	mib := func(field string) (n int) {
		_, rest, _ := strings.Cut(string(status), "\n"+field+":")
		fmt.Sscanf(rest, "%d kB", &n)
		return n >> 10
	}
	peak, err1 := strconv.Atoi(args[1])
	most, err2 := strconv.Atoi(args[2])
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	if mib("VmHWM") < peak || mib("VmRSS") > most {
		return fmt.Errorf("%d MiB, at its peak %d; want at most %d, and %d at its peak", mib("VmRSS"), mib("VmHWM"), most, peak)
	}
	return nil
}
