package fs_test

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/hullvm/hull/virtio/virtiotest"
	"github.com/hullvm/hull/vmm/share"
)

// seeds are requests of every kind. Node and handle 2 to 4 are those that FuzzMessages opens first.
func seeds() [][]byte {
	w := func(n int) []uint32 { return make([]uint32, n) }
	return [][]byte{
		hello,
		request(lookup, 1, nil, "file\x00"), request(forget, 2, []uint32{1, 0}, ""), request(getattr, 2, w(4), ""),
		request(setattr, 2, []uint32{1<<0 | 1<<3 | 1<<4 | 1<<5, 0, 0, 0, 9, 0, 0, 0, 1, 0, 2, 0, 3, 0, 4, 5, 6, 0o600, 0, 0, 0, 0}, ""),
		request(readlink, 2, nil, ""), request(symlink, 1, nil, "made\x00../secret\x00"), request(mknod, 1, []uint32{0o100644, 0, 0, 0}, "node\x00"),
		request(mkdir, 1, []uint32{0o755, 0}, "dir\x00"), request(unlink, 1, nil, "made\x00"), request(rmdir, 1, nil, "dir\x00"),
		request(rename, 1, []uint32{1, 0}, "file\x00file2\x00"), request(rename2, 1, []uint32{1, 0, 1, 0}, "file2\x00file\x00"),
		request(link, 1, []uint32{2, 0}, "hard\x00"), request(open, 2, []uint32{2, 0}, ""), request(read, 2, transfer(3, 0, 100), ""),
		request(write, 2, transfer(3, 0, 5), "hello"), request(statfs, 1, nil, ""), request(release, 2, []uint32{3, 0, 0, 0, 0, 0}, ""),
		request(fsync, 2, []uint32{3, 0, 1, 0}, ""), request(setxattr, 2, []uint32{3, 0}, "user.a\x00xyz"), request(getxattr, 2, []uint32{100, 0}, "user.a\x00"),
		request(listxattr, 2, []uint32{0, 0}, ""), request(removexattr, 2, nil, "user.a\x00"), request(flush, 2, []uint32{3, 0, 0, 0, 0, 0}, ""),
		request(opendir, 1, []uint32{0, 0}, ""), request(readdir, 1, transfer(4, 0, 1000), ""), request(readdirplus, 1, transfer(4, 0, 1000), ""),
		request(releasedir, 1, []uint32{4, 0, 0, 0, 0, 0}, ""), request(fsyncdir, 1, []uint32{4, 0, 0, 0}, ""),
		request(create, 1, []uint32{0x42, 0o644, 0, 0}, "created\x00"), request(destroy, 1, nil, ""),
		request(batchForget, 0, []uint32{1, 0, 2, 0, 1, 0}, ""), request(fallocate, 2, []uint32{3, 0, 0, 0, 10, 0, 1, 0, 3, 0}, ""),
		request(lseek, 2, []uint32{3, 0, 0, 0, 3, 0}, ""), request(copyFileRange, 2, []uint32{3, 0, 0, 0, 2, 0, 3, 0, 9, 0, 5, 0, 0, 0}, ""),
		request(31, 2, w(12), ""), request(34, 2, w(2), ""), request(36, 0, []uint32{unique, 0}, ""), request(37, 2, w(4), ""), request(39, 2, w(8), ""),
		request(40, 2, w(6), ""), request(41, 2, w(10), ""), request(48, 2, w(10), ""), request(50, 1, w(2), ""), request(51, 1, w(4), "/\x00"), request(52, 1, w(6), ""),
		request(lookup, 1, nil, "..\x00"), request(lookup, 1, nil, "../secret\x00"), request(create, 1, []uint32{0x241, 0o644, 0, 0}, "link\x00"),
	}
}

// Every request is refused when its end is missing, wherever it was cut, and the next is served.
func TestTruncatedMessages(t *testing.T) {
	g := mount(t, device(t, shared(t), share.Config{}))
	for _, whole := range seeds() {
		op := binary.LittleEndian.Uint32(whole[4:])
		for n := 40; n < len(whole); n++ {
			m := append([]byte(nil), whole[:n]...)
			binary.LittleEndian.PutUint32(m, uint32(n))
			if op == initialize && n >= 56 {
				continue // older versions of the protocol have less
			}
			g.drv.Mem.Rewind(g.mark)
			g.drv.Rings[requests].Exchange(virtiotest.Request{Name: "cut", Queue: requests, Out: m, In: 4096, Check: func(t testing.TB, in []byte, written int) {
				if op == forget || op == batchForget {
					if written != 0 {
						t.Errorf("opcode %d, %d bytes: %d bytes of answer", op, n, written)
					}
				} else if written != 16 || binary.LittleEndian.Uint32(in[4:]) == 0 {
					t.Errorf("opcode %d, %d bytes of %d: %x", op, n, len(whole), in[:written])
				}
			}}, virtiotest.Layout{Table: true})
		}
	}
	g.lookup(1, "file")
}

// FuzzMessages sends messages with all that is right about the ring, and a length that fits: so that most get as far as
// the file system. A script is a sequence of: 2 bytes of length, 2 of room for the answer, the message.
func FuzzMessages(f *testing.F) {
	script := func(messages ...[]byte) (b []byte) {
		for _, m := range messages {
			b = binary.LittleEndian.AppendUint16(b, uint16(len(m)))
			b = append(append(b, 0xff, 0x1f), m...)
		}
		return b
	}
	f.Add(script(seeds()...))
	for _, s := range seeds() {
		f.Add(script(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := shared(t)
		g := mount(t, device(t, dir, share.Config{}))
		g.lookup(1, "file")
		g.open(open, 2, 2)
		g.open(opendir, 1, 0)
		for len(b) > 4 {
			n, room := int(binary.LittleEndian.Uint16(b)), int(binary.LittleEndian.Uint16(b[2:]))%0x2000
			m := append([]byte(nil), b[4:min(4+n, len(b))]...)
			b = b[min(4+n, len(b)):]
			if len(m) >= 4 {
				binary.LittleEndian.PutUint32(m, uint32(len(m)))
			}
			if len(m)+room == 0 {
				continue
			}
			g.drv.Mem.Rewind(g.mark)
			g.drv.Rings[requests].Exchange(virtiotest.Request{Name: "message", Queue: requests, Out: m, In: room, Check: func(t testing.TB, in []byte, written int) {
				if written != 0 && (written < 16 || int(binary.LittleEndian.Uint32(in)) < written) {
					t.Errorf("%d bytes of answer: %x", written, in[:written])
				}
			}}, virtiotest.Layout{Table: true})
		}
		if g.drv.Status()&virtiotest.NeedsReset != 0 {
			t.Errorf("the device has given up: %v", g.drv.Dev.Failure())
		}
		if got, err := os.ReadFile(filepath.Join(dir, "../secret")); string(got) != "secret" || err != nil {
			t.Errorf("what is outside is now %q, %v", got, err)
		}
		if list, err := os.ReadDir(filepath.Dir(dir)); len(list) != 2 || err != nil {
			t.Errorf("outside there is now: %v, %v", list, err)
		}
	})
}
