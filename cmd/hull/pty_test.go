package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/creack/pty"
)

// helperPTY runs a command on a terminal and plays a user at it:
//
//	pty SCRIPT COMMAND...
//
// A line of the file SCRIPT is one of
//
//	expect TEXT      wait until the terminal shows this text, after what was expected before
//	send TEXT        type
//	resize ROWSxCOLS change the terminal's size
//	hangup           take the terminal away
//
// TEXT may be a quoted Go string. What the terminal shows goes to standard output; the exit status is the
// command's.
func helperPTY(args []string) error {
	if err := usage(args, 2, "pty SCRIPT COMMAND..."); err != nil {
		return err
	}
	script, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	cmd := exec.Command(args[1], args[2:]...)
	terminal, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 30, Cols: 100})
	if err != nil {
		return err
	}
	defer terminal.Close()
	show := newShow(terminal)
	for n, line := range strings.Split(strings.TrimSpace(string(script)), "\n") {
		if err := play(terminal, show, line); err != nil {
			cmd.Process.Kill()
			cmd.Wait()
			return fmt.Errorf("line %d, %q: %w; the terminal shows:\n%s", n+1, line, err, show)
		}
	}
	timer := time.AfterFunc(patience, func() { cmd.Process.Kill() })
	defer timer.Stop()
	err = cmd.Wait()
	<-show.ended
	fmt.Print(show)
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() >= 0 {
		os.Exit(exit.ExitCode())
	}
	return err
}

func play(terminal *os.File, show *show, line string) error {
	verb, text, _ := strings.Cut(strings.TrimSpace(line), " ")
	if strings.HasPrefix(text, `"`) {
		var err error
		if text, err = strconv.Unquote(text); err != nil {
			return err
		}
	}
	switch verb {
	case "expect":
		return show.expect(text)
	case "send":
		_, err := io.WriteString(terminal, text)
		return err
	case "resize":
		var size pty.Winsize
		if _, err := fmt.Sscanf(text, "%dx%d", &size.Rows, &size.Cols); err != nil {
			return err
		}
		return pty.Setsize(terminal, &size)
	case "hangup":
		return terminal.Close()
	}
	return fmt.Errorf("unknown verb %q", verb)
}

// show is what a terminal has shown.
type show struct {
	mu    sync.Mutex
	more  *sync.Cond
	text  bytes.Buffer
	seen  int           // how much of it was expected already
	ended chan struct{} // closed when no more will come
	over  bool
}

func newShow(terminal io.Reader) *show {
	s := &show{ended: make(chan struct{})}
	s.more = sync.NewCond(&s.mu)
	go func() {
		defer close(s.ended)
		buf := make([]byte, 4096)
		for {
			n, err := terminal.Read(buf)
			s.mu.Lock()
			s.text.Write(buf[:n])
			s.over = s.over || err != nil
			s.more.Broadcast()
			s.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return s
}

func (s *show) expect(text string) error {
	late := false
	timer := time.AfterFunc(patience, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		late = true
		s.more.Broadcast()
	})
	defer timer.Stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if at := bytes.Index(s.text.Bytes()[s.seen:], []byte(text)); at >= 0 {
			s.seen += at + len(text)
			return nil
		}
		switch {
		case late:
			return fmt.Errorf("not shown within %v", patience)
		case s.over:
			return errors.New("the command has ended")
		}
		s.more.Wait()
	}
}

func (s *show) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}
