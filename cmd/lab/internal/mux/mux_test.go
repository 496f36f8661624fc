package mux

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

// pair returns both ends of a session over a synchronous pipe.
func pair(t *testing.T) (host, guest *Session) {
	t.Helper()
	a, b := net.Pipe()
	host, guest = New(a, Host), New(b, Guest)
	t.Cleanup(func() {
		host.Close()
		guest.Close()
		<-host.Done()
		<-guest.Done()
		goleak.VerifyNone(t)
	})
	return host, guest
}

func open(t *testing.T, from, to *Session) (near, far *Stream) {
	t.Helper()
	near, err := from.Open()
	if err != nil {
		t.Fatal(err)
	}
	far, err = to.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return near, far
}

func TestManyStreamsKeepTheirBytes(t *testing.T) {
	host, guest := pair(t)
	var wg sync.WaitGroup
	for i := range 8 {
		from, to := host, guest
		if i%2 == 1 {
			from, to = guest, host
		}
		near, far := open(t, from, to)
		data := make([]byte, 3*window+17*i)
		source := rand.NewChaCha8([32]byte{byte(i)})
		source.Read(data)
		// far echoes all it gets; near writes and reads at the same time.
		wg.Go(func() {
			defer far.Close()
			if _, err := io.Copy(far, far); err != nil {
				t.Error(err)
			}
			if err := far.CloseWrite(); err != nil {
				t.Error(err)
			}
			io.Copy(io.Discard, far)
		})
		wg.Go(func() {
			if _, err := near.Write(data); err != nil {
				t.Error(err)
			}
			if err := near.CloseWrite(); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			defer near.Close()
			back, err := io.ReadAll(near)
			if err != nil {
				t.Error(err)
			}
			if sha256.Sum256(back) != sha256.Sum256(data) {
				t.Errorf("stream %d: %d bytes came back changed", i, len(back))
			}
		})
	}
	wg.Wait()
}

// TestStreamsOpenedAtOnce: the peer takes numbers in ascending order only, whichever
// goroutine comes first.
func TestStreamsOpenedAtOnce(t *testing.T) {
	host, guest := pair(t)
	for range 100 {
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				st, err := host.Open()
				if err != nil {
					t.Error(err)
					return
				}
				st.Close()
			})
		}
		wg.Wait()
		for range 8 {
			st, err := guest.Accept()
			if err != nil {
				t.Fatal(err)
			}
			st.Close()
		}
	}
}

func TestStalledReaderStopsOnlyItsWriter(t *testing.T) {
	host, guest := pair(t)
	stalled, far := open(t, host, guest)
	var wg sync.WaitGroup
	wg.Go(func() {
		n, err := stalled.Write(make([]byte, 2*window))
		if n != window || !errors.Is(err, ErrClosed) {
			t.Errorf("wrote %d, %v to a reader that never reads; want %d", n, err, window)
		}
	})
	live, echo := open(t, host, guest)
	wg.Go(func() {
		io.Copy(echo, echo)
		echo.CloseWrite()
	})
	for range 100 {
		if _, err := live.Write([]byte("ping")); err != nil {
			t.Fatal(err)
		}
		var b [4]byte
		if _, err := io.ReadFull(live, b[:]); err != nil {
			t.Fatal(err)
		}
	}
	live.CloseWrite()
	// All of the window has arrived, and no more.
	var b [window]byte
	far.mu.Lock()
	for len(far.buffer) < window {
		far.changed.Wait()
	}
	far.mu.Unlock()
	far.Close()
	if _, err := io.ReadFull(far, b[:]); !errors.Is(err, ErrClosed) {
		t.Errorf("reading a closed stream: %v", err)
	}
	wg.Wait()
}

func TestHalfCloseAndReset(t *testing.T) {
	host, guest := pair(t)
	near, far := open(t, guest, host)
	if err := near.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := near.Write([]byte("x")); !errors.Is(err, ErrClosed) {
		t.Errorf("write after CloseWrite: %v", err)
	}
	if _, err := far.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("read of an ended direction: %v", err)
	}
	if _, err := far.Write([]byte("still open")); err != nil {
		t.Fatal(err)
	}
	if err := far.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	far.Close()
	// What was sent before the reset is still read.
	got, err := io.ReadAll(near)
	if err != nil || string(got) != "still open" {
		t.Errorf("read %q, %v", got, err)
	}
	near.Close()
	near.Close()
}

func TestPeerGone(t *testing.T) {
	a, b := net.Pipe()
	s := New(a, Host)
	st, err := func() (*Stream, error) {
		go io.CopyN(io.Discard, b, headerSize)
		return s.Open()
	}()
	if err != nil {
		t.Fatal(err)
	}
	b.Close()
	<-s.Done()
	if _, err := st.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("read: %v", err)
	}
	if _, err := st.Write(make([]byte, 1)); err == nil {
		t.Error("write to a peer that is gone succeeded")
	}
	if _, err := s.Open(); err == nil {
		t.Error("open after the end succeeded")
	}
	if _, err := s.Accept(); err == nil {
		t.Error("accept after the end succeeded")
	}
}

// hostile is what a peer may send, and whether the session survives it.
var hostile = []struct {
	name string
	data []byte
	bad  bool
}{
	{"nothing", nil, false},
	{"half a header", []byte{kindOpen, 0, 0}, false},
	{"unknown kind", header{9, 2, 0}.append(nil), true},
	{"data for a stream never opened", append(header{kindData, 8, 1}.append(nil), 0), true},
	{"stream number of the other side", header{kindOpen, 3, 0}.append(nil), true},
	{"stream opened twice", header{kindOpen, 2, 0}.append(header{kindOpen, 2, 0}.append(nil)), true},
	{"empty data", header{kindData, 2, 0}.append(header{kindOpen, 2, 0}.append(nil)), true},
	{"huge data", header{kindData, 2, 1 << 31}.append(header{kindOpen, 2, 0}.append(nil)), true},
	{"data after the end", append(header{kindData, 2, 1}.append(header{kindEnd, 2, 0}.append(header{kindOpen, 2, 0}.append(nil))), 0), true},
	{"too much credit", append(header{kindWindow, 2, 4}.append(header{kindOpen, 2, 0}.append(nil)), 0, 0, 0, 1), true},
	{"window of a wrong size", header{kindWindow, 2, 3}.append(header{kindOpen, 2, 0}.append(nil)), true},
	{"stream zero", header{kindOpen, 0, 0}.append(nil), true},
}

// oneWay is a connection whose peer has said all it will say, and reads nothing.
type oneWay struct{ io.Reader }

func (oneWay) Write(p []byte) (int, error) { return len(p), nil }
func (oneWay) Close() error                { return nil }

func TestHostilePeer(t *testing.T) {
	for _, c := range hostile {
		s := New(oneWay{bytes.NewReader(c.data)}, Host)
		<-s.Done()
		if bad := errors.Is(s.Err(), ErrProtocol); bad != c.bad {
			t.Errorf("%s: %v", c.name, s.Err())
		}
	}
}

func TestTooManyStreams(t *testing.T) {
	var b []byte
	for i := range uint32(maxStreams + 1) {
		b = header{kindOpen, 2 + 2*i, 0}.append(b)
	}
	s := New(oneWay{bytes.NewReader(b)}, Host)
	<-s.Done()
	if !errors.Is(s.Err(), ErrProtocol) {
		t.Errorf("%v", s.Err())
	}
}

// FuzzSession feeds a session any bytes: it must end, without a panic, and hold
// no more than its windows.
func FuzzSession(f *testing.F) {
	for _, c := range hostile {
		f.Add(c.data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s := New(oneWay{bytes.NewReader(data)}, Host)
		if st, err := s.Open(); err == nil {
			defer st.Close()
		}
		<-s.Done()
		for {
			select {
			case st := <-s.accept:
				if len(st.buffer) > window {
					t.Errorf("stream %d holds %d bytes", st.id, len(st.buffer))
				}
			default:
				return
			}
		}
	})
}
