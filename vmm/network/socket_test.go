package network

import (
	"bytes"
	"io"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair is a Socket and its other end.
func pair(t testing.TB) (*Socket, int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewSocket(os.NewFile(uintptr(fds[0]), "net"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, fds[1]
}

// readable reports whether a backend's descriptor says within a time in ms that there is a frame.
func readable(t *testing.T, fd, patience int) bool {
	t.Helper()
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, patience)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		return n > 0
	}
}

// patience is how long a frame may take, in ms.
const patience = 10_000

func message(frame []byte) []byte { return append([]byte{2, 11: 0}, frame...) }

func TestSocket(t *testing.T) {
	s, other := pair(t)
	defer unix.Close(other)
	if err := s.Start(0); err != nil {
		t.Fatal(err)
	}
	want := bytes.Repeat([]byte("frame"), 12000)
	s.Send(&[headerSize]byte{1}, [][]byte{want[:10], want[10:]})
	buf := make([]byte, 70000)
	n, err := unix.Read(other, buf)
	if err != nil || buf[0] != 1 || !bytes.Equal(buf[headerSize:n], want) {
		t.Fatalf("%d bytes, %v", n, err)
	}

	var h [headerSize]byte
	for round := range 3 {
		if n, err := s.Receive(&h, [][]byte{buf}); n != 0 || err != nil {
			t.Fatalf("round %d: %d bytes of nothing, %v", round, n, err)
		}
		if readable(t, s.FD(), 0) {
			t.Fatalf("round %d: nothing is said to be a frame", round)
		}
		for _, m := range [][]byte{message(want), []byte("no frame"), message([]byte("second"))} {
			if _, err := unix.Write(other, m); err != nil {
				t.Fatal(err)
			}
		}
		if !readable(t, s.FD(), patience) {
			t.Fatal("nobody says that there is a frame")
		}
		small := make([]byte, 100)
		if n, err := s.Receive(&h, [][]byte{small}); n != len(want) || err != nil {
			t.Fatalf("a frame that does not fit: %d bytes, %v; want %d", n, err, len(want))
		}
		n, err := s.Receive(&h, [][]byte{buf[:7], buf[7:]})
		if err != nil || h[0] != 2 || !bytes.Equal(buf[:n], want) {
			t.Fatalf("%d bytes, %v", n, err)
		}
		if n, err := s.Receive(&h, [][]byte{small}); string(small[:n]) != "second" || err != nil {
			t.Fatalf("%q, %v", small[:n], err)
		}
	}
	if _, err := unix.Write(other, message(want)); err != nil {
		t.Fatal(err)
	}
	s.Drop()
	if n, err := s.Receive(&h, [][]byte{buf}); n != 0 || err != nil {
		t.Errorf("%d bytes after they were dropped, %v", n, err)
	}
}

func TestSocketWhoseOtherEndIsGone(t *testing.T) {
	s, other := pair(t)
	if err := s.Start(0); err != nil {
		t.Fatal(err)
	}
	unix.Close(other)
	buf := make([]byte, 100)
	for range 3 {
		s.Send(&[headerSize]byte{}, [][]byte{buf})
		if n, err := s.Receive(&[headerSize]byte{}, [][]byte{buf}); n != 0 || err != io.EOF {
			t.Errorf("%d bytes, %v", n, err)
		}
	}
}

func TestSocketDropsWhenNobodyReads(t *testing.T) {
	s, other := pair(t)
	defer unix.Close(other)
	frame := make([]byte, 60000)
	begin := time.Now()
	for time.Since(begin) < 3*sendPatience*time.Millisecond {
		s.Send(&[headerSize]byte{}, [][]byte{frame})
	}
}

func TestNewSocketRefusesOtherFiles(t *testing.T) {
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := NewSocket(f); err == nil {
		t.Error("/dev/null is a network")
	}
}
