package network

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// inNamespace runs f in a network namespace of its own, with a /sys that shows it. What f opens belongs there for good.
func inNamespace(t testing.TB, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a network namespace needs root")
	}
	if _, err := os.Stat(tunDevice); err != nil {
		t.Skipf("no tap interfaces here: %v", err)
	}
	done := make(chan error, 1)
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: the thread goes with its namespaces
		err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, "")
		}
		if err == nil {
			err = unix.Mount("sysfs", "/sys", "sysfs", 0, "")
		}
		if err != nil {
			done <- err
			return
		}
		// A kernel that has nothing to say by itself.
		_ = os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0)
		f()
	}()
	if err := <-done; err != nil {
		t.Skipf("no network namespace here: %v", err)
	}
}

const tapName = "t0"

// hostEnd is the host's side of a tap interface: sockets that see frames of etherType, and those of IP with a header of
// virtio_net before them, and one to its kernel.
type hostEnd struct {
	fd, ip int
	kernel *netlink.Handle
}

// delete removes the interface.
func (h hostEnd) delete(t testing.TB) {
	t.Helper()
	link, err := h.kernel.LinkByName(tapName)
	if err == nil {
		err = h.kernel.LinkDel(link)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// newTap makes a tap interface with queues and the host's end.
func newTap(t testing.TB, queues int) ([]*Tap, hostEnd) { return newTapOf(t, queues, 1500) }

func newTapOf(t testing.TB, queues, mtu int) ([]*Tap, hostEnd) {
	t.Helper()
	var taps []*Tap
	var host hostEnd
	inNamespace(t, func() {
		files, err := OpenTap(tapName, queues)
		if err != nil {
			t.Error(err)
			return
		}
		if files.MTU != 1500 || len(files.Queues) != queues {
			t.Errorf("MTU %d, %d queues", files.MTU, len(files.Queues))
		}
		if taps, err = NewTap(files.Queues...); err != nil {
			t.Error(err)
		}
		if link, err := netlink.LinkByName(tapName); err != nil || netlink.LinkSetMTU(link, mtu) != nil {
			t.Errorf("an MTU of %d: %v", mtu, err)
		}
		host = hostEnd{fd: listenTap(t, etherType, 0), ip: listenTap(t, unix.ETH_P_IP, 1)}
		if host.kernel, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
			t.Error(err)
		}
	})
	if t.Failed() {
		t.FailNow()
	}
	t.Cleanup(func() {
		unix.Close(host.fd)
		unix.Close(host.ip)
		host.kernel.Close()
		for _, tap := range taps {
			tap.Close()
		}
	})
	return taps, host
}

// etherType of the frames in these tests: one of those for experiments (IEEE 802), that no kernel answers.
const etherType = 0x88b5

func listenTap(t testing.TB, kind uint16, header int) int {
	proto := kind>>8 | kind<<8
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(proto))
	if err != nil {
		t.Error(err)
		return -1
	}
	ifi, err := net.InterfaceByName(tapName)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: proto, Ifindex: ifi.Index})
	}
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, header)
	}
	timeout := unix.NsecToTimeval(int64(10 * time.Second))
	if err == nil {
		err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout)
	}
	if err != nil {
		t.Error(err)
	}
	return fd
}

// testFrame is an Ethernet frame of n bytes in all.
func testFrame(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*3) ^ byte(i>>8) ^ seed
	}
	copy(b, "\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x01")
	b[12], b[13] = etherType>>8, etherType&0xff
	return b
}

func TestTap(t *testing.T) {
	taps, host := newTap(t, 1)
	tap := taps[0]
	if err := tap.Start(tap.Offloads()); err != nil {
		t.Fatal(err)
	}
	// Out, in a few pieces and in more than one call takes.
	buf := make([]byte, 70000)
	for _, piece := range []int{1514, 700, 1} {
		want := testFrame(1514, byte(piece))
		var pieces [][]byte
		for b := want; len(b) > 0; b = b[min(piece, len(b)):] {
			pieces = append(pieces, b[:min(piece, len(b))])
		}
		tap.Send(&[headerSize]byte{}, pieces)
		if n, err := unix.Read(host.fd, buf); err != nil || !bytes.Equal(buf[:n], want) {
			t.Fatalf("pieces of %d: %d bytes, %v", piece, n, err)
		}
	}

	// In: the same, and into room that is too small.
	var h [headerSize]byte
	next := func(pieces ...[]byte) int {
		t.Helper()
		for {
			n, err := tap.Receive(&h, pieces)
			if err != nil {
				t.Fatal(err)
			}
			if n > 0 {
				return n
			}
			if !readable(t, tap.FD(), patience) {
				t.Fatal("nobody says that there is a frame")
			}
		}
	}
	drain := func() { // what the host's kernel says by itself, such as that it has come up
		for {
			if n, err := tap.Receive(&h, [][]byte{buf}); n == 0 || err != nil {
				return
			}
		}
	}
	drain()
	for seed := range byte(3) {
		want := testFrame(1400, seed)
		if _, err := unix.Write(host.fd, want); err != nil {
			t.Fatal(err)
		}
		small := make([]byte, 100)
		if n := next(small); n != len(want) {
			t.Fatalf("a frame that does not fit: %d bytes, want %d", n, len(want))
		}
		if n := next(small[:50], small[50:]); n != len(want) {
			t.Fatalf("once more: %d bytes, want %d", n, len(want))
		}
		single := make([][]byte, 1500) // more pieces than one call takes
		for i := range single {
			single[i] = buf[i : i+1]
		}
		clear(buf)
		if n := next(single...); !bytes.Equal(buf[:n], want) {
			t.Fatalf("%d bytes, and not those that were sent", n)
		}
		if _, err := unix.Write(host.fd, want); err != nil {
			t.Fatal(err)
		}
		for i := range single {
			single[i] = buf[i : i+1]
		}
		clear(buf)
		if n := next(single...); !bytes.Equal(buf[:n], want) { // not held before
			t.Fatalf("%d bytes, and not those that were sent", n)
		}
	}
	for _, held := range []bool{false, true} {
		for _, seed := range []byte{7, 8} {
			if _, err := unix.Write(host.fd, testFrame(1000, seed)); err != nil {
				t.Fatal(err)
			}
		}
		if held {
			next(make([]byte, 20))
		}
		tap.Drop()
		if n := next(buf); !bytes.Equal(buf[:n], testFrame(1000, 8)) {
			t.Errorf("held %v: after a drop comes not the second frame", held)
		}
	}
}

// A queue that was detached, and looked at meanwhile, is heard of again when it is attached.
func TestTapDetachAndAttach(t *testing.T) {
	taps, host := newTap(t, 2)
	tap, buf := taps[0], make([]byte, 70000)
	attach := func(tap *Tap, on bool) {
		t.Helper()
		if err := tap.Attach(on); err != nil {
			t.Fatal(err)
		}
	}
	attach(taps[1], false)
	for round := range 3 {
		for n := 1; n > 0; {
			n, _ = tap.Receive(&[headerSize]byte{}, [][]byte{buf})
		}
		if readable(t, tap.FD(), 0) {
			t.Fatalf("round %d: nothing is said to be a frame", round)
		}
		if _, err := unix.Write(host.fd, testFrame(100, 1)); err != nil {
			t.Fatal(err)
		}
		if !readable(t, tap.FD(), patience) {
			t.Fatalf("round %d: nobody says that there is a frame", round)
		}
		attach(taps[1], true) // there must be one
		attach(tap, false)
		if n, err := tap.Receive(&[headerSize]byte{}, [][]byte{buf}); n != 0 || err != nil {
			t.Fatalf("round %d: detached: %d bytes, %v", round, n, err)
		}
		if readable(t, tap.FD(), 0) {
			t.Fatalf("round %d: detached, and said to have a frame", round)
		}
		attach(tap, true)
		attach(taps[1], false)
	}
}

// A host that sends while nobody takes frames neither blocks nor makes anything grow, and what comes later arrives.
func TestTapFlood(t *testing.T) {
	taps, host := newTap(t, 1)
	if err := taps[0].Start(0); err != nil {
		t.Fatal(err)
	}
	const flood = 20000
	_ = unix.SetNonblock(host.fd, true)
	for range flood {
		if _, err := unix.Write(host.fd, testFrame(1514, 1)); err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.ENOBUFS) {
			t.Fatal(err)
		}
	}
	buf := make([]byte, 70000)
	kept := 0
	for {
		n, err := taps[0].Receive(&[headerSize]byte{}, [][]byte{buf})
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			break
		}
		kept++
	}
	if kept == 0 || kept > flood/2 {
		t.Errorf("%d frames of %d were kept", kept, flood)
	}
	if _, err := unix.Write(host.fd, testFrame(200, 2)); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); ; {
		if n, _ := taps[0].Receive(&[headerSize]byte{}, [][]byte{buf}); bytes.Equal(buf[:n], testFrame(200, 2)) {
			break
		}
		if time.Now().After(end) {
			t.Fatal("nothing comes after the flood")
		}
	}
}

// An interface that is deleted under a running guest is a cable that nobody holds: an end, and no error.
func TestTapThatIsDeleted(t *testing.T) {
	taps, host := newTap(t, 2)
	for _, tap := range taps {
		if err := tap.Start(0); err != nil {
			t.Fatal(err)
		}
	}
	host.delete(t)
	for range 3 {
		for i, tap := range taps {
			tap.Send(&[headerSize]byte{}, [][]byte{testFrame(100, 1)})
			tap.Drop()
			if n, err := tap.Receive(&[headerSize]byte{}, [][]byte{make([]byte, 2000)}); n != 0 || err != io.EOF {
				t.Errorf("queue %d: %d bytes, %v", i, n, err)
			}
		}
	}
}

func TestTapQueues(t *testing.T) {
	taps, host := newTap(t, 3)
	for i, tap := range taps {
		if err := tap.Start(0); err != nil {
			t.Fatalf("queue %d: %v", i, err)
		}
	}
	for _, used := range []int{1, 3, 2, 3} {
		for i, tap := range taps {
			if err := tap.Attach(i < used); err != nil {
				t.Fatalf("%d queues, queue %d: %v", used, i, err)
			}
		}
		for i, tap := range taps {
			// Each sends, attached or not: the driver may have queued frames before it gave up the pair.
			tap.Send(&[headerSize]byte{}, [][]byte{testFrame(100, byte(i))})
			buf := make([]byte, 2000)
			if n, err := unix.Read(host.fd, buf); err != nil || !bytes.Equal(buf[:n], testFrame(100, byte(i))) {
				t.Errorf("%d queues: what queue %d has sent: %d bytes, %v", used, i, n, err)
			}
		}
		// Many flows, so that each queue would get some: those that are not attached get none.
		for flow := range 200 {
			if _, err := unix.Write(host.fd, testFrame(100+flow, byte(flow))); err != nil {
				t.Fatal(err)
			}
		}
		came := 0
		for i, tap := range taps {
			buf := make([]byte, 2000)
			n, err := tap.Receive(&[headerSize]byte{}, [][]byte{buf})
			for ; n > 0 && err == nil; n, err = tap.Receive(&[headerSize]byte{}, [][]byte{buf}) {
				if i >= used {
					t.Fatalf("%d queues: queue %d gets a frame", used, i)
				}
				if buf[12] == etherType>>8 && buf[13] == etherType&0xff {
					came++
				}
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if came != 200 {
			t.Errorf("%d queues: %d of 200 frames came", used, came)
		}
	}
}

func TestNewTapRefusesOtherFiles(t *testing.T) {
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := NewTap(f); err == nil {
		t.Error("/dev/null is a tap interface")
	}
}
