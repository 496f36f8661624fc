package engine

import (
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// makeRaw puts a terminal into raw mode and returns what undoes that; calling it
// again does nothing.
func makeRaw(f *os.File) (restore func(), err error) {
	fd := int(f.Fd())
	state, err := term.MakeRaw(fd)
	if err != nil {
		return nil, fmt.Errorf("making the terminal raw: %w", err)
	}
	return sync.OnceFunc(func() { _ = term.Restore(fd, state) }), nil
}

// terminalSize asks a terminal for its size in characters.
func terminalSize(f *os.File) (rows, cols uint16, err error) {
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0, 0, fmt.Errorf("asking the terminal for its size: %w", err)
	}
	return size.Row, size.Col, nil
}

// isTerminal tells whether f is a terminal.
func isTerminal(f *os.File) bool { return f != nil && term.IsTerminal(int(f.Fd())) }
