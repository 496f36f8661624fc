package boot

import "errors"

// Errors of Load, to be found with errors.Is. The errors that wrap them name
// the file and the reason.
var (
	// ErrParams: parameters that are wrong whatever the files hold.
	ErrParams = errors.New("bad parameters")
	// ErrNotKernel: the file is nothing that can be booted.
	ErrNotKernel = errors.New("not a kernel")
	// ErrUnsupported: a kernel, but not one for this machine, or without the
	// entry point that was asked for.
	ErrUnsupported = errors.New("kernel not supported")
	// ErrTruncated: the file ends before what its headers promise.
	ErrTruncated = errors.New("truncated kernel")
	// ErrMalformed: headers that contradict themselves.
	ErrMalformed = errors.New("malformed kernel")
	// ErrNoRoom: it does not fit in the guest's memory.
	ErrNoRoom = errors.New("does not fit in guest memory")
	// ErrOverlap: two things at the same place in guest memory.
	ErrOverlap = errors.New("overlap in guest memory")
	// ErrInitrd: an initial RAM disk that cannot be used.
	ErrInitrd = errors.New("bad initrd")
	// ErrCommandLine: a command line that the kernel cannot take.
	ErrCommandLine = errors.New("bad kernel command line")
)
