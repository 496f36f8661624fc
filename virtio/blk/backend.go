package blk

import "errors"

// Backend is where a disk's bytes are. Offsets and lengths are those of whole sectors within Size, checked
// before. Its methods are called by several goroutines at once; what comes of transfers that overlap is up to
// the guest that asked for them.
type Backend interface {
	// Size is in bytes, a multiple of SectorSize.
	Size() uint64
	// ReadAt fills all that is left of v from off.
	ReadAt(v *Vector, off uint64, how Mode) error
	// WriteAt writes all that is left of v at off.
	WriteAt(v *Vector, off uint64, how Mode) error
	// Flush returns when everything that was written is on stable storage.
	Flush() error
	// Discard gives the host the space of n bytes at off; they may read as
	// anything afterwards.
	Discard(off, n uint64) error
	// WriteZeroes makes n bytes at off read as zero; unmap allows to give the
	// space to the host.
	WriteZeroes(off, n uint64, unmap bool) error
}

// Mode says how a transfer is to be made.
type Mode uint8

const (
	// NoWait has the backend return ErrWouldBlock, having done any part of the transfer or none, where it
	// would wait for a device. It is a wish: a write to the page cache may wait all the same.
	NoWait Mode = 1 << iota
	// Through has a write on stable storage when it returns.
	Through
)

var (
	// ErrUnsupported is returned by a Backend for what it cannot do.
	ErrUnsupported = errors.New("the disk's backend does not support this")
	// ErrWouldBlock is returned by a Backend that would have to wait, when it was asked not to.
	ErrWouldBlock = errors.New("the disk's backend would have to wait")
)

// readOnly is the part of a Backend that refuses to change anything.
type readOnly struct{}

// WriteAt implements Backend.
func (readOnly) WriteAt(*Vector, uint64, Mode) error { return ErrUnsupported }

// Flush implements Backend: there is nothing to write.
func (readOnly) Flush() error { return nil }

// Discard implements Backend.
func (readOnly) Discard(uint64, uint64) error { return ErrUnsupported }

// WriteZeroes implements Backend.
func (readOnly) WriteZeroes(uint64, uint64, bool) error { return ErrUnsupported }
