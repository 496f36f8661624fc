package vmm

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hullvm/hull/vmm/memory"
)

// MemoryRange is a piece of a guest's memory that a MemoryBackend brings.
type MemoryRange = memory.FaultRange

// MemoryBackend brings the memory of a machine that goes on from a snapshot, page by page as it is touched: docs/decisions/0036.
type MemoryBackend interface {
	// Serve has faults answered from now on, and returns. It is a userfaultfd for the ranges (UFFDIO_REGISTER_MODE_MISSING,
	// UFFD_FEATURE_EVENT_REMOVE, O_NONBLOCK), which is open until Serve returns: whoever answers duplicates it. Each page is that of
	// the snapshot's memory file, at the range's offset; after an event that pages are removed, those are zeros.
	//
	// What comes from lost is why no fault will be answered any more, which ends the machine. A nil channel: that does not happen.
	Serve(faults int, ranges []MemoryRange) (lost <-chan error, err error)
	// Close is called once, after Serve, when nobody touches the memory any more.
	Close() error
}

// FaultPatience is how long a machine that is made, paused, resumed or saved waits for its MemoryBackend to bring anything at all.
// One that merely runs waits for as long as it takes.
const FaultPatience = 30 * time.Second

// WithMemoryBackend has b bring the memory of the snapshot that Config.Restore names, in the place of its file. The file is not
// looked at: whoever brings its pages vouches for it. A patience of 0 is FaultPatience.
//
// If b is lost, or takes longer than the patience while it is waited for, the machine ends as ReasonFailure before the guest or a
// device sees memory that is not there. Two things have a cost that they do not have otherwise: a full snapshot reads all memory, and
// so has all of it brought; and pages that a guest reports as free are brought before they are given back.
func WithMemoryBackend(b MemoryBackend, patience time.Duration) Option {
	return func(m *Machine) error {
		if m.cfg.Restore == nil {
			return errors.New("a memory backend brings the memory of a snapshot: there is none to restore")
		}
		if patience <= 0 {
			patience = FaultPatience
		}
		m.backing = backing{MemoryBackend: b, patience: patience, state: &backingState{}}
		return nil
	}
}

// ErrMemoryLost is wrapped by errors that come of a MemoryBackend which has gone, or does not answer.
var ErrMemoryLost = errors.New("the page fault handler of the guest's memory is lost")

// errEnded is why the memory of a machine goes that has ended.
var errEnded = errors.New("the machine has ended")

// backing is who brings a machine's memory. The zero value is nobody: it has all of it.
type backing struct {
	MemoryBackend
	patience time.Duration
	state    *backingState
}

type backingState struct {
	mu   sync.Mutex
	mem  *memory.Memory // nil before it is opened
	made bool           // the machine has all its vCPUs
	lost error          // an ErrMemoryLost
}

// why is the error that the backend was lost, or nil.
func (b *backing) why() error {
	if b.state == nil {
		return nil
	}
	b.state.mu.Lock()
	defer b.state.mu.Unlock()
	return b.state.lost
}

// made notes that the machine is complete, unless its memory was lost meanwhile.
func (b *backing) made() error {
	if b.state == nil {
		return nil
	}
	b.state.mu.Lock()
	defer b.state.mu.Unlock()
	b.state.made = true
	return b.state.lost
}

// answered counts what this process has waited for and got.
func (b *backing) answered() uint64 {
	b.state.mu.Lock()
	defer b.state.mu.Unlock()
	if b.state.mem == nil {
		return 0
	}
	return b.state.mem.Answered()
}

// openBacking makes memory that the backend brings.
func (m *Machine) openBacking(size uint64, opts memory.Options) (err error) {
	if m.mem, err = memory.NewFaulting(size, opts); err != nil {
		return err
	}
	s := m.backing.state
	s.mu.Lock()
	s.mem = m.mem
	s.mu.Unlock()
	lost, err := m.backing.Serve(m.mem.FaultFD(), m.mem.FaultRanges())
	if err != nil {
		err = errors.Join(err, m.mem.Close())
		m.mem = nil
		return err
	}
	m.closing(m.backing.Close)
	go func() {
		select {
		case err := <-lost:
			m.loseMemory(err)
		case <-m.ended:
		}
	}()
	return nil
}

// loseMemory ends the machine since its memory does not come any more. vCPUs are told before their faults are over (end), so that
// none goes on with a page of zeros; devices get errors instead of memory.
func (m *Machine) loseMemory(why error) {
	s := m.backing.state
	s.mu.Lock()
	if s.lost == nil {
		s.lost = fmt.Errorf("%w: %w", ErrMemoryLost, why)
	}
	made, err, mem := s.made, s.lost, s.mem
	s.mu.Unlock()
	if !made {
		if mem != nil {
			mem.Lose(why) // New sees to the rest
		}
		return
	}
	m.end(Result{Reason: ReasonFailure, Status: StatusFailure, Message: err.Error()})
	m.finished() // nobody else watches a machine that has not been started
}

// awaitFaults gives the memory up when nothing of it comes for too long, until the function is called that it returns.
func (m *Machine) awaitFaults(while string) (over func()) {
	if m.backing.state == nil {
		return func() {}
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	began := m.backing.answered()
	go func() {
		defer close(stopped)
		t := time.NewTicker(m.backing.patience)
		defer t.Stop()
		for last := began; ; {
			select {
			case <-stop:
				return
			case <-t.C:
			}
			now := m.backing.answered()
			if now == last {
				go m.loseMemory(fmt.Errorf("it has not answered for %v while %s", m.backing.patience, while))
				return
			}
			last = now
		}
	}()
	return func() {
		close(stop)
		<-stopped
	}
}
