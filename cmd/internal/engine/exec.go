package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/moby/term"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/guestinit/proto"
)

// Exec is a further command for a running container: the flags of `hull exec`.
type Exec struct {
	Args       []string
	Env        []string // as Config.Env; on top of the container's
	WorkingDir string   // "": the container's
	User       string   // "": the container's
	Terminal   bool
	Privileged bool // with all capabilities
	// Detach starts the command and does not wait for it. It has no streams.
	Detach bool
	// DetachKeys, typed at a terminal, leave the command alone. Empty: none do.
	DetachKeys []byte
}

// Exec runs a command in a running container, with a as its streams, and returns when it has ended. No process
// of this host answers for it but the caller: if that is killed the command goes on.
func (e *Engine) Exec(ctx context.Context, ref string, x Exec, a Attach) (Exit, error) {
	r, err := e.Get(ctx, ref)
	if err != nil {
		return Exit{}, err
	}
	process, err := execSpec(r, &x)
	if err != nil {
		return Exit{}, err
	}
	g, err := e.enter(ctx, r, proto.FeatureExec)
	if err != nil {
		return Exit{}, err
	}
	defer g.end()
	exit, err := g.exec(ctx, &x, process, a)
	var refused *proto.Error
	switch {
	case errors.As(err, &refused) && refused.Code == proto.CodeNoProcess:
		return Exit{}, fmt.Errorf("container %s %w", r.ID, ErrNotRunning)
	case errors.Is(err, ErrDetached):
		return Exit{}, nil
	case err != nil && ctx.Err() != nil:
		return Exit{}, context.Cause(ctx)
	case errors.As(err, &refused):
		return Exit{}, refused // says all by itself
	case errors.Is(err, proto.ErrClosed) && e.endsSoon(ctx, r.ID):
		return Exit{Code: signaled(unix.SIGKILL)}, nil // its VM has ended, and the command with it
	}
	return exit, err
}

// execSpec makes the OCI process of a command: the container's own with what was asked for.
func execSpec(r *Record, x *Exec) (*specs.Process, error) {
	spec, err := buildSpec(r)
	if err != nil {
		return nil, err
	}
	p := spec.Process
	p.Args, p.Terminal = x.Args, x.Terminal
	p.Env = environment(append(append([]string(nil), r.Config.Env...), x.Env...), r.ImageConfig.Env, r.Hostname(), x.Terminal)
	if x.WorkingDir != "" {
		if p.Cwd, err = workingDir(x.WorkingDir, ""); err != nil {
			return nil, err
		}
	}
	if x.User != "" {
		p.User.Username = x.User
	}
	if x.Privileged {
		all := allCapabilities()
		p.Capabilities = &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all}
	}
	return p, nil
}

// exec runs a command and passes its streams.
func (g *inside) exec(ctx context.Context, x *Exec, spec *specs.Process, a Attach) (Exit, error) {
	name := "exec-" + newID()
	if x.Detach {
		_, err := g.client.Exec(ctx, name, spec)
		if err == nil {
			g.emit("exec_start: "+strings.Join(x.Args, " "), nil)
		}
		return Exit{}, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stopRelay := g.followSize(ctx, cancel, name, a)
	defer stopRelay()
	if x.Terminal {
		if a.Terminal != nil {
			if rows, cols, err := terminalSize(a.Terminal); err == nil {
				spec.ConsoleSize = &specs.Box{Height: uint(rows), Width: uint(cols)}
			}
		}
		if isTerminal(a.Stdin) {
			restore, err := makeRaw(a.Stdin)
			if err != nil {
				return Exit{}, err
			}
			defer restore()
		}
		if a.Stdin != nil && len(x.DetachKeys) > 0 {
			keys, err := watchKeys(a.Stdin, x.DetachKeys, func() { cancel(ErrDetached) })
			if err != nil {
				return Exit{}, err
			}
			defer keys.close()
			a.Stdin = keys.out
		}
	}
	exit, err := g.execStreams(ctx, name, spec, a)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if errors.Is(err, ErrDetached) {
		g.emit("exec_detach", nil)
	}
	return exit, err
}

func (g *inside) execStreams(ctx context.Context, name string, spec *specs.Process, a Attach) (Exit, error) {
	pumps, err := connect(ctx, g.socket, name, spec.Terminal, &a)
	if err != nil {
		return Exit{}, err
	}
	defer pumps.close()
	process, err := g.client.Exec(ctx, name, spec, a.names(spec.Terminal)...)
	if err != nil {
		return Exit{}, err
	}
	g.emit("exec_start: "+strings.Join(spec.Args, " "), nil)
	if spec.Terminal {
		_ = resize(ctx, g.client, name, a.Terminal) // it may have changed since it was asked for
	}
	ended, err := process.Wait(ctx)
	if err != nil {
		return Exit{}, err
	}
	exit := Exit{Code: ended.Code(), OOMKilled: ended.OOMKilled}
	g.emit("exec_die", map[string]string{"exitCode": strconv.Itoa(exit.Code)})
	if err := pumps.drain(ctx); err != nil {
		return exit, err
	}
	return exit, pumps.failure()
}

// followSize passes new sizes of the terminal on. Other signals are this process's own, as with docker: they end it, and the
// command goes on.
func (g *inside) followSize(ctx context.Context, cancel context.CancelCauseFunc, name string, a Attach) (stop func()) {
	end := interrupt(cancel)
	passOn := forward(ctx, g.client, name, a.Terminal)
	relay := startRelay(ctx, a.Signals, func(s unix.Signal) {
		if s == unix.SIGWINCH {
			passOn(s)
			return
		}
		end(s)
	})
	return func() {
		cancel(nil)
		relay.wait()
	}
}

// keyWatch passes on what is typed, but for the keys to detach.
type keyWatch struct {
	out  *os.File // a pipe, in place of what is watched
	in   *input
	done chan struct{}
}

// watchKeys begins to read f and calls detach, once, when the keys were typed.
func watchKeys(f *os.File, keys []byte, detach func()) (*keyWatch, error) {
	in, err := newInput(f)
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		in.Close()
		return nil, fmt.Errorf("preparing to read %s: %w", f.Name(), err)
	}
	k := &keyWatch{out: r, in: in, done: make(chan struct{})}
	go func() {
		defer close(k.done)
		defer w.Close()
		_, err := io.Copy(struct{ io.Writer }{w}, term.NewEscapeProxy(in, keys))
		if _, ok := errors.AsType[term.EscapeError](err); ok {
			detach()
		}
	}()
	return k, nil
}

func (k *keyWatch) close() {
	k.in.Cancel()
	k.out.Close()
	<-k.done
	k.in.Close()
}
