package api

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// openOutput opens a file or a named pipe for what is written line by line. A pipe that nobody reads is opened as well.
func openOutput(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE|unix.O_NONBLOCK, 0o600)
}

// output takes whole lines and never waits: what a full pipe has no room for is lost. Its zero value drops all.
type output struct {
	mu   sync.Mutex
	f    *os.File
	lost uint64 // lines
}

// open makes a file the output, in place of the one before.
func (o *output) open(path string) error {
	f, err := openOutput(path)
	if err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.f != nil {
		o.f.Close()
	}
	o.f = f
	return nil
}

func (o *output) write(line []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.f == nil {
		return nil
	}
	conn, err := o.f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	// Not through the file's own Write, which would wait until there is room.
	err = conn.Control(func(fd uintptr) {
		var n int
		if n, failed = unix.Write(int(fd), line); failed == nil && n < len(line) {
			failed = unix.EAGAIN
		}
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		o.lost++
	}
	return err
}

func (o *output) close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.f == nil {
		return nil
	}
	err := o.f.Close()
	o.f = nil
	return err
}

// missed is how many lines were lost.
func (o *output) missed() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.lost
}
