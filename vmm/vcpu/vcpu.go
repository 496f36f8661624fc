// Package vcpu runs virtual CPUs: one goroutine each, locked to an operating
// system thread for its whole life, that enters the guest, hands the guest's
// accesses to the buses, and stops where and when it is told to.
//
// A CPU is Paused, Running or Finished:
//
//	New ──▶ Paused ◀──Pause / Resume──▶ Running ──▶ Finished
//
// It is Paused at an instruction boundary with the last access complete, so
// its registers are all of its state. While it is Paused, Do runs a function on
// its thread: that is how registers are read and set, since KVM wants a vCPU's
// ioctls to come from one thread.
//
// # How a vCPU is stopped
//
// The caller stores what it wants, sets immediate_exit and sends the thread a
// signal (kvm.VCPU.Kick). KVM_RUN then ends with EINTR after it has completed
// the pending access. The thread takes immediate_exit back and only then looks
// at what is wanted: a kick between the two is seen by the next KVM_RUN, so
// none is lost, and a stray signal costs one more turn of the loop.
package vcpu

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/hullvm/hull/devices"
	"github.com/hullvm/hull/kvm"
)

// State is what a CPU is doing.
type State int32

const (
	Paused State = iota
	Running
	Finished
)

func (s State) String() string {
	switch s {
	case Paused:
		return "paused"
	case Running:
		return "running"
	case Finished:
		return "finished"
	}
	return fmt.Sprintf("state %d", int32(s))
}

// Errors of methods called in the wrong state.
var (
	ErrNotPaused = errors.New("the vCPU is not paused")
	ErrFinished  = errors.New("the vCPU has finished")
)

// Memory reads guest RAM for the report of a crash.
type Memory interface {
	Slice(gpa uint64, n int) ([]byte, error)
}

// Config is what a CPU needs to run.
type Config struct {
	VM *kvm.VM
	ID int // also the local APIC's ID

	Setup  func(*kvm.VCPU) error // sets CPUID and registers, on the CPU's thread
	Ports  *devices.Bus
	MMIO   *devices.Bus
	Memory Memory

	// Power is told of system events that KVM reports by itself.
	Power devices.PowerFunc
	// Crashed is told, on the CPU's thread, that the guest cannot go on. The
	// CPU is Finished right after.
	Crashed func(*CrashError)
	// FirstRun and FirstExit mark two stages of a start. Each may be nil.
	FirstRun, FirstExit func()
}

// maxReason bounds the table of exit counters.
const maxReason = 64

// CPU is one virtual CPU and its thread.
type CPU struct {
	cfg  Config
	vcpu *kvm.VCPU

	want  atomic.Int32 // the State that is asked for
	exits [maxReason]atomic.Uint64

	mu    sync.Mutex // guards what follows; never held in the guest
	cond  sync.Cond
	state State
	job   func(*kvm.VCPU) error
	jerr  error
	jdone bool

	doMu sync.Mutex // one Do at a time; taken before mu
	done chan struct{}
}

// New creates a vCPU on a thread of its own, sets it up and leaves it Paused.
func New(cfg Config) (*CPU, error) {
	c := &CPU{cfg: cfg, done: make(chan struct{})}
	c.cond.L = &c.mu
	ready := make(chan error, 1)
	go c.thread(ready)
	if err := <-ready; err != nil {
		<-c.done
		return nil, fmt.Errorf("vCPU %d: %w", cfg.ID, err)
	}
	return c, nil
}

// thread is the CPU's goroutine. It never unlocks its thread: the thread ends
// with it, and with it everything that KVM tied to the thread.
func (c *CPU) thread(ready chan<- error) {
	runtime.LockOSThread()
	defer close(c.done)
	v, err := c.cfg.VM.CreateVCPU(c.cfg.ID)
	if err != nil {
		c.setState(Finished)
		ready <- err
		return
	}
	v.BindThread()
	c.vcpu = v
	if c.cfg.Setup != nil {
		if err = c.cfg.Setup(v); err != nil {
			c.finish()
			ready <- err
			return
		}
	}
	ready <- nil
	c.loop()
	c.finish()
}

// finish closes the vCPU. Kicks hold mu, so none meets it closed.
func (c *CPU) finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state = Finished
	c.vcpu.Close()
	c.cond.Broadcast()
}

func (c *CPU) setState(s State) {
	c.mu.Lock()
	c.state = s
	c.cond.Broadcast()
	c.mu.Unlock()
}

// State tells what the CPU is doing.
func (c *CPU) State() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

// Done is closed when the CPU has finished and its thread has ended.
func (c *CPU) Done() <-chan struct{} { return c.done }

// Exits is how often the guest exited for reason r.
func (c *CPU) Exits(r kvm.ExitReason) uint64 {
	if int(r) >= maxReason {
		return 0
	}
	return c.exits[r].Load()
}

// ask stores what is wanted and makes the thread look at it.
func (c *CPU) ask(s State) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == Finished {
		return ErrFinished
	}
	if State(c.want.Load()) == Finished {
		return ErrFinished // already on its way out; Pause or Resume come too late
	}
	c.want.Store(int32(s))
	if c.state == Running && s != Running {
		c.vcpu.Kick()
	}
	c.cond.Broadcast()
	return nil
}

// RequestPause asks the CPU to pause and returns at once; Pause waits as well.
// To pause several, ask all before waiting for the first.
func (c *CPU) RequestPause() error { return c.ask(Paused) }

// Pause returns when the CPU is Paused, or ErrFinished.
func (c *CPU) Pause() error {
	if err := c.ask(Paused); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.state == Running {
		c.cond.Wait()
	}
	if c.state == Finished {
		return ErrFinished
	}
	return nil
}

// Resume lets a Paused CPU run.
func (c *CPU) Resume() error { return c.ask(Running) }

// Stop asks the CPU to finish, whatever it does, and returns at once: wait for
// Done. It may be called from the CPU's own thread.
func (c *CPU) Stop() { _ = c.ask(Finished) } // the only error is that it has finished

// Do runs f on the CPU's thread while the CPU is Paused and returns its error,
// or ErrNotPaused or ErrFinished.
func (c *CPU) Do(f func(*kvm.VCPU) error) error {
	c.doMu.Lock()
	defer c.doMu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.state == Finished:
		return ErrFinished
	case c.state != Paused || State(c.want.Load()) != Paused:
		return ErrNotPaused
	}
	c.job, c.jdone = f, false
	c.cond.Broadcast()
	for !c.jdone {
		if c.state == Finished {
			c.job = nil
			return ErrFinished
		}
		c.cond.Wait()
	}
	return c.jerr
}

// park holds the thread while the CPU is Paused and runs what Do brings. It
// returns false when the CPU is to finish.
func (c *CPU) park() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state = Paused
	c.cond.Broadcast()
	for {
		if job := c.job; job != nil {
			c.job = nil
			c.mu.Unlock()
			err := job(c.vcpu)
			c.mu.Lock()
			c.jerr, c.jdone = err, true
			c.cond.Broadcast()
			continue
		}
		switch State(c.want.Load()) {
		case Running:
			c.state = Running
			c.cond.Broadcast()
			return true
		case Finished:
			return false
		}
		c.cond.Wait()
	}
}
