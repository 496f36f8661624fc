package inner

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/cmd/lab/internal/wire"
)

// run starts the request's command, feeds it what comes over the stream and sends
// back what it writes. It returns when the command has ended and all that it wrote is
// sent; a background process that holds the output open is not waited for.
func run(stream io.ReadWriter, request *wire.Request) wire.Exit {
	for _, c := range request.Copies {
		if err := copyIn(c); err != nil {
			return wire.Exit{Status: 125, Error: err.Error()}
		}
	}
	path, err := lookPath(request.Command[0], request.Environment)
	if err != nil {
		return failed(request.Command[0], err)
	}
	cmd := &exec.Cmd{
		Path: path,
		Args: request.Command,
		Env:  request.Environment,
		Dir:  request.Directory,
		// A session of its own: signals go to the whole of it, as from a terminal.
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if info, err := os.Stat(cmd.Dir); err != nil || !info.IsDir() {
		cmd.Dir = "/"
	}
	group, err := newGroup()
	if err != nil {
		return wire.Exit{Status: 125, Error: err.Error()}
	}
	defer group.remove()
	cmd.SysProcAttr.UseCgroupFD = true
	cmd.SysProcAttr.CgroupFD = int(group.dir.Fd())

	var std stdio
	if request.Terminal != nil {
		std, err = onTerminal(cmd, *request.Terminal)
	} else {
		std, err = onPipes(cmd)
	}
	if err != nil {
		return wire.Exit{Status: 125, Error: err.Error()}
	}
	defer std.close()
	err = cmd.Start()
	std.started()
	if err != nil {
		return failed(request.Command[0], err)
	}

	var out sync.WaitGroup
	for _, o := range std.outputs {
		out.Go(func() { pump(o.file, stream, o.kind) })
	}
	var over atomic.Bool
	defer over.Store(true)
	// Ends with the stream, which outlives this function.
	go func() {
		feed(stream, cmd.Process, std)
		if !over.Load() {
			group.kill() // whoever asked for the command is gone
		}
	}()
	err = cmd.Wait()
	for _, o := range std.outputs {
		// What the command wrote before it ended is in the pipe already.
		stopAtEmpty(o.file)
	}
	out.Wait()
	return ended(cmd, err)
}

// failed turns an error of starting a command into a shell's status.
func failed(name string, err error) wire.Exit {
	status := 126
	if errors.Is(err, fs.ErrNotExist) {
		status = 127
	}
	var pathError *fs.PathError
	if errors.As(err, &pathError) {
		err = pathError.Err
	}
	return wire.Exit{Status: status, Error: fmt.Sprintf("%s: %v", name, err)}
}

func ended(cmd *exec.Cmd, err error) wire.Exit {
	if cmd.ProcessState == nil {
		return wire.Exit{Status: 125, Error: fmt.Sprintf("waiting for %s: %v", cmd.Args[0], err)}
	}
	status := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return wire.Exit{Status: 128 + int(status.Signal())}
	}
	return wire.Exit{Status: status.ExitStatus()}
}

// lookPath finds a program as execvp would with the PATH of environment.
func lookPath(name string, environment []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	path := "/usr/local/bin:/usr/bin:/bin"
	for _, e := range environment {
		if value, ok := strings.CutPrefix(e, "PATH="); ok {
			path = value
		}
	}
	var denied error
	for _, dir := range filepath.SplitList(path) {
		if dir == "" {
			dir = "."
		}
		candidate := dir + "/" + name
		info, err := os.Stat(candidate)
		if err != nil || info.IsDir() {
			continue
		}
		if info.Mode()&0o111 == 0 {
			denied = fs.ErrPermission
			continue
		}
		return candidate, nil
	}
	if denied != nil {
		return "", denied
	}
	return "", fmt.Errorf("%w in PATH", fs.ErrNotExist)
}

// feed passes the host's frames to the command until the host closes the stream.
func feed(stream io.Reader, process *os.Process, std stdio) {
	for {
		kind, payload, err := wire.Read(stream)
		if err != nil {
			std.closeInput()
			return
		}
		switch kind {
		case wire.KindInput:
			// A command that does not read its input any more does not mind.
			if _, err := std.input.Write(payload); err != nil {
				std.closeInput()
			}
		case wire.KindInputEnd:
			std.closeInput()
		case wire.KindResize:
			if size, err := readSize(payload); err == nil && std.terminal != nil {
				_ = pty.Setsize(std.terminal, size)
			}
		case wire.KindSignal:
			if len(payload) == 1 {
				_ = unix.Kill(-process.Pid, syscall.Signal(payload[0]))
			}
		}
	}
}

// copyIn copies a file or tree of the host to its place in the machine, with all attributes.
func copyIn(c wire.Copy) error {
	if !filepath.IsAbs(c.Source) || !filepath.IsAbs(c.Destination) {
		return fmt.Errorf("copying %s to %s: both must be absolute", c.Source, c.Destination)
	}
	if err := os.MkdirAll(filepath.Dir(c.Destination), 0o755); err != nil {
		return fmt.Errorf("copying %s to %s: %w", c.Source, c.Destination, err)
	}
	out, err := exec.Command("cp", "-a", "-T", "--", HostTree+filepath.Clean(c.Source), c.Destination).CombinedOutput()
	if err != nil {
		return fmt.Errorf("copying %s to %s: %w: %s", c.Source, c.Destination, err, strings.TrimSpace(string(out)))
	}
	return nil
}
