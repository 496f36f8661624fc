package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/guestinit/proto"
)

// Descriptors that a supervisor process begins with, besides its standard streams.
const (
	fdLock  = 3 // the container's lock, held
	fdOwner = 4 // the stream to whoever starts the container
)

// supervisorLog is the file in a container's directory that takes what its supervisor process has to say, which is little:
// a crash of its own.
const supervisorLog = "supervisor.log"

// ownerMessage is what a supervisor process and its owner, who has started it, tell one another: frames of package proto.
type ownerMessage struct {
	// Of the owner:
	Start  *startRequest `json:"start,omitempty"`  // the first
	Go     bool          `json:"go,omitempty"`     // the owner is attached: the workload may start
	Detach bool          `json:"detach,omitempty"` // the container is to go on without the owner

	// Of the supervisor:
	Ready   bool     `json:"ready,omitempty"`   // requests are taken
	Started bool     `json:"started,omitempty"` // the workload runs
	Note    string   `json:"note,omitempty"`    // the user must know
	Error   *Failure `json:"error,omitempty"`   // the container has failed; the last
	Exit    *Exit    `json:"exit,omitempty"`    // its first life has ended, and it has been let go if it was the last; the last
}

// startRequest is how a container is to be started.
type startRequest struct {
	// Attach has the workload wait until the owner is attached.
	Attach     bool   `json:"attach,omitempty"`
	Rows, Cols uint16 `json:",omitempty"` // of the owner's terminal, if there is one
	// Bound ends the container when its owner is gone without having detached.
	Bound bool `json:"bound,omitempty"`
}

// Supervise is the whole life of a supervisor process: it takes over the container with the ID from the process that
// has started it, and returns when it has let go of it.
func (e *Engine) Supervise(ctx context.Context, id string) error {
	for _, fd := range []int{fdLock, fdOwner} {
		unix.CloseOnExec(fd)
	}
	lock := &lockFile{os.NewFile(fdLock, "lock")}
	file := os.NewFile(fdOwner, "owner")
	conn, err := net.FileConn(file)
	file.Close()
	if err != nil {
		lock.Close()
		return fmt.Errorf("supervisor: descriptor %d is no connection to whoever starts the container: %w", fdOwner, err)
	}
	o := &owner{conn: conn, attached: make(chan struct{}), gone: make(chan struct{})}
	defer o.close()
	var first ownerMessage
	if err := proto.ReadFrame(conn, &first); err != nil || first.Start == nil {
		lock.Close()
		return fmt.Errorf("supervisor: nobody says how to start container %s: %w", ShortID(id), err)
	}
	o.want = *first.Start
	exit, err := e.superviseHeld(ctx, id, lock, o)
	if err != nil {
		o.tell(ownerMessage{Error: failure(err)})
		return err
	}
	o.tell(ownerMessage{Exit: &exit})
	return nil
}

// superviseHeld runs the container whose lock is held.
func (e *Engine) superviseHeld(ctx context.Context, id string, lock *lockFile, o *owner) (exit Exit, err error) {
	c, err := e.adopt(ctx, id, lock)
	if err != nil {
		lock.Close()
		return Exit{}, err
	}
	defer func() {
		if releaseErr := c.Release(context.WithoutCancel(ctx)); err == nil {
			err = releaseErr
		}
	}()
	s, err := c.supervise()
	if err != nil {
		return Exit{}, errors.Join(err, c.save(func(st *State) { st.end(Exit{}, false, err) }))
	}
	defer s.close()
	s.alone = true
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go o.listen(cancel)
	defer endWithHost(s)()
	o.tell(ownerMessage{Ready: true})
	a := Attach{
		rows: o.want.Rows, cols: o.want.Cols,
		Note:    func(text string) { o.tell(ownerMessage{Note: text}) },
		started: func() { o.tell(ownerMessage{Started: true}) },
	}
	if o.want.Attach {
		a.ready = o.attached
	}
	if !c.latest().Config.Restart.None() { // the owner is served by the first life
		go func() {
			if exit, err := s.wait(s.ctx, true); err == nil && exit != nil {
				o.tell(ownerMessage{Exit: exit})
			}
		}()
	}
	return s.run(ctx, a, nil)
}

// adopt makes this process the one that answers for a container.
func (e *Engine) adopt(ctx context.Context, id string, lock *lockFile) (*Container, error) {
	r, err := e.store.load(id)
	if err != nil {
		return nil, err
	}
	image, unhold, err := e.acquire(ctx, r.ImageID)
	if err != nil {
		return nil, fmt.Errorf("container %s: %w", r.Name, err)
	}
	c := e.hold(r, lock)
	c.disks, c.unhold = image.Disks, unhold
	self, err := ProcessOf(os.Getpid())
	if err == nil {
		err = c.save(func(s *State) {
			s.Status, s.Supervisor = StatusStarting, self
			s.Health, s.RestartCount, s.StoppedByUser = nil, 0, false
		})
	}
	if err != nil {
		unhold()
		return nil, fmt.Errorf("taking over container %s: %w", r.Name, err)
	}
	return c, nil
}

// endWithHost ends the container in order when this process is asked to end, as when the host goes down: its restart
// policy will start it again.
func endWithHost(s *supervisor) (stop func()) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT)
	signal.Ignore(unix.SIGHUP, unix.SIGPIPE)
	go func() {
		select {
		case <-signals:
			_ = s.endLife(s.ctx, 0, s.latest().stopTimeout())
		case <-s.ctx.Done():
		}
	}()
	return func() { signal.Stop(signals) }
}

// owner is whoever has started the container, seen from its supervisor.
type owner struct {
	want     startRequest
	attached chan struct{} // closed when it is attached
	gone     chan struct{} // closed when it says nothing more

	mu   sync.Mutex
	conn net.Conn
	last bool // it has been told the end
}

// errOwnerGone is why a container ends whose owner was killed.
var errOwnerGone = errors.New("the hull process in whose foreground the container ran is gone")

// listen takes what the owner says, to its end.
func (o *owner) listen(cancel context.CancelCauseFunc) {
	defer close(o.gone)
	detached, attached := false, false
	for {
		var m ownerMessage
		if err := proto.ReadFrame(o.conn, &m); err != nil {
			break
		}
		if m.Go && !attached {
			attached = true
			close(o.attached)
		}
		detached = detached || m.Detach
	}
	if o.want.Bound && !detached {
		cancel(errOwnerGone)
	}
}

// tell tells the owner something. If it is gone nobody needs to know.
func (o *owner) tell(m ownerMessage) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.last {
		return
	}
	o.last = m.Exit != nil || m.Error != nil
	_ = proto.WriteFrame(o.conn, m)
}

func (o *owner) close() { o.conn.Close() }

// handOver starts a process that supervises the container, which is not this process's any more.
func (c *Container) handOver(want startRequest) (_ *net.UnixConn, err error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		return nil, fmt.Errorf("connecting to the supervisor: %w", err)
	}
	defer func() {
		if err != nil {
			conn.Close()
		}
	}()
	logFile, err := os.Create(filepath.Join(c.dir(), supervisorLog))
	if err != nil {
		return nil, fmt.Errorf("starting the supervisor: %w", err)
	}
	defer logFile.Close()
	line := append(append([]string(nil), c.engine.supervisor...), c.id)
	cmd := exec.Command(line[0], line[1:]...)
	if cmd.Path == thisProgram {
		cmd.Args[0] = "hull" // as ps(1) shows it
	}
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.ExtraFiles = []*os.File{c.lock.file, theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // what happens to this terminal does not concern it
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the supervisor: %w", err)
	}
	_ = cmd.Process.Release()
	c.lock.Close() // the supervisor has it
	c.lock = nil
	c.unhold() // the record says that the image is in use
	if err := proto.WriteFrame(conn, ownerMessage{Start: &want}); err != nil {
		return nil, c.engine.supervisorFailed(c.id)
	}
	return conn.(*net.UnixConn), nil
}

// supervisorFailed says why a supervisor process ended without a word.
func (e *Engine) supervisorFailed(id string) error {
	said, _ := os.ReadFile(filepath.Join(e.store.dir(id), supervisorLog)) // it may have gone with the container
	text := strings.TrimSpace(string(said[:min(len(said), stderrTail)]))
	if text == "" {
		text = "it was killed"
	}
	return fmt.Errorf("the supervisor of container %s ended: %s", ShortID(id), text)
}

// StartOptions say how a container is started.
type StartOptions struct {
	// Attach connects the container to this process's streams until it ends or the user detaches; nil: it runs in
	// the background.
	Attach *Attach
	// Bound ends the container with this process, unless the user detaches.
	Bound bool
	// DetachKeys, typed in a terminal, detach.
	DetachKeys []byte
}

// Start starts a container that is held in a supervisor process of its own, which from then on holds it. Without Attach it
// returns when the workload runs; with it, like [Engine.Attach].
func (c *Container) Start(ctx context.Context, o StartOptions) (Exit, error) {
	want := startRequest{Attach: o.Attach != nil, Bound: o.Bound}
	if o.Attach != nil {
		want.Rows, want.Cols, _ = o.Attach.size()
	}
	e, id, terminal := c.engine, c.id, c.latest().Config.Terminal
	conn, err := c.handOver(want)
	if err != nil {
		return Exit{}, err
	}
	l := &launch{engine: e, id: id, conn: conn, options: o, terminal: terminal}
	defer conn.Close()
	return l.follow(ctx)
}

// launch is the start of a container in another process, seen from here.
type launch struct {
	engine   *Engine
	id       string
	conn     *net.UnixConn
	options  StartOptions
	terminal bool
}

// follow takes what the supervisor says.
func (l *launch) follow(ctx context.Context) (Exit, error) {
	stop := context.AfterFunc(ctx, func() { l.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	var session *session
	defer func() { session.close() }()
	var detached <-chan struct{}
	messages := make(chan ownerMessage)
	failed := make(chan error, 1)
	done := make(chan struct{})
	defer close(done)
	go func() {
		for {
			var m ownerMessage
			if err := proto.ReadFrame(l.conn, &m); err != nil {
				failed <- err
				return
			}
			select {
			case messages <- m:
			case <-done:
				return
			}
		}
	}()
	for {
		select {
		case m := <-messages:
			switch {
			case m.Note != "" && l.options.Attach != nil && l.options.Attach.Note != nil:
				l.options.Attach.Note(m.Note)
			case m.Ready && l.options.Attach != nil:
				var err error
				if session, err = l.engine.openSession(ctx, l.id, l.terminal, l.options.Attach, l.options.DetachKeys); err != nil {
					return Exit{}, err
				}
				detached = session.detached
				if err := proto.WriteFrame(l.conn, ownerMessage{Go: true}); err != nil {
					return Exit{}, l.engine.supervisorFailed(l.id)
				}
			case m.Started && l.options.Attach == nil:
				return Exit{}, nil
			case m.Error != nil:
				session.drain(ctx)
				return Exit{}, m.Error
			case m.Exit != nil:
				session.drain(ctx)
				return *m.Exit, session.failure()
			}
		case <-detached:
			return Exit{}, errors.Join(proto.WriteFrame(l.conn, ownerMessage{Detach: true}), ErrDetached)
		case err := <-failed:
			if ctx.Err() != nil {
				return Exit{}, context.Cause(ctx)
			}
			if !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) {
				return Exit{}, fmt.Errorf("hearing from the supervisor: %w", err)
			}
			return Exit{}, l.engine.supervisorFailed(l.id)
		}
	}
}
