package i8042

import (
	"errors"
	"slices"
	"testing"

	"github.com/hullvm/hull/devices"
)

// board is a keyboard as its driver sees it.
type board struct {
	*Keyboard
	edges  int
	events []devices.PowerEvent
}

func newBoard() *board {
	b := &board{}
	b.Keyboard = NewKeyboard(func(e devices.PowerEvent) { b.events = append(b.events, e) }, devices.IRQFunc(func() { b.edges++ }))
	return b
}

func (b *board) command(v byte) { b.Command().Write(0, []byte{v}) }
func (b *board) data(v byte)    { b.Data().Write(0, []byte{v}) }

func (b *board) status() byte {
	var p [1]byte
	b.Command().Read(0, p[:])
	return p[0]
}

// read takes all there is.
func (b *board) read() (all []byte) {
	for b.status()&statusOutputFull != 0 {
		var p [1]byte
		b.Data().Read(0, p[:])
		all = append(all, p[0])
	}
	return all
}

// TestProbe is what Linux's driver asks before it believes that there is a keyboard.
func TestProbe(t *testing.T) {
	b := newBoard()
	if b.status()&statusUnlocked == 0 {
		t.Error("the keyboard is locked")
	}
	for _, step := range []struct {
		what string
		do   func()
		want []byte
	}{
		{"configuration", func() { b.command(cmdReadConfig) }, []byte{configInterrupt | configSystem}},
		{"new configuration", func() { b.command(cmdWriteConfig); b.data(configTranslate | configInterrupt); b.command(cmdReadConfig) }, []byte{configTranslate | configInterrupt}},
		{"self-test", func() { b.command(cmdSelfTest) }, []byte{selfTestPassed}},
		{"port", func() { b.command(cmdTestPort) }, []byte{0}},
		{"mouse", func() { b.command(cmdTestAux) }, []byte{noAux}},
		{"echo", func() { b.command(cmdEchoAux); b.data(0x5a) }, []byte{0x5a}},
		{"for the mouse", func() { b.command(cmdWriteAux); b.data(kbdIdentify) }, nil},
		{"output", func() { b.command(cmdReadOutput) }, []byte{outputReset}},
		{"identity", func() { b.data(kbdIdentify) }, []byte{kbdAck, kbdID1, kbdID2}},
		{"reset", func() { b.data(kbdReset) }, []byte{kbdAck, kbdTestOK}},
		{"lights", func() { b.data(kbdLEDs); b.data(kbdIdentify) }, []byte{kbdAck, kbdAck}},
		{"scan codes", func() { b.data(kbdScanSet); b.data(0) }, []byte{kbdAck, kbdAck, kbdSet2}},
	} {
		step.do()
		if got := b.read(); !slices.Equal(got, step.want) {
			t.Errorf("%s: % x, want % x", step.what, got, step.want)
		}
	}
	if len(b.events) != 0 {
		t.Errorf("events %v", b.events)
	}
}

func TestCtrlAltDel(t *testing.T) {
	b := newBoard()
	if !b.CtrlAltDel() || b.edges != 1 {
		t.Errorf("%d interrupts", b.edges)
	}
	if got := b.read(); !slices.Equal(got, ctrlAltDel) {
		t.Errorf("keys % x", got)
	}
	if b.edges != len(ctrlAltDel) {
		t.Errorf("%d interrupts for %d bytes", b.edges, len(ctrlAltDel))
	}
	b.command(cmdWriteConfig)
	b.data(configTranslate)
	b.edges = 0
	if !b.CtrlAltDel() || b.edges != 0 {
		t.Errorf("%d interrupts although they are off", b.edges)
	}
	if got := b.read(); !slices.Equal(got, ctrlAltDelTranslated) {
		t.Errorf("keys % x", got)
	}
	for range maxScancodes {
		b.CtrlAltDel() // nobody reads
	}
	if b.CtrlAltDel() {
		t.Error("keys are taken without end")
	}
	if got := len(b.read()); got > maxScancodes {
		t.Errorf("%d bytes are kept", got)
	}
}

// TestKeyboardReset: both ways of resetting the machine, and no other byte.
func TestKeyboardReset(t *testing.T) {
	b := newBoard()
	b.command(cmdReset)
	b.command(cmdWriteOutput)
	b.data(outputReset)
	b.command(cmdWriteOutput)
	b.data(0)
	if !slices.Equal(b.events, []devices.PowerEvent{devices.Reset, devices.Reset}) {
		t.Errorf("events %v", b.events)
	}
	b.Command().Write(1, []byte{cmdReset})
	b.Command().Write(0, nil)
	b.Data().Write(0, nil)
	b.Data().Read(0, nil)
	if len(b.events) != 2 {
		t.Errorf("events %v", b.events)
	}
}

// FuzzKeyboard: whatever a guest writes, little is kept.
func FuzzKeyboard(f *testing.F) {
	f.Add([]byte{1, cmdReadConfig, 0, kbdIdentify, 1, cmdWriteConfig, 0, 0xff})
	f.Add([]byte{0, kbdScanSet, 0, 0, 2, 0, 3, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		k := NewKeyboard(func(devices.PowerEvent) {}, devices.NoIRQ{})
		for i := 0; i+1 < len(in); i += 2 {
			p := []byte{in[i+1]}
			switch in[i] % 4 {
			case 0:
				k.Data().Write(0, p)
			case 1:
				k.Command().Write(0, p)
			case 2:
				k.Data().Read(0, p)
			case 3:
				k.CtrlAltDel()
			}
			if len(k.out) > maxScancodes {
				t.Fatalf("%d bytes are kept", len(k.out))
			}
		}
	})
}

func TestKeyboardState(t *testing.T) {
	b := newBoard()
	b.command(cmdWriteConfig)
	b.data(configInterrupt)
	b.CtrlAltDel()
	b.command(cmdWriteOutput) // and its parameter after the restore
	saved, err := b.SaveState()
	if err != nil {
		t.Fatal(err)
	}
	other := newBoard()
	if err := other.RestoreState(saved); err != nil {
		t.Fatal(err)
	}
	if other.edges == 0 {
		t.Error("no interrupt for what is to be read")
	}
	if got := other.read(); !slices.Equal(got, ctrlAltDel) {
		t.Errorf("keys % x", got)
	}
	other.data(0)
	if len(other.events) != 1 {
		t.Errorf("events %v", other.events)
	}
	for _, p := range [][]byte{nil, saved[:4], append(slices.Clone(saved), make([]byte, 20)...), {2, 0, 0, 0, 0}, {1, 0, 1, 0, 0}} {
		if err := other.RestoreState(p); !errors.Is(err, ErrState) {
			t.Errorf("% x: %v", p, err)
		}
	}
}
