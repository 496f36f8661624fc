package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// account is the CPU time of each thread of a monitor.
type account map[string]thread

// thread is one thread of a process.
type thread struct {
	cpu  time.Duration
	vcpu bool // has run a guest
}

func readAccount(pid int) (account, error) {
	a := account{}
	dir := fmt.Sprintf("/proc/%d/task", pid)
	tasks, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, t := range tasks {
		th, err := readThread(filepath.Join(dir, t.Name()))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // ended just now
		}
		if err != nil {
			return nil, err
		}
		a[t.Name()] = th
	}
	return a, nil
}

// readThread reads /proc/PID/task/TID (proc_pid_schedstat(5), proc_pid_stat(5)).
func readThread(dir string) (thread, error) {
	text, err := os.ReadFile(filepath.Join(dir, "schedstat"))
	if err != nil {
		return thread{}, err
	}
	var t thread
	if _, err := fmt.Sscan(string(text), (*int64)(&t.cpu)); err != nil { // ns on a CPU
		return t, fmt.Errorf("%s/schedstat: %w", dir, err)
	}
	if text, err = os.ReadFile(filepath.Join(dir, "stat")); err != nil {
		return t, err
	}
	// The name, field 2, may have spaces; guest_time is field 43.
	_, rest, _ := strings.Cut(string(text[strings.LastIndexByte(string(text), ')'):]), " ")
	fields := strings.Fields(rest)
	if len(fields) < 43-2 {
		return t, fmt.Errorf("%s/stat: %d fields", dir, len(fields))
	}
	t.vcpu = fields[43-3] != "0"
	return t, nil
}

// cpuSince is the time that all threads but the vCPU's spent on a CPU.
func (a account) cpuSince(before account) time.Duration {
	var sum time.Duration
	for id, t := range a {
		if !t.vcpu {
			sum += t.cpu - before[id].cpu
		}
	}
	return sum
}
