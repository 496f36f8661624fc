package memory

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// ErrLost is wrapped by what Slice returns when whoever was to bring RAM's pages brings no more.
var ErrLost = errors.New("guest memory is lost")

// FaultRange is a piece of RAM whose pages somebody else brings.
type FaultRange struct {
	Address  uint64 // in this process, where UFFDIO_COPY puts the pages
	Size     uint64 // bytes
	Offset   uint64 // of the piece in a file of Save's, in bytes
	PageSize uint64 // the least that can be brought at once, in bytes
}

// faults is RAM's side of a userfaultfd(2). Whoever touches a page that was not brought yet stands still until it is. Go code must
// not: a goroutine that stands in a load or a store holds up the garbage collector, and with it this process. So Slice has the
// kernel touch pages before it hands them out, in a system call, and keeps in mind which are there.
type faults struct {
	fd       int
	page     uint64          // bytes that are brought at once
	present  []atomic.Uint64 // a bit for each page of PageSize that is there
	answered atomic.Uint64   // pieces that were asked for and brought

	lost     atomic.Pointer[error] // why no more is brought, nil while it is
	discards atomic.Int64          // calls of Discard that have not returned
	mu       sync.Mutex            // held by Lose and Close
	closed   bool
}

// NewFaulting makes size bytes of RAM that has nothing: each page is to be brought with the userfaultfd that FaultFD returns when
// somebody touches it, in the file's place that FaultRanges names. It needs Linux 5.14, and the right to make a userfaultfd for
// faults that happen in the kernel, as KVM's do.
func NewFaulting(size uint64, opts Options) (_ *Memory, err error) {
	m, err := New(size, opts)
	if err != nil {
		return nil, err
	}
	fd, err := registerFaults(m.mapping)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("guest memory from a page fault handler: %w", err), m.Close())
	}
	m.faults = &faults{fd: fd, page: PageSize, present: make([]atomic.Uint64, (size/PageSize+63)/64)}
	if opts.HugePages {
		m.faults.page = HugePageSize
	}
	return m, nil
}

// FaultFD returns the userfaultfd of RAM that NewFaulting has made. It stays RAM's.
func (m *Memory) FaultFD() int { return m.faults.fd }

// FaultRanges returns the pieces of RAM that NewFaulting has made, one for each region.
func (m *Memory) FaultRanges() (list []FaultRange) {
	for _, r := range m.regions {
		list = append(list, FaultRange{uint64(r.HostAddress()), r.Size, m.offset(r.GPA), m.faults.page})
	}
	return list
}

// Answered counts what Slice and Save have waited for and got.
func (m *Memory) Answered() uint64 {
	if m.faults == nil {
		return 0
	}
	return m.faults.answered.Load()
}

// Lose says that no more pages are brought, and why. From then on Slice and Save return an ErrLost, those that wait included. A vCPU
// that waits finds a page of zeros: whoever calls this has told it before to leave the guest. It does nothing on RAM that nobody
// else brings, and the second time.
func (m *Memory) Lose(why error) {
	f := m.faults
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed || f.lost.Load() != nil {
		return
	}
	err := fmt.Errorf("%w: %w", ErrLost, why)
	f.lost.Store(&err)
	// Wakes all that wait. There is nothing to be done about an error, and none that the kernel could have a reason for.
	_ = unregisterFaults(f.fd, m.mapping)
	// What was discarded waits until the message about it is read, if the handler has not.
	for f.discards.Load() > 0 {
		drainFaults(f.fd)
	}
}

// gone is why RAM's pages are not brought any more, or nil.
func (f *faults) gone() error {
	if err := f.lost.Load(); err != nil {
		return *err
	}
	return nil
}

// require returns when the n bytes at offset off of the mapping are there.
func (m *Memory) require(off, n uint64) error {
	f := m.faults
	if f == nil || n == 0 {
		return nil
	}
	last := (off + n - 1) / PageSize
	for page := off / PageSize; page <= last; {
		if f.has(page) {
			page++
			continue
		}
		end := page + 1
		for end <= last && end-page < maxRun/PageSize && !f.has(end) {
			end++
		}
		if err := f.gone(); err != nil {
			return err
		}
		err := unix.Madvise(m.mapping[page*PageSize:end*PageSize], unix.MADV_POPULATE_READ)
		if gone := f.gone(); gone != nil {
			return gone // it may be zeros that are there
		}
		switch {
		case err == unix.EINTR, err == unix.EAGAIN:
			continue
		case err != nil:
			return fmt.Errorf("guest memory from a page fault handler: %d bytes at offset %#x: %w", (end-page)*PageSize, page*PageSize, err)
		}
		f.answered.Add(1)
		for ; page < end; page++ {
			f.present[page/64].Or(1 << (page % 64))
		}
	}
	return nil
}

func (f *faults) has(page uint64) bool { return f.present[page/64].Load()&(1<<(page%64)) != 0 }

// discard gives n bytes at offset off of the mapping, whole pages, back to the host. The handler is told (UFFD_EVENT_REMOVE), and
// brings zeros if they are touched again. It returns when the handler has read that.
func (m *Memory) discard(off, n uint64) error {
	f := m.faults
	f.discards.Add(1)
	defer f.discards.Add(-1)
	if err := f.gone(); err != nil {
		return err
	}
	for page := off / PageSize; page < (off+n)/PageSize; page++ {
		f.present[page/64].And(^uint64(1 << (page % 64)))
	}
	return unix.Madvise(m.mapping[off:off+n], unix.MADV_DONTNEED)
}

// close gives the descriptor back.
func (f *faults) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed {
		f.closed = true
		unix.Close(f.fd)
	}
}
