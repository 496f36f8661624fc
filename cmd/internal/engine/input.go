package engine

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// input reads a file such as the standard input so that a read can be given up.
// The file stays as it is: making it non-blocking would do so for everybody who
// shares it, the user's shell for one. It therefore waits with poll(2) for the
// file or for cancel, and takes nothing that it was not asked for.
type input struct {
	file   *os.File
	cancel *os.File // the reading end of a pipe; readable once canceled
	wake   *os.File // its other end
	once   sync.Once
}

// errCanceled is what a read returns after cancel.
var errCanceled = errors.New("reading was given up")

func newInput(f *os.File) (*input, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("preparing to read %s: %w", f.Name(), err)
	}
	return &input{file: f, cancel: r, wake: w}, nil
}

// Cancel makes the read in progress, and all later ones, return errCanceled.
func (in *input) Cancel() { in.once.Do(func() { in.wake.Close() }) }

// Close releases what newInput made, but not the file. No read may be in progress.
func (in *input) Close() {
	in.Cancel()
	in.cancel.Close()
}

// Read reads from the file as soon as there is something.
func (in *input) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	fds := []unix.PollFd{
		{Fd: int32(in.cancel.Fd()), Events: unix.POLLIN},
		{Fd: int32(in.file.Fd()), Events: unix.POLLIN},
	}
	for {
		if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
			return 0, fmt.Errorf("waiting for %s: %w", in.file.Name(), err)
		}
		switch {
		case fds[0].Revents != 0:
			return 0, errCanceled
		case fds[1].Revents == 0:
			continue
		}
		n, err := unix.Read(int(in.file.Fd()), p)
		switch {
		case err == unix.EINTR || err == unix.EAGAIN:
			continue
		case err == unix.EIO:
			return 0, io.EOF // a terminal that was hung up
		case err != nil:
			return 0, fmt.Errorf("reading %s: %w", in.file.Name(), err)
		case n == 0:
			return 0, io.EOF
		}
		return n, nil
	}
}
