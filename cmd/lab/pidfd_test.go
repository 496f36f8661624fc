package main

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

func syscallPidfd(pid int) (int, error) { return unix.PidfdOpen(pid, 0) }

// waitPidfd waits for a process to end, at most so many milliseconds, and closes fd.
func waitPidfd(fd, timeout int) error {
	defer unix.Close(fd)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, timeout)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		case n == 0:
			return fmt.Errorf("still there after %d ms", timeout)
		default:
			return nil
		}
	}
}
