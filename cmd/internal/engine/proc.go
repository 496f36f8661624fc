package engine

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// ProcessRef names a process for good: a PID is used again, a PID with the time
// at which the process started is not.
type ProcessRef struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks after boot, field 22 of /proc/PID/stat
}

// ProcessOf names the process that has this PID now.
func ProcessOf(pid int) (ProcessRef, error) {
	start, err := startTime(pid)
	if err != nil {
		return ProcessRef{}, err
	}
	return ProcessRef{PID: pid, Start: start}, nil
}

// startTime reads when a process started, in clock ticks after boot.
func startTime(pid int) (uint64, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	return parseStartTime(data)
}

// parseStartTime takes field 22 out of a stat line, proc(5). The second field is
// the program's name in parentheses, in which anything may stand.
func parseStartTime(stat []byte) (uint64, error) {
	const afterName = 22 - 3 // index of starttime in the fields after the name
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) <= afterName {
		return 0, fmt.Errorf("process status has %d fields after the name, want more than %d", len(fields), afterName)
	}
	return strconv.ParseUint(string(fields[afterName]), 10, 64)
}

// Alive tells whether the process still exists; a zombie does not count. When that cannot be found out it does: what is
// taken for dead may be cleaned away.
func (p ProcessRef) Alive() bool {
	fd, err := p.open()
	if err != nil {
		return !errors.Is(err, unix.ESRCH)
	}
	defer unix.Close(fd)
	// A pidfd reads as ready when the process has ended, reaped or not.
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 0)
		if err == unix.EINTR { // a signal of Go's own scheduler is enough, even if there is nothing to wait for
			continue
		}
		return err != nil || n == 0
	}
}

// Kill sends a signal to the process if it still is the one that was meant, and
// tells whether it was.
func (p ProcessRef) Kill(signal unix.Signal) (bool, error) {
	fd, err := p.open()
	if errors.Is(err, unix.ESRCH) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, signal, nil, 0); err != nil {
		if errors.Is(err, unix.ESRCH) {
			return false, nil
		}
		return false, fmt.Errorf("sending %v to process %d: %w", unix.SignalName(signal), p.PID, err)
	}
	return true, nil
}

// open returns a pidfd, or ESRCH when there is no such process. From then on the PID cannot be given to another process
// unnoticed, so the start time is compared after it was opened.
func (p ProcessRef) open() (int, error) {
	if p.PID <= 1 {
		return -1, unix.ESRCH
	}
	fd, err := unix.PidfdOpen(p.PID, 0)
	switch {
	case err == unix.EINVAL: // the number is a thread's now
		return -1, unix.ESRCH
	case err != nil:
		return -1, err
	}
	start, err := startTime(p.PID)
	switch {
	case err == nil && start == p.Start:
		return fd, nil
	case err == nil || errors.Is(err, fs.ErrNotExist):
		err = unix.ESRCH
	}
	unix.Close(fd)
	return -1, err
}
