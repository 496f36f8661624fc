package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// commands reads the control stream, and keeps the files that come with it until the command that they are for takes them.
type commands struct {
	f     *os.File
	files []*os.File
}

// maxFiles is how many files one message may bring.
const maxFiles = 2

// Read implements io.Reader.
func (c *commands) Read(p []byte) (n int, err error) {
	raw, err := c.f.SyscallConn()
	if err != nil {
		return 0, err
	}
	oob := make([]byte, unix.CmsgSpace(4*maxFiles))
	var oobn int
	readErr := raw.Read(func(fd uintptr) bool {
		for {
			n, oobn, _, _, err = unix.Recvmsg(int(fd), p, oob, unix.MSG_CMSG_CLOEXEC)
			if err != unix.EINTR {
				return err != unix.EAGAIN
			}
		}
	})
	if err = errors.Join(readErr, err); err != nil {
		return 0, err
	}
	if oobn > 0 {
		if err := c.keep(oob[:oobn]); err != nil {
			return 0, err
		}
	}
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (c *commands) keep(oob []byte) error {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return fmt.Errorf("files on the control stream: %w", err)
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return fmt.Errorf("files on the control stream: %w", err)
		}
		for _, fd := range fds {
			c.files = append(c.files, os.NewFile(uintptr(fd), "from the control stream"))
		}
	}
	return nil
}

// take returns the next n files, which are the caller's.
func (c *commands) take(n int) ([]*os.File, error) {
	if c == nil || len(c.files) < n {
		return nil, fmt.Errorf("the command needs %d files with it", n)
	}
	files := c.files[:n]
	c.files = c.files[n:]
	return files, nil
}
