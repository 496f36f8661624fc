package fs

import (
	"encoding/binary"
	"reflect"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
)

func size(v any) uintptr { return reflect.TypeOf(v).Size() }

func place(v any, field string) uintptr {
	f, _ := reflect.TypeOf(v).FieldByName(field)
	return f.Offset
}

// The table against go-fuse's structures, which are read at those places without another look.
func TestOperationSizes(t *testing.T) {
	const in, out = inHeaderSize, outHeaderSize
	if size(fuse.InHeader{}) != in || size(fuse.OutHeader{}) != out {
		t.Fatal("headers")
	}
	entry, open := size(fuse.EntryOut{}), size(fuse.OpenOut{})
	for op, want := range map[int][2]uintptr{
		opLookup: {in, entry}, opForget: {size(fuse.ForgetIn{}), 0}, opGetAttr: {size(fuse.GetAttrIn{}), size(fuse.AttrOut{})},
		opSetAttr: {size(fuse.SetAttrIn{}), size(fuse.AttrOut{})}, opReadlink: {in, 0}, opSymlink: {in, entry},
		opMknod: {size(fuse.MknodIn{}), entry}, opMkdir: {size(fuse.MkdirIn{}), entry}, opUnlink: {in, 0}, opRmdir: {in, 0},
		// RENAME ends before the flags.
		opRename: {size(fuse.RenameIn{}) - 8, 0}, opRename2: {size(fuse.RenameIn{}), 0}, opLink: {size(fuse.LinkIn{}), entry},
		opOpen: {size(fuse.OpenIn{}), open}, opRead: {size(fuse.ReadIn{}), 0}, opWrite: {size(fuse.WriteIn{}), size(fuse.WriteOut{})},
		opStatFS: {in, size(fuse.StatfsOut{})}, opRelease: {size(fuse.ReleaseIn{}), 0}, opFsync: {size(fuse.FsyncIn{}), 0},
		// The last two fields of SETXATTR come with a feature that is not negotiated.
		opSetXAttr: {size(fuse.SetXAttrIn{}) - 8, 0}, opGetXAttr: {size(fuse.GetXAttrIn{}), size(fuse.GetXAttrOut{})},
		opListXAttr: {size(fuse.GetXAttrIn{}), size(fuse.GetXAttrOut{})}, opRemoveXAttr: {in, 0},
		opFlush: {size(fuse.FlushIn{}), 0}, opInit: {size(fuse.InitIn{}) - 48, size(fuse.InitOut{})},
		opOpendir: {size(fuse.OpenIn{}), open}, opReaddir: {size(fuse.ReadIn{}), 0}, opReleasedir: {size(fuse.ReleaseIn{}), 0},
		opFsyncdir: {size(fuse.FsyncIn{}), 0}, opCreate: {size(fuse.CreateIn{}), size(fuse.CreateOut{})}, opDestroy: {in, 0},
		opBatchForget: {in + 8, 0}, opFallocate: {size(fuse.FallocateIn{}), 0}, opReaddirPlus: {size(fuse.ReadIn{}), 0},
		opLseek: {size(fuse.LseekIn{}), size(fuse.LseekOut{})}, opCopyFileRange: {size(fuse.CopyFileRangeIn{}), size(fuse.WriteOut{})},
	} {
		got := operations[op]
		if got.in != int(want[0]) {
			t.Errorf("opcode %d: %d bytes of request, want %d", op, got.in, want[0])
		}
		forget := op == opForget || op == opBatchForget
		if answer := out + int(want[1]); got.out != answer && !forget || got.out != 0 && forget {
			t.Errorf("opcode %d: %d bytes of answer, want %d", op, got.out, answer)
		}
	}
	for _, at := range []uintptr{place(fuse.ReadIn{}, "Size"), place(fuse.WriteIn{}, "Size")} {
		if at != 56 {
			t.Errorf("the size of a transfer is at %d", at)
		}
	}
	for at, want := range map[uintptr]uintptr{
		atUnique: place(fuse.InHeader{}, "Unique"), atNodeID: place(fuse.InHeader{}, "NodeId"), atTotalExt: place(fuse.InHeader{}, "TotalExtlen"),
	} {
		if at != want {
			t.Errorf("a field of the header is at %d, want %d", at, want)
		}
	}
}

// message makes a request of its parts: the fixed part filled up with zeros.
func message(op uint32, fixed int, tail string, set ...func([]byte)) []byte {
	b := make([]byte, fixed, fixed+len(tail))
	b = append(b, tail...)
	le := binary.LittleEndian
	le.PutUint32(b[atLen:], uint32(len(b)))
	le.PutUint32(b[atOpcode:], op)
	le.PutUint64(b[atUnique:], 0x1122334455667788)
	le.PutUint64(b[atNodeID:], 1)
	for _, f := range set {
		f(b)
	}
	return b
}

func put32(at int, v uint32) func([]byte) {
	return func(b []byte) { binary.LittleEndian.PutUint32(b[at:], v) }
}

func put64(at int, v uint64) func([]byte) {
	return func(b []byte) { binary.LittleEndian.PutUint64(b[at:], v) }
}

func TestCheck(t *testing.T) {
	const enough = 2 << 20
	for _, tt := range []struct {
		name string
		b    []byte
		room int
		want syscall.Errno
	}{
		{"lookup", message(opLookup, 40, "a\x00"), enough, 0},
		{"lookup with little room", message(opLookup, 40, "a\x00"), 143, syscall.EINVAL},
		{"lookup without a name", message(opLookup, 40, ""), enough, syscall.EINVAL},
		{"lookup of an empty name", message(opLookup, 40, "\x00"), enough, syscall.EINVAL},
		{"name without end", message(opLookup, 40, "a"), enough, syscall.EINVAL},
		{"name with more behind", message(opLookup, 40, "a\x00b\x00"), enough, syscall.EINVAL},
		{"longer than it says", message(opLookup, 40, "a\x00", put32(atLen, 41)), enough, syscall.EINVAL},
		{"shorter than it says", message(opLookup, 40, "a\x00", put32(atLen, 43)), enough, syscall.EINVAL},
		{"length of 2^32-1", message(opLookup, 40, "a\x00", put32(atLen, 1<<32-1)), enough, syscall.EINVAL},
		{"short fixed part", message(opOpen, 47, ""), enough, syscall.EINVAL},
		{"extension that was not negotiated", message(opLookup, 40, "a\x00", put32(atTotalExt, 1)), enough, syscall.EINVAL},
		{"node of go-fuse's own", message(opLookup, 40, "a\x00", put64(atNodeID, 1<<64-1)), enough, syscall.ESTALE},
		{"node with the bit", message(opLookup, 40, "a\x00", put64(atNodeID, NodeBit|1)), enough, syscall.ESTALE},
		{"very long", message(opLookup, 40, string(make([]byte, maxMessage))), enough, syscall.E2BIG},
		{"unknown opcode", message(0, 40, ""), enough, syscall.ENOSYS},
		{"opcode beyond", message(opCount, 40, ""), enough, syscall.ENOSYS},
		{"largest opcode", message(1<<32-1, 40, ""), enough, syscall.ENOSYS},
		{"locks", message(31, 40, ""), enough, syscall.ENOSYS},
		{"ioctl", message(39, 72, ""), enough, syscall.ENOSYS},
		{"notify reply", message(41, 80, ""), enough, syscall.ENOSYS},
		{"symlink", message(opSymlink, 40, "a\x00b\x00"), enough, 0},
		{"symlink with one name", message(opSymlink, 40, "a\x00"), enough, syscall.EINVAL},
		{"symlink with three", message(opSymlink, 40, "a\x00b\x00c\x00"), enough, syscall.EINVAL},
		{"rename to nothing", message(opRename, 48, "a\x00\x00"), enough, syscall.EINVAL},
		{"read", message(opRead, 80, "", put32(56, MaxTransfer)), outHeaderSize + MaxTransfer, 0},
		{"read of nothing", message(opRead, 80, ""), outHeaderSize, 0},
		{"read into less", message(opRead, 80, "", put32(56, 100)), outHeaderSize + 99, syscall.EINVAL},
		{"read of too much", message(opRead, 80, "", put32(56, MaxTransfer+1)), enough, syscall.EINVAL},
		{"read of 4 GiB", message(opRead, 80, "", put32(56, 1<<32-1)), enough, syscall.EINVAL},
		{"size of an attribute", message(opGetXAttr, 48, "user.a\x00"), 24, 0},
		{"attribute", message(opGetXAttr, 48, "user.a\x00", put32(40, 1)), 17, 0},
		{"attribute into less", message(opGetXAttr, 48, "user.a\x00", put32(40, 9)), 24, syscall.EINVAL},
		{"attribute of too much", message(opGetXAttr, 48, "user.a\x00", put32(40, maxXAttr+1)), enough, syscall.EINVAL},
		{"set an attribute", message(opSetXAttr, 48, "user.a\x00xyz", put32(40, 3)), enough, 0},
		{"set one of less", message(opSetXAttr, 48, "user.a\x00xyz", put32(40, 2)), enough, syscall.EINVAL},
		{"set one of more", message(opSetXAttr, 48, "user.a\x00xyz", put32(40, 1<<32-1)), enough, syscall.EINVAL},
		{"write", message(opWrite, 80, "xyz", put32(56, 3)), enough, 0},
		{"write of less", message(opWrite, 80, "xyz", put32(56, 2)), enough, syscall.EINVAL},
		{"write of more", message(opWrite, 80, "xyz", put32(56, 4)), enough, syscall.EINVAL},
		{"write of too much", message(opWrite, 80, string(make([]byte, MaxTransfer+1)), put32(56, MaxTransfer+1)), enough, syscall.E2BIG},
		{"forget many", message(opBatchForget, 48, string(make([]byte, 32)), put32(40, 2)), 0, 0},
		{"forget more than there are", message(opBatchForget, 48, string(make([]byte, 32)), put32(40, 3)), 0, syscall.EINVAL},
		{"forget 2^32-1", message(opBatchForget, 48, "", put32(40, 1<<32-1)), 0, syscall.EINVAL},
	} {
		op, got := lookUp(tt.b, len(tt.b))
		if got == 0 {
			copied := tt.b
			if op.rest == data {
				copied = tt.b[:op.in]
			}
			got = op.check(copied, len(tt.b), tt.room)
		}
		if got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestCheckVersion(t *testing.T) {
	for _, tt := range []struct {
		major, minor uint32
		want         syscall.Errno
	}{{7, 31, 0}, {7, 40, 0}, {7, 30, syscall.EPROTO}, {8, 40, syscall.EPROTO}, {6, 40, syscall.EPROTO}, {0, 0, syscall.EPROTO}} {
		if got := checkVersion(message(opInit, 56, "", put32(40, tt.major), put32(44, tt.minor))); got != tt.want {
			t.Errorf("%d.%d: %v, want %v", tt.major, tt.minor, got, tt.want)
		}
	}
}
