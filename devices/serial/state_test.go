package serial

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/hullvm/hull/devices"
)

// TestState: a guest that uses the port sees no difference after it has moved to another.
func TestState(t *testing.T) {
	edges := 0
	old := New(Config{IRQ: devices.IRQFunc(func() { edges++ })})
	for _, w := range []struct{ reg, v byte }{
		{regLCR, lcrDLAB}, {regData, 1}, {regIER, 2}, {regLCR, 3}, // baud rate
		{regIIR, fcrEnable | 2<<fcrTrigger}, {regMCR, mcrRTS}, {regSCR, 0x5a}, {regIER, ierERBFI | ierETBEI},
	} {
		old.Write(uint64(w.reg), []byte{w.v})
	}
	old.Feed([]byte("hello"))
	var one [1]byte
	old.Read(regData, one[:])
	if one[0] != 'h' || edges == 0 {
		t.Fatalf("read %q after %d interrupts", one, edges)
	}
	state, err := old.SaveState()
	if err != nil {
		t.Fatal(err)
	}
	edges = 0
	u := New(Config{IRQ: devices.IRQFunc(func() { edges++ })})
	if err := u.RestoreState(state); err != nil {
		t.Fatal(err)
	}
	if edges != 0 {
		t.Errorf("%d interrupts, though the line was up already", edges)
	}
	if again, err := u.SaveState(); err != nil || !bytes.Equal(again, state) {
		t.Errorf("state %x, restored %x, %v", state, again, err)
	}
	for reg := uint64(0); reg < Size; reg++ {
		var a, b [1]byte
		old.Read(reg, a[:])
		u.Read(reg, b[:])
		if a != b {
			t.Errorf("register %d reads %#x, was %#x", reg, b, a)
		}
	}
	got := []byte{}
	for range 3 {
		u.Read(regData, one[:])
		got = append(got, one[0])
	}
	if string(got) != "llo" {
		t.Errorf("read %q", got)
	}
}

// TestStateOfFullTransmitter: a guest that waits for room is told of it by the new host.
func TestStateOfFullTransmitter(t *testing.T) {
	w := make(blockedWriter)
	old := New(Config{Output: w})
	old.Write(regIER, []byte{ierETBEI})
	var iir [1]byte
	for range 2*outputLimit + 1 {
		old.Write(regData, []byte{'x'})
	}
	old.Read(regIIR, iir[:])
	state, err := old.SaveState()
	close(w)
	if err := old.Close(time.Minute); err != nil {
		t.Error(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if state[atFlags]&stateFull == 0 {
		t.Fatal("the transmitter is not full")
	}
	edges := 0
	u := New(Config{IRQ: devices.IRQFunc(func() { edges++ })})
	if err := u.RestoreState(state); err != nil {
		t.Fatal(err)
	}
	if u.Read(regIIR, iir[:]); edges != 1 || iir[0]&0xf != iirTHRE {
		t.Errorf("%d interrupts, identification %#x", edges, iir[0])
	}
}

// blockedWriter takes nothing until it is closed.
type blockedWriter chan struct{}

func (w blockedWriter) Write(p []byte) (int, error) {
	<-w
	return len(p), nil
}

func FuzzState(f *testing.F) {
	good, _ := New(Config{}).SaveState()
	f.Add(good)
	f.Add(good[:stateLen-1])
	f.Add(append(bytes.Clone(good), "typed ahead"...))
	f.Add(append(bytes.Clone(good), make([]byte, inputLimit+1)...))
	f.Fuzz(func(t *testing.T, p []byte) {
		u := New(Config{})
		before, _ := u.SaveState()
		if err := u.RestoreState(p); err != nil {
			if after, _ := u.SaveState(); !errors.Is(err, ErrState) || !bytes.Equal(after, before) {
				t.Errorf("%v, and the state is %x", err, after)
			}
			return
		}
		for reg := range uint64(Size) {
			u.Read(reg, make([]byte, 1))
			u.Write(reg, []byte{0xff})
		}
		if after, err := u.SaveState(); err != nil || checkState(after) != nil {
			t.Errorf("in use it becomes %x, %v", after, err)
		}
	})
}
