package network

import (
	"bytes"
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
	t.Cleanup(func() {
		s.Stop()
		s.Close()
	})
	return s, fds[1]
}

func message(frame []byte) []byte { return append([]byte{2, 11: 0}, frame...) }

func TestSocket(t *testing.T) {
	s, other := pair(t)
	defer unix.Close(other)
	ready := make(chan struct{}, 100)
	if err := s.Start(0, func() { ready <- struct{}{} }); err != nil {
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
	wait := func() {
		t.Helper()
		select {
		case <-ready:
		case <-time.After(10 * time.Second):
			t.Fatal("nobody says that there is a frame")
		}
	}
	for round := range 3 {
		if n, err := s.Receive(&h, [][]byte{buf}); n != 0 || err != nil {
			t.Fatalf("round %d: %d bytes of nothing, %v", round, n, err)
		}
		for _, m := range [][]byte{message(want), []byte("no frame"), message([]byte("second"))} {
			if _, err := unix.Write(other, m); err != nil {
				t.Fatal(err)
			}
		}
		wait()
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
	ready := make(chan struct{}, 1000)
	if err := s.Start(0, func() { ready <- struct{}{} }); err != nil {
		t.Fatal(err)
	}
	unix.Close(other)
	buf := make([]byte, 100)
	for range 3 {
		s.Send(&[headerSize]byte{}, [][]byte{buf})
		if n, err := s.Receive(&[headerSize]byte{}, [][]byte{buf}); n != 0 || err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
	}
	time.Sleep(20 * time.Millisecond) // for a look-out that runs wild
	if n := len(ready); n > 2 {
		t.Errorf("ready came %d times for a socket that is closed", n)
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
