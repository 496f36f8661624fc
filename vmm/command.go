package vmm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Control is this end of a VM process's control stream: an *os.File or a *net.UnixConn.
type Control interface {
	io.Writer
	syscall.Conn
}

// Send writes the command to a control stream, with the files that it is about. They stay the caller's.
func (c Command) Send(to Control, files ...*os.File) error {
	line, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("command %s: %w", c.Command, err)
	}
	line = append(line, '\n')
	if len(files) > 0 {
		n, err := sendFiles(to, line, files)
		if err != nil {
			return fmt.Errorf("command %s: %w", c.Command, err)
		}
		line = line[n:]
	}
	if len(line) > 0 {
		if _, err := to.Write(line); err != nil {
			return fmt.Errorf("command %s: %w", c.Command, err)
		}
	}
	return nil
}

// sendFiles writes some of p, and all files with the first byte of it.
func sendFiles(to Control, p []byte, files []*os.File) (n int, err error) {
	raw, err := to.SyscallConn()
	if err != nil {
		return 0, err
	}
	fds := make([]int, len(files))
	for i, f := range files {
		fds[i] = int(f.Fd())
	}
	rights := unix.UnixRights(fds...)
	writeErr := raw.Write(func(fd uintptr) bool {
		for {
			n, err = unix.SendmsgN(int(fd), p, rights, nil, unix.MSG_NOSIGNAL)
			if err != unix.EINTR {
				return err != unix.EAGAIN
			}
		}
	})
	return n, errors.Join(writeErr, err)
}
