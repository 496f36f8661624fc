package serial

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hullvm/hull/devices"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// port drives a UART the way a guest does.
type port struct {
	t     *testing.T
	u     *UART
	edges atomic.Int64
	edge  chan struct{}
}

func newPort(t *testing.T, out io.Writer) *port {
	p := &port{t: t, edge: make(chan struct{}, 1)}
	irq := func() {
		p.edges.Add(1)
		select {
		case p.edge <- struct{}{}:
		default:
		}
	}
	p.u = New(Config{IRQ: devices.IRQFunc(irq), Output: out})
	t.Cleanup(func() {
		if err := p.u.Close(time.Minute); err != nil && out != nil {
			t.Logf("Close: %v", err)
		}
	})
	return p
}

func (p *port) in(off uint64) byte {
	b := []byte{0xaa}
	p.u.Read(off, b)
	return b[0]
}

func (p *port) out(off uint64, v byte) { p.u.Write(off, []byte{v}) }

func (p *port) want(what string, got, want byte) {
	p.t.Helper()
	if got != want {
		p.t.Errorf("%s = %#x, want %#x", what, got, want)
	}
}

// wantEdges checks how many interrupts have come since the last call.
func (p *port) wantEdges(what string, want int64) {
	p.t.Helper()
	if got := p.edges.Swap(0); got != want {
		p.t.Errorf("%s: %d interrupts, want %d", what, got, want)
	}
}

// lockedBuffer is an Output that can be looked at, and says when it was written to.
type lockedBuffer struct {
	mu     sync.Mutex
	buf    bytes.Buffer
	writes int
	wrote  chan struct{}
}

func newLockedBuffer() *lockedBuffer { return &lockedBuffer{wrote: make(chan struct{}, 1)} }

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.writes++
	select {
	case b.wrote <- struct{}{}:
	default:
	}
	return b.buf.Write(p)
}

func (b *lockedBuffer) wait(t *testing.T, want string) {
	t.Helper()
	for {
		b.mu.Lock()
		got := b.buf.String()
		b.mu.Unlock()
		if got == want {
			return
		}
		select {
		case <-b.wrote:
		case <-time.After(time.Minute):
			t.Fatalf("output %q, want %q", got, want)
		}
	}
}

func TestResetValues(t *testing.T) {
	p := newPort(t, nil)
	p.want("IER", p.in(regIER), 0)
	p.want("IIR", p.in(regIIR), iirNone)
	p.want("MCR", p.in(regMCR), 0)
	p.want("LSR", p.in(regLSR), lsrTHRE|lsrTEMT)
	p.want("MSR", p.in(regMSR), msrOnline)
	p.want("RBR", p.in(regData), 0)
}

// What Linux's 8250 driver does to find out what it has got (drivers/tty/serial/8250/8250_port.c, autoconfig).
func TestLinuxAutoconfigFinds16550A(t *testing.T) {
	p := newPort(t, nil)
	p.out(regIER, 0)
	p.want("IER after 0", p.in(regIER)&0x0f, 0)
	p.out(regIER, 0x0f)
	p.want("IER after 0x0f", p.in(regIER)&0x0f, 0x0f)
	p.out(regIER, 0xff)
	p.want("IER after 0xff", p.in(regIER), 0x0f)
	p.out(regIER, 0)
	p.out(regMCR, mcrLoop|0x0a)
	p.want("MSR in loopback", p.in(regMSR)&0xf0, msrDCD|msrCTS)
	p.out(regMCR, 0)
	p.out(regLCR, 0xbf)
	p.want("EFR", p.in(regIIR), iirNone)
	p.out(regLCR, 0)
	p.out(regIIR, fcrEnable)
	p.want("IIR with FIFO", p.in(regIIR)>>6, 3)
	// A 16750 would show bit 5 in IIR after this.
	p.out(regIIR, fcrEnable|1<<5)
	p.want("IIR with 64-byte FIFO bit", p.in(regIIR)>>5, 6)
	p.out(regIIR, 0)
	p.want("IIR without FIFO", p.in(regIIR), iirNone)
	p.out(regSCR, 0x5a)
	p.want("SCR", p.in(regSCR), 0x5a)
	p.out(regLCR, 0x83)
	p.out(regData, 0x34)
	p.out(regIER, 0x12)
	p.want("DLL", p.in(regData), 0x34)
	p.want("DLM", p.in(regIER), 0x12)
	p.out(regLCR, 0x03)
	p.want("IER after the divisor", p.in(regIER), 0)
}

// serial8250_do_startup's tests of the THRE interrupt. A UART that fails them shows printk and nothing of user space.
func TestLinuxTHREInterruptTests(t *testing.T) {
	p := newPort(t, nil)
	p.out(regIER, ierETBEI)
	p.want("first IIR", p.in(regIIR), iirTHRE)
	p.out(regIER, 0)
	p.out(regIER, ierETBEI)
	p.want("IIR after the enable bit was set again", p.in(regIIR), iirTHRE)
	p.out(regIER, 0)
	p.wantEdges("enabled twice", 2)

	p.out(regIER, ierETBEI)
	p.want("LSR", p.in(regLSR)&lsrTEMT, lsrTEMT)
	p.want("IIR", p.in(regIIR), iirTHRE)
	p.want("IIR read again", p.in(regIIR), iirNone)
}

// One interrupt for a FIFO's worth of bytes, and none lost: the driver's transmit loop comes to its end.
func TestTHREInterruptDrivenTransmit(t *testing.T) {
	out := newLockedBuffer()
	p := newPort(t, out)
	text := strings.Repeat("0123456789abcdef", 64) + "\n"
	left := text
	p.out(regIIR, fcrEnable)
	p.out(regIER, ierETBEI)
	interrupts := 0
	for p.edges.Swap(0) > 0 {
		interrupts++
		for p.in(regIIR)&0x0f == iirTHRE {
			if p.in(regLSR)&lsrTHRE == 0 {
				t.Fatal("THRE interrupt without THRE")
			}
			if left == "" {
				p.out(regIER, 0)
				break
			}
			n := min(16, len(left))
			for i := range n {
				p.out(regData, left[i])
			}
			left = left[n:]
		}
	}
	if left != "" {
		t.Errorf("transmit stopped with %d bytes left after %d interrupts", len(left), interrupts)
	}
	if limit := len(text)/16 + 2; interrupts > limit {
		t.Errorf("%d interrupts for %d bytes, want at most %d", interrupts, len(text), limit)
	}
	out.wait(t, text)
}

func TestOutputFlushing(t *testing.T) {
	out := newLockedBuffer()
	p := newPort(t, out)
	for _, c := range []byte("hello\n") {
		p.out(regData, c)
	}
	out.wait(t, "hello\n")
	p.out(regData, '#') // a prompt has no newline
	out.wait(t, "hello\n#")
	long := strings.Repeat("x", flushBytes)
	for _, c := range []byte(long) {
		p.out(regData, c)
	}
	out.wait(t, "hello\n#"+long)
	p.out(regData, '!')
	if err := p.u.Close(time.Minute); err != nil {
		t.Fatal(err)
	}
	out.wait(t, "hello\n#"+long+"!")
	p.out(regData, '?')
	if n := p.u.Dropped(); n != 1 {
		t.Errorf("%d bytes dropped after Close, want 1", n)
	}
	p.want("LSR after Close", p.in(regLSR), lsrTHRE|lsrTEMT)
}

// stuckWriter blocks until it is let go.
type stuckWriter struct {
	entered chan struct{}
	release chan struct{}
	n       atomic.Int64
}

func (w *stuckWriter) Write(p []byte) (int, error) {
	select {
	case w.entered <- struct{}{}:
	default:
	}
	<-w.release
	w.n.Add(int64(len(p)))
	return len(p), nil
}

// A terminal that is stopped: memory stays bounded, no write of the guest ever waits, THRE says so, and an interrupt
// comes when it goes on.
func TestStuckTerminal(t *testing.T) {
	w := &stuckWriter{entered: make(chan struct{}, 1), release: make(chan struct{})}
	p := newPort(t, w)
	p.out(regData, '\n')
	<-w.entered
	sent := 1
	for p.in(regLSR)&lsrTHRE != 0 {
		p.out(regData, 'x')
		if sent++; sent > 1<<20 {
			t.Fatal("THRE stays set though nobody takes the output")
		}
	}
	if sent != outputLimit+1 {
		t.Errorf("%d bytes taken, want %d", sent, outputLimit+1)
	}
	p.want("TEMT", p.in(regLSR)&lsrTEMT, 0)
	// A driver that does not look: dropped, not kept.
	for range 1000 {
		p.out(regData, 'y')
	}
	if n := p.u.Dropped(); n != 1000 {
		t.Errorf("%d bytes dropped, want 1000", n)
	}
	// The interrupt is not there while the transmitter is full, and comes when it is not.
	p.out(regIER, ierETBEI)
	p.want("IIR while full", p.in(regIIR), iirNone)
	p.wantEdges("while full", 0)
	close(w.release)
	select {
	case <-p.edge:
	case <-time.After(time.Minute):
		t.Fatal("no interrupt after the terminal went on")
	}
	p.want("IIR", p.in(regIIR), iirTHRE)
	if err := p.u.Close(time.Minute); err != nil {
		t.Fatal(err)
	}
	if got := w.n.Load(); got != int64(sent) {
		t.Errorf("%d bytes written, want %d", got, sent)
	}
}

func TestCloseGivesUp(t *testing.T) {
	w := &stuckWriter{entered: make(chan struct{}, 1), release: make(chan struct{})}
	u := New(Config{Output: w})
	u.Write(regData, []byte{'\n'})
	<-w.entered
	if err := u.Close(time.Millisecond); !errors.Is(err, ErrTimeout) {
		t.Errorf("Close = %v, want %v", err, ErrTimeout)
	}
	close(w.release)
	<-u.done

	r, pw := io.Pipe()
	defer r.Close()
	u = New(Config{Output: deadliner{pw}})
	u.Write(regData, []byte{'\n'})
	if err := u.Close(time.Millisecond); !errors.Is(err, ErrTimeout) {
		t.Errorf("Close = %v, want %v", err, ErrTimeout)
	}
}

// deadliner frees a blocked Write as an *os.File of a pipe or terminal would.
type deadliner struct{ *io.PipeWriter }

func (d deadliner) SetWriteDeadline(time.Time) error { return d.CloseWithError(io.ErrClosedPipe) }

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }

func TestOutputError(t *testing.T) {
	gone := errors.New("reader has gone")
	p := newPort(t, failingWriter{gone})
	for range 3 * outputLimit {
		p.out(regData, '\n')
	}
	if err := p.u.Close(time.Minute); !errors.Is(err, gone) {
		t.Errorf("Close = %v, want %v", err, gone)
	}
	p.want("LSR", p.in(regLSR), lsrTHRE|lsrTEMT)
	if p.u.Dropped() == 0 {
		t.Error("nothing counted as dropped")
	}
}

func TestLineIsBoundsChecked(t *testing.T) {
	p := newPort(t, nil)
	b := make([]byte, 16)
	p.u.Read(^uint64(0)-3, b)
	for i, v := range b {
		if v != 0xff {
			t.Errorf("byte %d past the end = %#x", i, v)
		}
	}
	p.u.Write(^uint64(0)-3, bytes.Repeat([]byte{0xff}, 16))
	p.u.Write(Size, []byte{1})
	p.u.Read(0, nil)
	p.want("IER", p.in(regIER), 0)
	p.u.Write(regMSR, []byte{0, 0x77}) // 16 bits wide: MSR and SCR
	p.want("SCR", p.in(regSCR), 0x77)
}

func TestNoAllocations(t *testing.T) {
	u := New(Config{Output: io.Discard})
	defer u.Close(time.Minute)
	x, nl := []byte{'x'}, []byte{'\n'}
	b := make([]byte, 1)
	send := func() {
		for range 100 {
			u.Write(regData, x)
			u.Read(regLSR, b)
		}
		u.Write(regData, nl)
		u.Feed(x)
		u.Read(regData, b)
	}
	for range 1000 {
		send()
	}
	if n := testing.AllocsPerRun(100, send); n > 0 {
		t.Errorf("%v allocations for 101 bytes, want 0", n)
	}
}

func BenchmarkOutput(b *testing.B) {
	u := New(Config{Output: io.Discard})
	defer u.Close(time.Minute)
	line := []byte(strings.Repeat("x", 63) + "\n")
	b.ReportAllocs()
	b.SetBytes(1)
	for i := range b.N {
		u.Write(regData, line[i%64:i%64+1])
	}
}
