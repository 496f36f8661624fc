package serial

import (
	"bytes"
	"io"
	"testing"
)

func TestReceiveInterrupts(t *testing.T) {
	p := newPort(t, nil)
	p.out(regMCR, mcrRTS)
	p.out(regIER, ierERBFI)
	p.u.Feed([]byte("ab"))
	p.wantEdges("two bytes", 1)
	p.want("LSR", p.in(regLSR)&lsrDR, lsrDR)
	p.want("IIR", p.in(regIIR), iirData)
	p.want("RBR", p.in(regData), 'a')
	p.want("IIR with one byte left", p.in(regIIR), iirData)
	p.want("RBR", p.in(regData), 'b')
	p.want("IIR when empty", p.in(regIIR), iirNone)
	p.want("LSR", p.in(regLSR)&lsrDR, 0)
	p.wantEdges("after reading", 0)
	p.u.Feed([]byte("c"))
	p.wantEdges("another byte", 1)
}

func TestTriggerLevels(t *testing.T) {
	for level, n := range triggerLevels {
		p := newPort(t, nil)
		p.out(regIIR, fcrEnable|byte(level)<<fcrTrigger)
		p.out(regIER, ierERBFI)
		for i := range n {
			want := byte(iirTimeout | iirFIFO)
			if i == 0 {
				want = iirNone | iirFIFO
			}
			p.want("IIR below the level", p.in(regIIR), want)
			p.u.Feed([]byte{1})
		}
		p.want("IIR at the level", p.in(regIIR), iirData|iirFIFO)
	}
}

func TestInterruptPriority(t *testing.T) {
	p := newPort(t, nil)
	p.out(regMCR, mcrLoop)
	p.out(regData, 1)
	p.out(regData, 2) // overrun: no FIFO
	p.out(regIER, ierMask)
	p.wantEdges("everything at once", 1)
	p.want("IIR", p.in(regIIR), iirLine)
	p.want("LSR", p.in(regLSR), lsrDR|lsrOE|lsrTHRE|lsrTEMT)
	p.want("IIR", p.in(regIIR), iirData)
	p.want("RBR", p.in(regData), 2)
	p.want("IIR", p.in(regIIR), iirTHRE)
	p.want("IIR", p.in(regIIR), iirModem)
	p.want("MSR", p.in(regMSR), msrDCTS|msrDDSR|msrDDCD)
	p.want("IIR", p.in(regIIR), iirNone)
	p.wantEdges("while they were served", 0)
}

func TestLoopback(t *testing.T) {
	out := newLockedBuffer()
	p := newPort(t, out)
	p.out(regIIR, fcrEnable)
	p.out(regMCR, mcrLoop)
	p.u.Feed([]byte("line"))
	for i := range byte(fifoSize) {
		p.out(regData, 'A'+i)
	}
	p.want("LSR of a full FIFO", p.in(regLSR), lsrDR|lsrTHRE|lsrTEMT)
	p.out(regData, '!')
	p.want("LSR after an overrun", p.in(regLSR)&lsrOE, lsrOE)
	p.want("LSR read again", p.in(regLSR)&lsrOE, 0)
	for i := range byte(fifoSize) {
		p.want("RBR", p.in(regData), 'A'+i)
	}
	p.want("RBR when empty, the line being cut off", p.in(regData), 0)
	p.out(regMCR, mcrRTS)
	p.want("RBR from the line", p.in(regData), 'l')
	for _, tt := range []struct{ mcr, want byte }{
		{0x01, msrDSR}, {0x02, msrCTS}, {0x04, msrRI}, {0x08, msrDCD}, {0x0f, 0xf0}, {0, 0},
	} {
		p.out(regMCR, mcrLoop|tt.mcr)
		p.want("MSR in loopback", p.in(regMSR)&0xf0, tt.want)
	}
	p.out(regMCR, mcrLoop|0x04)
	p.in(regMSR)
	p.out(regMCR, mcrLoop)
	p.want("MSR after RI went away", p.in(regMSR), msrTERI)
	out.mu.Lock()
	defer out.mu.Unlock()
	if out.writes != 0 {
		t.Errorf("loopback reached the terminal: %q", &out.buf)
	}
}

// What was typed, or piped in, before the kernel was up survives everything its driver does to the FIFOs.
func TestInputSurvivesDriverStart(t *testing.T) {
	const typed = "uname -r\npoweroff\n0123456789abcdef0123456789abcdef"
	p := newPort(t, nil)
	p.u.Feed([]byte(typed))
	clearFIFOs := func() {
		p.out(regIIR, fcrEnable)
		p.out(regIIR, fcrEnable|fcrClearRX|1<<2)
		p.out(regIIR, 0)
	}
	// autoconfig, then serial8250_do_startup, each of which reads RBR into nowhere.
	p.out(regMCR, mcrLoop|0x0a)
	p.out(regMCR, 0)
	clearFIFOs()
	p.in(regData)
	p.out(regIER, 0)
	clearFIFOs()
	for range 2 {
		p.in(regLSR)
		p.in(regData)
		p.in(regIIR)
		p.in(regMSR)
	}
	p.out(regIIR, fcrEnable|2<<fcrTrigger)
	p.out(regMCR, 0x0b)
	p.out(regIER, ierERBFI|ierELSI)
	var got []byte
	for p.in(regLSR)&lsrDR != 0 {
		got = append(got, p.in(regData))
	}
	if string(got) != typed {
		t.Errorf("read %q, want %q", got, typed)
	}
}

// A guest that polls and knows nothing of modem control gets its input too, and so does one that writes 0 to MCR and
// enables the interrupt (as xv6 does).
func TestInputForSimpleGuests(t *testing.T) {
	p := newPort(t, nil)
	p.u.Feed([]byte("ab"))
	p.want("RBR", p.in(regData), 'a')
	p.out(regMCR, 0)
	p.want("LSR with RTS off", p.in(regLSR)&lsrDR, 0)
	p.out(regIER, ierERBFI)
	p.want("RBR with the interrupt on", p.in(regData), 'b')
}

func TestFeedBackpressure(t *testing.T) {
	p := newPort(t, nil)
	data := bytes.Repeat([]byte("0123456789"), 5000)
	var got []byte
	left := data
	for len(left) > 0 {
		n := p.u.Feed(left)
		left = left[n:]
		if len(left) == 0 {
			break
		}
		if n == 0 {
			t.Fatal("Feed took nothing though Space said that there is room")
		}
		select {
		case <-p.u.Space():
			t.Fatal("Space before the guest has read anything")
		default:
		}
		for range inputLimit / 2 {
			got = append(got, p.in(regData))
		}
		select {
		case <-p.u.Space():
		default:
			t.Fatal("no Space after the guest has read half of the buffer")
		}
	}
	for p.in(regLSR)&lsrDR != 0 {
		got = append(got, p.in(regData))
	}
	if !bytes.Equal(got, data) {
		t.Errorf("guest read %d bytes, not the %d that were fed", len(got), len(data))
	}
	select {
	case <-p.u.Space():
		t.Error("Space though every byte was taken")
	default:
	}
}

// FuzzRegisters lets a guest do what it likes with the registers, and holds the UART to what must be true whatever it
// did.
func FuzzRegisters(f *testing.F) {
	f.Add([]byte{1, 0x0f, 2, 0xc7, 4, 0x0b, 0, 'a', 0x80, 0x82, 0x85})
	f.Add([]byte{4, 0x10, 0, 1, 0, 2, 0x80, 0x85, 0x86})
	f.Add([]byte{3, 0x80, 0, 1, 1, 0, 3, 3, 0xf0, 0xf1, 0xf2})
	f.Fuzz(func(t *testing.T, ops []byte) {
		p := newPort(t, io.Discard)
		for len(ops) > 0 {
			op := ops[0]
			ops = ops[1:]
			switch {
			case op >= 0xf0:
				p.u.Feed(bytes.Repeat([]byte{op}, int(op&0x0f)*100))
			case op >= 0x80:
				p.u.Read(uint64(op&0x0f), make([]byte, 1+op>>4&3))
			case len(ops) > 0:
				p.out(uint64(op&0x0f), ops[0])
				ops = ops[1:]
			}
			p.u.mu.Lock()
			big := p.u.inCount > inputLimit || p.u.reg.loopCount > fifoSize || len(p.u.pending) > outputLimit
			p.u.mu.Unlock()
			if big {
				t.Fatal("a buffer has outgrown its limit")
			}
		}
		// Whatever happened, a reset of the registers makes it usable.
		p.out(regLCR, 3)
		p.out(regMCR, 0)
		p.out(regIER, 0)
		p.in(regLSR)
		p.in(regMSR)
		p.edges.Store(0)
		p.out(regIER, ierETBEI)
		p.wantEdges("THRE enabled", 1)
		p.want("IIR", p.in(regIIR)&0x0f, iirTHRE)
	})
}
