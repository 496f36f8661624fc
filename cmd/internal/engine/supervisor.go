package engine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/cmd/internal/engine/logfile"
	"github.com/hullvm/hull/cmd/internal/engine/timeline"
	"github.com/hullvm/hull/guestinit/proto"
	"github.com/hullvm/hull/vmm"
)

// supervisor answers for a container that is alive: it runs the container's VM, again and again if the container is to
// be restarted, keeps its log, and carries out what other commands ask on its control socket. It is in the
// process of a command that runs a container in the foreground, or in a process of its own (see Supervise).
type supervisor struct {
	*Container
	ctx      context.Context // ends with the supervisor
	cancel   context.CancelFunc
	hub      *hub
	logFile  *logfile.Writer // nil: no log is kept
	log      vmLog
	listener *net.UnixListener
	alone    bool // this process has nothing else to do
	serving  sync.WaitGroup
	saving   sync.Mutex    // held while the container is being saved
	stopping chan struct{} // closed when there are to be no more lives
	over     chan struct{} // closed when the last life has ended

	mu      sync.Mutex
	life    *run // nil between two
	stopped bool // stopping is closed
	next    chan struct{}
	exit    *Exit // of the life that ended last; nil if there was none
}

// supervise makes a supervisor for a container that is held. close must be called.
func (c *Container) supervise() (_ *supervisor, err error) {
	s := &supervisor{Container: c, stopping: make(chan struct{}), over: make(chan struct{}), next: make(chan struct{})}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			s.cancel()
			s.closeLogs()
		}
	}()
	if err := c.engine.store.makeRunDir(c.id); err != nil {
		return nil, err
	}
	if s.log, err = c.openVMLog(); err != nil {
		return nil, err
	}
	var streams *logfile.Streams
	if options, kept := c.latest().Config.Log.options(); kept {
		if s.logFile, err = logfile.Open(c.logPath(), options); err != nil {
			return nil, err
		}
		streams = logfile.NewStreams(s.logFile)
	}
	s.hub = newHub(streams)
	path := filepath.Join(c.engine.store.runDir(c.id), controlName)
	if s.listener, err = net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"}); err != nil {
		return nil, fmt.Errorf("listening for requests: %w", err)
	}
	s.serving.Go(s.serve)
	return s, nil
}

func (s *supervisor) closeLogs() {
	s.log.close()
	if s.logFile != nil {
		s.logFile.Close()
	}
}

// answerPatience is how long those who wait for the container's end may take to hear of it.
const answerPatience = 5 * time.Second

// close ends the supervisor: everybody who waits is told.
func (s *supervisor) close() {
	close(s.over)
	s.listener.Close()
	late := time.AfterFunc(answerPatience, s.cancel)
	s.serving.Wait()
	late.Stop()
	s.cancel()
	s.closeLogs()
}

// run lives the container's lives, and returns how the last one ended.
func (s *supervisor) run(ctx context.Context, a Attach, line *timeline.Timeline) (Exit, error) {
	a.Note = s.noting(a.Note)
	delay, starts := restartFirst, 0
	for first := true; ; first = false {
		exit, ran, err := s.live(ctx, a, line)
		code := exit.Code
		if err != nil {
			code = ExitCode(err)
		}
		if ran && time.Since(s.latest().State.Started) >= restartSettle {
			delay, starts = restartFirst, 0
		}
		again := (ran || !first) && !s.isStopped() && ctx.Err() == nil && s.latest().Config.Restart.again(code, starts)
		if err != nil {
			s.log.failed(err, code)
		}
		lost, why := s.hub.lost()
		if lost > 0 && !again {
			a.Note(fmt.Sprintf("%d entries of the container's log could not be kept: %v", lost, why))
		}
		saveErr := s.save(func(st *State) {
			st.end(exit, ran, err)
			st.LogLost = lost
			if again {
				st.Status = StatusRestarting
			} else {
				st.Supervisor = ProcessRef{}
			}
		})
		s.lifeEnded(exit, ran)
		if err == nil {
			err = saveErr
		}
		if !again {
			return exit, err
		}
		s.log.Info("starting again", "after", delay.String(), "restart", starts+1)
		select {
		case <-time.After(delay):
		case <-s.stopping:
		case <-ctx.Done():
		}
		if s.isStopped() || ctx.Err() != nil {
			return exit, errors.Join(err, s.save(func(st *State) { st.Status, st.Supervisor = StatusExited, ProcessRef{} }))
		}
		delay = min(2*delay, restartMost)
		starts++
		if err := s.save(func(st *State) { st.Status, st.RestartCount = StatusStarting, st.RestartCount+1 }); err != nil {
			return exit, err
		}
	}
}

// noting is the function that is told what the user must know: the VM log has it as well.
func (s *supervisor) noting(tell func(string)) func(string) {
	return func(text string) {
		s.log.Warn(text)
		if tell != nil {
			tell(text)
		}
	}
}

// end notes how a life of the container ended, and that nothing of it is left.
func (s *State) end(exit Exit, ran bool, err error) {
	s.VM, s.Ports, s.Group = ProcessRef{}, nil, nil
	s.Finished = time.Now()
	s.ExitCode, s.OOMKilled, s.Error = exit.Code, exit.OOMKilled, ""
	s.Status = StatusCreated
	if ran {
		s.Status = StatusExited
	}
	if err != nil {
		s.Error = err.Error()
		s.ExitCode = ExitCode(err)
	}
}

// live runs the VM once; ran tells whether the workload was started.
func (s *supervisor) live(ctx context.Context, a Attach, line *timeline.Timeline) (exit Exit, ran bool, err error) {
	if s.latest().Config.OpenStdin && a.Stdin == nil { // for those who attach
		r, w, err := os.Pipe()
		if err != nil {
			return Exit{}, false, fmt.Errorf("making the container's input: %w", err)
		}
		defer r.Close()
		a.Stdin = r
		s.hub.begin(w)
	} else {
		s.hub.begin(nil)
	}
	defer s.hub.end()
	a.Stdout, a.Stderr = s.hub.writer(muxStdout, a.Stdout), s.hub.writer(muxStderr, a.Stderr)
	r := &run{Container: s.Container, record: s.latest(), attach: a, line: line, log: &s.log, alone: s.alone, ended: make(chan struct{}), onExit: s.hub.workloadEnded}
	s.mu.Lock()
	s.life = r
	s.mu.Unlock()
	exit, err = r.run(ctx)
	return exit, r.ran, err
}

// lifeEnded tells those who wait for the end of this life.
func (s *supervisor) lifeEnded(exit Exit, ran bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ran {
		s.exit = &exit
	}
	close(s.life.ended)
	s.life = nil
	close(s.next)
	s.next = make(chan struct{})
}

// current is the life that goes on, or nil.
func (s *supervisor) current() *run {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.life
}

// running is the life whose workload runs.
func (s *supervisor) running() (*run, error) {
	if r := s.current(); r != nil && r.agent() != nil {
		return r, nil
	}
	return nil, fmt.Errorf("container %s %w", s.id, ErrNotRunning)
}

func (s *supervisor) isStopped() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopped
}

// noMoreLives sees to it that the container is not started again.
func (s *supervisor) noMoreLives() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.stopped {
		s.stopped = true
		close(s.stopping)
	}
}

// wait waits for the end of the container, or of this life of it.
func (s *supervisor) wait(ctx context.Context, life bool) (*Exit, error) {
	s.mu.Lock()
	next := s.next
	s.mu.Unlock()
	if !life {
		next = nil
	}
	select {
	case <-next:
	case <-s.over:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.exit, nil
}

// signal sends a signal to the main process. One that stops containers stops this one for good.
func (s *supervisor) signal(ctx context.Context, signal unix.Signal) error {
	r, err := s.running()
	if err != nil {
		return err
	}
	if signal < 1 || signal > 64 {
		return fmt.Errorf("%w: %d", ErrSignal, int(signal))
	}
	if signal == unix.SIGKILL || signal == s.latest().stopSignal() {
		s.noMoreLives()
		if err := s.save(func(st *State) { st.StoppedByUser = true }); err != nil {
			return err
		}
		if err := s.thaw(ctx, r); err != nil { // else it would not take it
			return err
		}
	}
	client := r.agent()
	if client == nil {
		return fmt.Errorf("container %s %w", s.id, ErrNotRunning)
	}
	err = client.Signal(ctx, proto.InitProcess, int(signal))
	switch {
	case errors.Is(err, proto.ErrClosed):
		return nil // it was the workload's last: its end was quicker than the answer
	case notRunning(err):
		return fmt.Errorf("container %s %w", s.id, ErrNotRunning)
	}
	return err
}

func (s *supervisor) resize(ctx context.Context, rows, cols uint16) error {
	r, err := s.running()
	if err != nil {
		return err
	}
	client := r.agent()
	if client == nil {
		return fmt.Errorf("container %s %w", s.id, ErrNotRunning)
	}
	return client.Resize(ctx, proto.InitProcess, rows, cols)
}

// stop ends the container for good: with the signal, after the timeout with SIGKILL, and a VM that does not heed that by
// force. A negative timeout is
// none. Its restart policy starts it again with the host only if it was stopped with the host.
func (s *supervisor) stop(ctx context.Context, signal unix.Signal, timeout time.Duration, host bool) error {
	if !host {
		if err := s.save(func(st *State) { st.StoppedByUser = true }); err != nil {
			return err
		}
	}
	return s.endLife(ctx, signal, timeout)
}

// end ends the container for good and at once.
func (s *supervisor) end(ctx context.Context) error {
	s.noMoreLives()
	r := s.current()
	if r == nil {
		return nil
	}
	if vm := r.machine(); vm != nil {
		vm.kill()
	} else {
		r.cancel(errStopped)
	}
	return waitClosed(ctx, r.ended)
}

// errStopped is why a VM is ended that is not yet of any use.
var errStopped = errors.New("the container was stopped before it ran")

func (s *supervisor) endLife(ctx context.Context, signal unix.Signal, timeout time.Duration) error {
	s.noMoreLives()
	r := s.current()
	if r == nil {
		return nil
	}
	client := r.agent()
	if client == nil {
		r.cancel(errStopped)
		return waitClosed(ctx, r.ended)
	}
	if err := s.thaw(ctx, r); err != nil {
		return err
	}
	if signal == 0 {
		signal = s.latest().stopSignal()
	}
	for _, step := range []struct {
		signal  unix.Signal
		timeout time.Duration
	}{{signal, timeout}, {unix.SIGKILL, killPatience}} {
		if step.timeout == 0 {
			continue
		}
		bounded, cancel := context.WithTimeout(ctx, killPatience)
		err := client.Signal(bounded, proto.InitProcess, int(step.signal))
		cancel()
		if err != nil { // it has just ended, or the guest does not answer
			break
		}
		if waitFor(ctx, r.ended, step.timeout) {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	if waitFor(ctx, r.ended, goneSoon) {
		return nil
	}
	r.machine().kill()
	return waitClosed(ctx, r.ended)
}

// waitFor waits until c is closed, and tells whether it was in time. A negative time is for ever.
func waitFor(ctx context.Context, c <-chan struct{}, d time.Duration) bool {
	if d >= 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d)
		defer cancel()
	}
	return waitClosed(ctx, c) == nil
}

func waitClosed(ctx context.Context, c <-chan struct{}) error {
	select {
	case <-c:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Errors about pausing, in docker's words.
var (
	ErrPaused    = errors.New("is already paused")
	ErrNotPaused = errors.New("is not paused")
)

// pause stops the VM where it is.
func (s *supervisor) pause(ctx context.Context) error {
	r, err := s.running()
	if err != nil {
		return err
	}
	if s.latest().State.Status == StatusPaused {
		return fmt.Errorf("container %s %w", s.id, ErrPaused)
	}
	if err := r.command(ctx, vmm.Command{Command: vmm.CommandPause}); err != nil {
		return err
	}
	if err := s.save(func(st *State) { st.Status = StatusPaused }); err != nil {
		return err
	}
	s.emit("pause", nil)
	s.log.Info("paused")
	return nil
}

func (s *supervisor) unpause(ctx context.Context) error {
	r, err := s.running()
	if err != nil {
		return err
	}
	if s.latest().State.Status != StatusPaused {
		return fmt.Errorf("container %s %w", s.id, ErrNotPaused)
	}
	return s.thaw(ctx, r)
}

// thaw lets a VM go on that is paused.
func (s *supervisor) thaw(ctx context.Context, r *run) error {
	if s.latest().State.Status != StatusPaused {
		return nil
	}
	if err := r.command(ctx, vmm.Command{Command: vmm.CommandResume}); err != nil {
		return err
	}
	if err := s.save(func(st *State) { st.Status = StatusRunning }); err != nil {
		return err
	}
	s.emit("unpause", nil)
	s.log.Info("going on")
	return nil
}
