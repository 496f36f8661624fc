package fs_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/hullvm/hull/virtio"
	"github.com/hullvm/hull/virtio/fs"
	"github.com/hullvm/hull/virtio/mmio"
	"github.com/hullvm/hull/virtio/virtiotest"
	"github.com/hullvm/hull/vmm/share"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Opcodes, written down a second time.
const (
	lookup, forget, getattr, setattr, readlink, symlink, mknod, mkdir, unlink, rmdir, rename, link = 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13
	open, read, write, statfs, release, fsync, setxattr, getxattr, listxattr, removexattr, flush   = 14, 15, 16, 17, 18, 20, 21, 22, 23, 24, 25
	initialize, opendir, readdir, releasedir, fsyncdir, create, destroy, batchForget               = 26, 27, 28, 29, 30, 35, 38, 42
	fallocate, readdirplus, rename2, lseek, copyFileRange                                          = 43, 44, 45, 46, 47
)

const (
	hiprio    = 0
	requests  = 1
	configLen = 40
	unique    = 0xabcdef
)

// request is a FUSE message: opcode, node, the fixed part in 32-bit words, and what follows.
func request(op uint32, node uint64, words []uint32, tail string) []byte {
	le := binary.LittleEndian
	b := make([]byte, 40)
	le.PutUint32(b[4:], op)
	le.PutUint64(b[8:], unique)
	le.PutUint64(b[16:], node)
	for _, w := range words {
		b = le.AppendUint32(b, w)
	}
	b = append(b, tail...)
	le.PutUint32(b, uint32(len(b)))
	return b
}

var hello = request(initialize, 0, append([]uint32{7, 41, 1 << 17, 1<<0 | 1<<5 | 1<<12 | 1<<13 | 1<<22 | 1<<28 | 1<<30}, make([]uint32, 12)...), "")

// shared makes a directory with a few things in it, and a file beside it that nobody must see.
func shared(t testing.TB) string {
	dir := filepath.Join(t.TempDir(), "shared")
	for _, d := range []string{dir, filepath.Join(dir, "sub")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range map[string]string{"file": "content", "sub/other": strings.Repeat("x", 5000), "../secret": "secret"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../secret", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func device(t testing.TB, path string, cfg share.Config) *fs.Device {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cfg.File, cfg.MaxNodes, cfg.MaxFiles = f, 1000, 100
	files, err := share.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { files.Close() })
	d, err := fs.New(fs.Config{Tag: "test", Queues: 2, ReadDirPlus: true, FileSystem: files})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// answered checks an answer's header and returns what follows it.
func answered(t testing.TB, in []byte, written int, want syscall.Errno) []byte {
	t.Helper()
	if written < 16 {
		t.Fatalf("%d bytes of answer", written)
	}
	le := binary.LittleEndian
	if n := le.Uint32(in); int(n) != written {
		t.Errorf("an answer of %d bytes says that it has %d", written, n)
	}
	if got := syscall.Errno(-int32(le.Uint32(in[4:]))); got != want {
		t.Errorf("answer: %v, want %v", got, want)
	}
	if le.Uint64(in[8:]) != unique {
		t.Errorf("the answer is to request %#x", le.Uint64(in[8:]))
	}
	for i, b := range in[written:] {
		if b != virtiotest.Untouched {
			t.Fatalf("byte %d, past the answer, was written", written+i)
		}
	}
	return in[16:written]
}

func checkHello(t testing.TB, in []byte, written int) {
	t.Helper()
	out := answered(t, in, written, 0)
	le := binary.LittleEndian
	if len(out) != 64 || le.Uint32(out) != 7 || le.Uint32(out[20:]) != fs.MaxTransfer || le.Uint16(out[28:]) != fs.MaxTransfer/4096 {
		t.Errorf("answer to INIT: %x", out)
	}
	// Only what was offered and is served: no locks, no ACLs, no DAX.
	if flags, want := le.Uint32(out[12:]), uint32(1<<0|1<<5|1<<12|1<<13|1<<22|1<<28|1<<30); flags != want {
		t.Errorf("flags %#x, want %#x", flags, want)
	}
}

func connect(dev virtio.Device, mem virtio.Memory, irq virtiotest.IRQ) (virtiotest.Transport, error) {
	return mmio.New(dev, mem, irq, mmio.Options{})
}

func suite(path string) virtiotest.Suite {
	return virtiotest.Suite{
		New:       func(t testing.TB) virtio.Device { return device(t, path, share.Config{}) },
		Connect:   connect,
		ConfigLen: configLen,
		Requests: []virtiotest.Request{
			{Name: "INIT", Queue: requests, Out: hello, In: 80, Check: checkHello},
			{Name: "GETATTR", Queue: requests, Out: request(getattr, 1, make([]uint32, 4), ""), In: 120, Check: func(t testing.TB, in []byte, written int) {
				if out := answered(t, in, written, 0); len(out) != 104 || binary.LittleEndian.Uint32(out[16+60:])&syscall.S_IFDIR == 0 {
					t.Errorf("attributes %x", out)
				}
			}},
			{Name: "LOOKUP", Queue: requests, Out: request(lookup, 1, nil, "nothing\x00"), In: 144, Check: func(t testing.TB, in []byte, written int) {
				answered(t, in, written, syscall.ENOENT)
			}},
			{Name: "unknown", Queue: hiprio, Out: request(1000, 1, nil, ""), In: 16, Check: func(t testing.TB, in []byte, written int) {
				answered(t, in, written, syscall.ENOSYS)
			}},
			{Name: "FORGET", Queue: hiprio, Out: request(forget, 7, []uint32{1, 0}, ""), Check: func(t testing.TB, _ []byte, written int) {
				if written != 0 {
					t.Errorf("%d bytes of answer to a FORGET", written)
				}
			}},
			{Name: "no header", Queue: requests, Out: make([]byte, 39), In: 100, Check: func(t testing.TB, _ []byte, written int) {
				if written != 0 {
					t.Errorf("%d bytes of answer to nothing", written)
				}
			}},
		},
	}
}

func TestSuite(t *testing.T) { virtiotest.Run(t, suite(shared(t))) }

func FuzzRing(f *testing.F)      { suite(shared(f)).FuzzRing(f) }
func FuzzRegisters(f *testing.F) { suite(shared(f)).FuzzRegisters(f) }

// guest is a driver with a session.
type guest struct {
	t    testing.TB
	drv  *virtiotest.Driver
	mark uint64 // of memory beyond the rings
}

func mount(t testing.TB, dev virtio.Device) *guest {
	t.Helper()
	s := suite("")
	s.New = func(testing.TB) virtio.Device { return dev }
	g := &guest{t: t, drv: s.NewDriver(t)}
	g.start()
	g.call(hello, 64, 0)
	return g
}

func (g *guest) start() {
	g.drv.Start(virtiotest.Version1 | virtiotest.IndirectDesc)
	g.mark = g.drv.Mem.Mark()
}

// call sends a request with room for an answer of size bytes and returns what was answered.
func (g *guest) call(out []byte, size int, want syscall.Errno) (answer []byte) {
	g.t.Helper()
	g.drv.Mem.Rewind(g.mark)
	g.drv.Rings[requests].Exchange(virtiotest.Request{
		Name: "request", Queue: requests, Out: out, In: 16 + size,
		Check: func(t testing.TB, in []byte, written int) { answer = bytes.Clone(answered(t, in, written, want)) },
	}, virtiotest.Layout{Table: true, Piece: 4096})
	return answer
}

func (g *guest) lookup(node uint64, name string) uint64 {
	g.t.Helper()
	return binary.LittleEndian.Uint64(g.call(request(lookup, node, nil, name+"\x00"), 128, 0))
}

func (g *guest) open(op uint32, node uint64, flags uint32) (handle uint32) {
	g.t.Helper()
	return binary.LittleEndian.Uint32(g.call(request(op, node, []uint32{flags, 0}, ""), 16, 0))
}

// transfer is the fixed part of READ, READDIR and WRITE.
func transfer(handle uint32, off uint64, size int) []uint32 {
	return []uint32{handle, 0, uint32(off), uint32(off >> 32), uint32(size), 0, 0, 0, 0, 0}
}

func TestReadAndWrite(t *testing.T) {
	dir := shared(t)
	g := mount(t, device(t, dir, share.Config{}))
	file := g.lookup(1, "file")
	h := g.open(open, file, syscall.O_RDWR)
	// In pieces of 4096 bytes, and in one.
	data := bytes.Repeat([]byte("0123456789abcdef"), 4000)
	if got := g.call(request(write, file, transfer(h, 7, len(data)), string(data)), 8, 0); binary.LittleEndian.Uint32(got) != uint32(len(data)) {
		t.Errorf("written: %x", got)
	}
	want := append([]byte("content"), data...)
	if got := g.call(request(read, file, transfer(h, 0, 100000), ""), 100000, 0); !bytes.Equal(got, want) {
		t.Errorf("%d bytes read, want %d", len(got), len(want))
	}
	if got := g.call(request(read, file, transfer(h, 3, 100), ""), 100, 0); !bytes.Equal(got, want[3:103]) {
		t.Errorf("read %q", got)
	}
	if got := g.call(request(read, file, transfer(h, 1<<40, 100), ""), 100, 0); len(got) != 0 {
		t.Errorf("%d bytes past the end", len(got))
	}
	g.call(request(read, file, transfer(h, 1<<63, 100), ""), 100, syscall.EINVAL)
	g.call(request(read, file, transfer(h+100, 0, 100), ""), 100, syscall.EBADF)
	if got, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes on the host, %v", len(got), err)
	}
	g.call(request(release, file, []uint32{h, 0, 0, 0, 0, 0}, ""), 0, 0)
	g.call(request(read, file, transfer(h, 0, 100), ""), 100, syscall.EBADF)
}

func TestReadDir(t *testing.T) {
	g := mount(t, device(t, shared(t), share.Config{}))
	h := g.open(opendir, 1, 0)
	for op, skip := range map[uint32]int{readdir: 0, readdirplus: 128} {
		found := map[string]int{}
		for off, round := uint64(0), 0; round < 100; round++ {
			list := g.call(request(op, 1, transfer(h, off, 200), ""), 200, 0) // room for one or two
			if len(list) == 0 {
				break
			}
			for len(list) > 0 {
				e := list[skip:]
				n := int(binary.LittleEndian.Uint32(e[16:]))
				off = binary.LittleEndian.Uint64(e[8:])
				found[string(e[24:24+n])]++
				list = e[(24+n+7)&^7:]
			}
		}
		for _, name := range []string{".", "..", "file", "link", "sub"} {
			if found[name] != 1 {
				t.Errorf("opcode %d: %q was listed %d times", op, name, found[name])
			}
		}
		if len(found) != 5 {
			t.Errorf("opcode %d: %v", op, found)
		}
	}
}

// A name that go-fuse keeps for itself is one like any other.
func TestNameOfGoFuse(t *testing.T) {
	dir := shared(t)
	g := mount(t, device(t, dir, share.Config{}))
	const name = ".go-fuse-epoll-hack"
	g.call(request(lookup, 1, nil, name+"\x00"), 128, syscall.ENOENT)
	if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	g.lookup(1, name)
	g.call(request(unlink, 1, nil, name+"\x00"), 0, 0)
	if _, err := os.Lstat(filepath.Join(dir, name)); !os.IsNotExist(err) {
		t.Error(err)
	}
}

func openFiles(t testing.TB) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// Reset, DESTROY and a second INIT close what the guest had open; a pause does not.
func TestEndOfSession(t *testing.T) {
	g := mount(t, device(t, shared(t), share.Config{}))
	before := openFiles(t)
	for name, end := range map[string]func(){
		"reset":   func() { g.drv.Reset() },
		"DESTROY": func() { g.call(request(destroy, 1, nil, ""), 0, 0) },
		"INIT":    func() { g.call(hello, 64, 0) },
	} {
		file := g.lookup(1, "file")
		h := g.open(open, file, 0)
		dir := g.open(opendir, 1, 0)
		if err := g.drv.Dev.Pause(); err != nil {
			t.Fatal(err)
		}
		if err := g.drv.Dev.Resume(); err != nil {
			t.Fatal(err)
		}
		g.call(request(read, file, transfer(h, 0, 7), ""), 7, 0)
		if n := openFiles(t); n != before+3 {
			t.Errorf("%s: %d descriptors with a node and two files, %d before", name, n, before)
		}
		end()
		if n := openFiles(t); n != before {
			t.Errorf("%s: %d descriptors, %d before", name, n, before)
		}
		g.start()
		g.call(request(getattr, 1, make([]uint32, 4), ""), 104, syscall.EIO) // before INIT
		g.call(hello, 64, 0)
		g.call(request(getattr, file, make([]uint32, 4), ""), 104, syscall.ESTALE)
		g.call(request(releasedir, 1, []uint32{dir, 0, 0, 0, 0, 0}, ""), 0, 0)
		g.call(request(read, file, transfer(h, 0, 7), ""), 7, syscall.EBADF)
	}
}

func TestConfigSpace(t *testing.T) {
	d := device(t, shared(t), share.Config{})
	b := make([]byte, configLen)
	d.ReadConfig(0, b)
	if string(bytes.TrimRight(b[:36], "\x00")) != "test" || binary.LittleEndian.Uint32(b[36:]) != 2 {
		t.Errorf("configuration %q", b)
	}
	d.ReadConfig(^uint64(0), b)
}

func TestNew(t *testing.T) {
	files := &share.FileSystem{}
	for name, cfg := range map[string]fs.Config{
		"no tag":         {Queues: 1, FileSystem: files},
		"long tag":       {Tag: strings.Repeat("x", 37), Queues: 1, FileSystem: files},
		"zero in tag":    {Tag: "a\x00b", Queues: 1, FileSystem: files},
		"no queue":       {Tag: "a", FileSystem: files},
		"many queues":    {Tag: "a", Queues: fs.MaxQueues + 1, FileSystem: files},
		"no file system": {Tag: "a", Queues: 1},
	} {
		if _, err := fs.New(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := fs.New(fs.Config{Tag: strings.Repeat("x", 36), Queues: 1, FileSystem: files}); err != nil {
		t.Error(err)
	}
}
