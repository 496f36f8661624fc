package inner

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/cmd/lab/internal/wire"
)

// output is one file that the command writes to, and the frames its bytes go in.
type output struct {
	file *os.File
	kind wire.Kind
}

// stdio is this side of a command's stdin, stdout and stderr.
type stdio struct {
	input    *os.File // a pipe, or the terminal
	terminal *os.File // nil with pipes
	outputs  []output
	theirs   []*os.File // the command's ends, closed here once it has started
}

// onPipes gives cmd three pipes.
func onPipes(cmd *exec.Cmd) (stdio, error) {
	var s stdio
	for i, kind := range []wire.Kind{wire.KindInput, wire.KindOutput, wire.KindErrors} {
		r, w, err := os.Pipe()
		if err != nil {
			s.started()
			s.close()
			return stdio{}, err
		}
		switch i {
		case 0:
			cmd.Stdin, s.input = r, w
			s.theirs = append(s.theirs, r)
		case 1:
			cmd.Stdout = w
		case 2:
			cmd.Stderr = w
		}
		if i > 0 {
			s.outputs = append(s.outputs, output{r, kind})
			s.theirs = append(s.theirs, w)
		}
	}
	return s, nil
}

// onTerminal makes cmd the leader of a session on a new terminal.
func onTerminal(cmd *exec.Cmd, size wire.Size) (stdio, error) {
	master, slave, err := pty.Open()
	if err != nil {
		return stdio{}, err
	}
	if err := pty.Setsize(master, &pty.Winsize{Rows: size.Rows, Cols: size.Cols}); err != nil {
		master.Close()
		slave.Close()
		return stdio{}, err
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr.Setctty = true
	return stdio{
		input:    master,
		terminal: master,
		outputs:  []output{{master, wire.KindOutput}},
		theirs:   []*os.File{slave},
	}, nil
}

// started closes what only the command needs.
func (s *stdio) started() {
	for _, f := range s.theirs {
		f.Close()
	}
}

func (s *stdio) close() {
	if s.input != nil {
		s.input.Close()
	}
	for _, o := range s.outputs {
		o.file.Close()
	}
}

// closeInput is the end of a pipe; a terminal has none.
func (s *stdio) closeInput() {
	if s.terminal == nil {
		s.input.Close()
	}
}

func readSize(payload []byte) (*pty.Winsize, error) {
	var size wire.Size
	if err := json.Unmarshal(payload, &size); err != nil {
		return nil, err
	}
	return &pty.Winsize{Rows: size.Rows, Cols: size.Cols}, nil
}

// pump sends what can be read from file until its end, an error, or, after
// stopAtEmpty, until nothing is there to be read at once.
func pump(file *os.File, to io.Writer, kind wire.Kind) {
	buffer := make([]byte, wire.Chunk)
	for {
		n, err := file.Read(buffer)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			n, err = readNow(file, buffer)
		}
		if n > 0 && wire.Write(to, kind, buffer[:n]) != nil {
			return
		}
		if err != nil || n <= 0 {
			return
		}
	}
}

// stopAtEmpty makes file's pump read what is there and then end.
func stopAtEmpty(file *os.File) {
	_ = file.SetReadDeadline(time.Unix(1, 0))
}

// readNow reads without waiting.
func readNow(file *os.File, buffer []byte) (int, error) {
	if err := file.SetReadDeadline(time.Time{}); err != nil {
		return 0, err
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return 0, err
	}
	n := 0
	var readErr error
	err = raw.Read(func(fd uintptr) bool {
		for {
			if n, readErr = unix.Read(int(fd), buffer); readErr != syscall.EINTR {
				return true
			}
		}
	})
	stopAtEmpty(file)
	return max(n, 0), errors.Join(err, readErr)
}
