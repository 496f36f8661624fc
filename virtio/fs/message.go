package fs

import (
	"bytes"
	"encoding/binary"
	"syscall"
)

// Opcodes of FUSE (enum fuse_opcode in Linux's uapi/linux/fuse.h) that are served. To all others the answer is ENOSYS,
// which tells Linux to do without: locks are the guest's own, and there is no BMAP, POLL, IOCTL, ACCESS (the guest checks
// permissions), INTERRUPT, SYNCFS, TMPFILE, STATX nor DAX.
const (
	opLookup        = 1
	opForget        = 2
	opGetAttr       = 3
	opSetAttr       = 4
	opReadlink      = 5
	opSymlink       = 6
	opMknod         = 8
	opMkdir         = 9
	opUnlink        = 10
	opRmdir         = 11
	opRename        = 12
	opLink          = 13
	opOpen          = 14
	opRead          = 15
	opWrite         = 16
	opStatFS        = 17
	opRelease       = 18
	opFsync         = 20
	opSetXAttr      = 21
	opGetXAttr      = 22
	opListXAttr     = 23
	opRemoveXAttr   = 24
	opFlush         = 25
	opInit          = 26
	opOpendir       = 27
	opReaddir       = 28
	opReleasedir    = 29
	opFsyncdir      = 30
	opCreate        = 35
	opDestroy       = 38
	opBatchForget   = 42
	opFallocate     = 43
	opReaddirPlus   = 44
	opRename2       = 45
	opLseek         = 46
	opCopyFileRange = 47
	opCount         = 48
)

const (
	inHeaderSize  = 40 // struct fuse_in_header
	outHeaderSize = 16 // struct fuse_out_header

	// MaxTransfer is the most bytes of one READ, READDIR or WRITE; max_write and max_pages tell the guest.
	MaxTransfer = 1 << 20
	// maxXAttr is XATTR_SIZE_MAX, the most bytes of an attribute or of a list of their names.
	maxXAttr = 64 << 10
	// maxMessage is the most bytes of a request but for the data of a WRITE: an extended attribute with its name.
	maxMessage = 4096 + maxXAttr
)

// rest says what comes after the fixed part of a request.
type rest uint8

const (
	nothing rest = iota // or what newer versions of the protocol add
	oneName
	twoNames
	nameAndValue // of an extended attribute
	data         // of a WRITE
	forgets
)

// operation is what a request looks like, with all headers.
type operation struct {
	in   int  // bytes of the fixed part
	rest rest // what follows
	out  int  // bytes of the fixed part of the answer; 0: there is none
	size int  // if not 0: where the request says how many bytes more the answer may have
	most int  // and how many those may be
}

// operations has a zero entry for what is not served.
var operations = [opCount]operation{
	opLookup:      {in: 40, rest: oneName, out: 144},
	opForget:      {in: 48},
	opGetAttr:     {in: 56, out: 120},
	opSetAttr:     {in: 128, out: 120},
	opReadlink:    {in: 40, out: 16},
	opSymlink:     {in: 40, rest: twoNames, out: 144},
	opMknod:       {in: 56, rest: oneName, out: 144},
	opMkdir:       {in: 48, rest: oneName, out: 144},
	opUnlink:      {in: 40, rest: oneName, out: 16},
	opRmdir:       {in: 40, rest: oneName, out: 16},
	opRename:      {in: 48, rest: twoNames, out: 16},
	opLink:        {in: 48, rest: oneName, out: 144},
	opOpen:        {in: 48, out: 32},
	opRead:        {in: 80, out: 16, size: 56, most: MaxTransfer},
	opWrite:       {in: 80, rest: data, out: 24},
	opStatFS:      {in: 40, out: 96},
	opRelease:     {in: 64, out: 16},
	opFsync:       {in: 56, out: 16},
	opSetXAttr:    {in: 48, rest: nameAndValue, out: 16},
	opGetXAttr:    {in: 48, rest: oneName, out: 24, size: 40, most: maxXAttr},
	opListXAttr:   {in: 48, out: 24, size: 40, most: maxXAttr},
	opRemoveXAttr: {in: 40, rest: oneName, out: 16},
	opFlush:       {in: 64, out: 16},
	// 104 bytes since 7.36. Linux takes as much of the answer as there is.
	opInit:          {in: 56, out: 80},
	opOpendir:       {in: 48, out: 32},
	opReaddir:       {in: 80, out: 16, size: 56, most: MaxTransfer},
	opReleasedir:    {in: 64, out: 16},
	opFsyncdir:      {in: 56, out: 16},
	opCreate:        {in: 56, rest: oneName, out: 160},
	opDestroy:       {in: 40, out: 16},
	opBatchForget:   {in: 48, rest: forgets},
	opFallocate:     {in: 72, out: 16},
	opReaddirPlus:   {in: 80, out: 16, size: 56, most: MaxTransfer},
	opRename2:       {in: 56, rest: twoNames, out: 16},
	opLseek:         {in: 64, out: 24},
	opCopyFileRange: {in: 96, out: 24},
}

// Places in struct fuse_in_header.
const (
	atLen      = 0
	atOpcode   = 4
	atUnique   = 8
	atNodeID   = 16
	atTotalExt = 36
)

// lookUp returns the operation of a request, of which at least the header has been copied to b; n is the length of all of
// it. errno is what to answer when there is something wrong.
func lookUp(b []byte, n int) (op *operation, errno syscall.Errno) {
	le := binary.LittleEndian
	code := le.Uint32(b[atOpcode:])
	if code >= opCount || operations[code].in == 0 {
		return nil, syscall.ENOSYS
	}
	op = &operations[code]
	switch {
	case uint64(le.Uint32(b[atLen:])) != uint64(n), n < op.in:
		return op, syscall.EINVAL
	case op.rest != data && n > maxMessage, op.rest == data && n-op.in > MaxTransfer:
		return op, syscall.E2BIG
	case le.Uint16(b[atTotalExt:]) != 0: // extensions are negotiated, and none has been
		return op, syscall.EINVAL
	case le.Uint64(b[atNodeID:]) >= NodeBit: // no such number has been given out
		return op, syscall.ESTALE
	}
	return op, 0
}

// check looks at all of a request, but for the data of a WRITE, in b; n is the length of all of it and room how many
// bytes its answer may have.
func (op *operation) check(b []byte, n, room int) syscall.Errno {
	le := binary.LittleEndian
	need := op.out
	if op.size != 0 {
		size := le.Uint32(b[op.size:])
		if size > uint32(op.most) {
			return syscall.EINVAL
		}
		// Without room for a value the answer is its size, which is in the fixed part.
		if size > 0 {
			need = outHeaderSize + int(size)
		}
	}
	if room < need {
		return syscall.EINVAL
	}
	tail := b[op.in:]
	ok := true
	switch op.rest {
	case oneName:
		_, after, found := cutName(tail)
		ok = found && len(after) == 0
	case twoNames:
		_, after, found := cutName(tail)
		_, after, second := cutName(after)
		ok = found && second && len(after) == 0
	case nameAndValue:
		_, value, found := cutName(tail)
		ok = found && uint64(len(value)) == uint64(le.Uint32(b[inHeaderSize:]))
	case data:
		ok = uint64(n-op.in) == uint64(le.Uint32(b[inHeaderSize+16:]))
	case forgets:
		ok = uint64(len(tail)) == 16*uint64(le.Uint32(b[inHeaderSize:]))
	}
	if !ok {
		return syscall.EINVAL
	}
	return 0
}

// The protocol's version. The minor one is that of Linux 5.4, the first with a driver for the device.
const (
	protocolMajor = 7
	minMinor      = 31
)

// checkVersion looks at an INIT.
func checkVersion(b []byte) syscall.Errno {
	le := binary.LittleEndian
	if le.Uint32(b[inHeaderSize:]) != protocolMajor || le.Uint32(b[inHeaderSize+4:]) < minMinor {
		return syscall.EPROTO
	}
	return 0
}

// setNodeBit marks the node number in a header.
func setNodeBit(b []byte) {
	le := binary.LittleEndian
	le.PutUint64(b[atNodeID:], le.Uint64(b[atNodeID:])|NodeBit)
}

// cutName takes a name that is not empty, with its zero byte, off the front of b.
func cutName(b []byte) (name, after []byte, ok bool) {
	name, after, ok = bytes.Cut(b, []byte{0})
	return name, after, ok && len(name) > 0
}
