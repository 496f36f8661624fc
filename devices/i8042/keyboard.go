package i8042

import (
	"errors"
	"fmt"
	"sync"

	"github.com/hullvm/hull/devices"
)

// DataPort is where the controller's data register is, one byte long.
const DataPort = 0x60

// Bits of the status register.
const (
	statusOutputFull = 1 << 0 // there is a byte to read at DataPort
	statusSystem     = 1 << 2 // the self-test has passed
	statusCommand    = 1 << 3 // the last byte written was a command
	statusUnlocked   = 1 << 4 // the keyboard's lock is open
)

// Commands of the controller, written to Port. What takes a parameter takes it at DataPort.
const (
	cmdReadConfig  = 0x20
	cmdWriteConfig = 0x60 // with a parameter
	cmdTestAux     = 0xa9
	cmdSelfTest    = 0xaa
	cmdTestPort    = 0xab
	cmdDisable     = 0xad
	cmdEnable      = 0xae
	cmdReadOutput  = 0xd0
	cmdWriteOutput = 0xd1 // with a parameter, of which bit 0 clear is a reset
	cmdEcho        = 0xd2 // with a parameter: as if the keyboard had sent it
	cmdEchoAux     = 0xd3 // with a parameter
	cmdWriteAux    = 0xd4 // with a parameter

	selfTestPassed = 0x55
	noAux          = 0x01 // the mouse's clock line is stuck: there is none
	outputReset    = 1 << 0

	configInterrupt = 1 << 0 // a byte of the keyboard's raises the interrupt
	configSystem    = 1 << 2
	configDisabled  = 1 << 4 // the keyboard's clock is off
	configTranslate = 1 << 6 // scan codes of set 2 become set 1
)

// Commands of the keyboard, written to DataPort, and its answers.
const (
	kbdLEDs     = 0xed // with a parameter
	kbdScanSet  = 0xf0 // with a parameter; 0 asks
	kbdIdentify = 0xf2
	kbdRate     = 0xf3 // with a parameter
	kbdReset    = 0xff

	kbdAck       = 0xfa
	kbdTestOK    = 0xaa
	kbdID1       = 0xab
	kbdID2       = 0x83
	kbdSet2      = 0x02
	maxScancodes = 16
)

// ctrlAltDel are the keys of that chord going down, in scan code set 2 and, for a controller that translates, set 1.
var (
	ctrlAltDel           = []byte{0x14, 0x11, 0xe0, 0x71}
	ctrlAltDelTranslated = []byte{0x1d, 0x38, 0xe0, 0x53}
)

// Keyboard is a keyboard controller with a keyboard, as far as it takes for a host to press Ctrl, Alt and Del: a way to tell
// a guest without an agent to shut down. It is what Firecracker's guests have; others are better off with a Controller, for
// which no driver waits.
type Keyboard struct {
	power devices.PowerFunc
	irq   devices.IRQ

	mu     sync.Mutex
	config byte
	last   byte   // the status bit that tells commands from data
	wants  byte   // the controller's command that the next byte at DataPort belongs to
	keyArg byte   // the same of the keyboard's commands
	out    []byte // to be read at DataPort, at most maxScancodes
}

// NewKeyboard makes a keyboard whose interrupt line is irq.
func NewKeyboard(power devices.PowerFunc, irq devices.IRQ) *Keyboard {
	return &Keyboard{power: power, irq: irq, config: configInterrupt | configSystem}
}

// Data and Command are the registers at DataPort and Port.
func (k *Keyboard) Data() devices.Device    { return (*keyboardData)(k) }
func (k *Keyboard) Command() devices.Device { return (*keyboardCommand)(k) }

// CtrlAltDel presses the three keys. It returns false when the guest has not read what was there before.
func (k *Keyboard) CtrlAltDel() bool {
	keys := ctrlAltDel
	k.mu.Lock()
	if k.config&configTranslate != 0 {
		keys = ctrlAltDelTranslated
	}
	room := len(k.out)+len(keys) <= maxScancodes
	k.mu.Unlock()
	if !room {
		return false
	}
	k.send(keys...)
	return true
}

// send has the guest read bytes, as far as there is room.
func (k *Keyboard) send(bytes ...byte) {
	k.mu.Lock()
	k.out = append(k.out, bytes[:min(len(bytes), maxScancodes-len(k.out))]...)
	k.mu.Unlock()
	k.raise()
}

// raise sends an interrupt if there is something to read and the guest wants to hear of it.
func (k *Keyboard) raise() {
	k.mu.Lock()
	edge := len(k.out) > 0 && k.config&(configInterrupt|configDisabled) == configInterrupt
	k.mu.Unlock()
	if edge {
		k.irq.Trigger()
	}
}

type keyboardData Keyboard

// Read takes the next byte.
func (d *keyboardData) Read(_ uint64, p []byte) {
	k := (*Keyboard)(d)
	clear(p)
	if len(p) == 0 {
		return
	}
	k.mu.Lock()
	if len(k.out) > 0 {
		p[0] = k.out[0]
		k.out = k.out[:copy(k.out, k.out[1:])]
	}
	k.mu.Unlock()
	k.raise() // the next byte has an interrupt of its own
}

// Write takes a parameter of the controller, or a command for the keyboard.
func (d *keyboardData) Write(off uint64, p []byte) {
	k := (*Keyboard)(d)
	if off != 0 || len(p) == 0 {
		return
	}
	v := p[0]
	k.mu.Lock()
	k.last = 0
	command := k.wants
	k.wants = 0
	if command == cmdWriteConfig {
		k.config = v
	}
	k.mu.Unlock()
	switch command {
	case 0:
		k.keyboard(v)
	case cmdWriteOutput:
		if v&outputReset == 0 && k.power != nil {
			k.power(devices.Reset)
		}
	case cmdEcho, cmdEchoAux: // for the second the status should say "mouse": it does not, so there is none
		k.send(v)
	}
}

// keyboard answers a command of the keyboard's, or its parameter.
func (k *Keyboard) keyboard(v byte) {
	k.mu.Lock()
	command := k.keyArg
	k.keyArg = 0
	if command == 0 && (v == kbdLEDs || v == kbdScanSet || v == kbdRate) {
		k.keyArg = v
	}
	k.mu.Unlock()
	switch {
	case command == kbdScanSet && v == 0:
		k.send(kbdAck, kbdSet2)
	case command == 0 && v == kbdIdentify:
		k.send(kbdAck, kbdID1, kbdID2)
	case command == 0 && v == kbdReset:
		k.send(kbdAck, kbdTestOK)
	default:
		k.send(kbdAck)
	}
}

type keyboardCommand Keyboard

// Read is the status register.
func (c *keyboardCommand) Read(_ uint64, p []byte) {
	k := (*Keyboard)(c)
	k.mu.Lock()
	v := statusSystem | statusUnlocked | k.last
	if len(k.out) > 0 {
		v |= statusOutputFull
	}
	k.mu.Unlock()
	for i := range p {
		p[i] = v
	}
}

// Write takes a command of the controller.
func (c *keyboardCommand) Write(off uint64, p []byte) {
	k := (*Keyboard)(c)
	if off != 0 || len(p) == 0 {
		return
	}
	v := p[0]
	k.mu.Lock()
	k.last, k.wants = statusCommand, 0
	config := k.config
	switch v {
	case cmdWriteConfig, cmdWriteOutput, cmdEcho, cmdEchoAux, cmdWriteAux:
		k.wants = v
	case cmdDisable:
		k.config |= configDisabled
	case cmdEnable:
		k.config &^= configDisabled
	}
	k.mu.Unlock()
	switch v {
	case cmdReadConfig:
		k.send(config)
	case cmdSelfTest:
		k.send(selfTestPassed)
	case cmdTestPort:
		k.send(0)
	case cmdTestAux:
		k.send(noAux)
	case cmdReadOutput:
		k.send(outputReset)
	case cmdReset:
		if k.power != nil {
			k.power(devices.Reset)
		}
	}
}

// stateVersion is the first byte of what SaveState returns; then come configuration, status bit, the two commands that wait
// for a parameter, and what is to be read.
const (
	stateVersion = 1
	stateHeader  = 5
)

// ErrState is wrapped by the error of RestoreState.
var ErrState = errors.New("not a state of the keyboard")

// SaveState implements devices.Snapshotter.
func (k *Keyboard) SaveState() ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append([]byte{stateVersion, k.config, k.last, k.wants, k.keyArg}, k.out...), nil
}

// RestoreState implements devices.Snapshotter.
func (k *Keyboard) RestoreState(p []byte) error {
	if len(p) < stateHeader || len(p) > stateHeader+maxScancodes || p[0] != stateVersion || p[2]&^statusCommand != 0 {
		return fmt.Errorf("%w: %d bytes, % x", ErrState, len(p), p[:min(len(p), 8)])
	}
	k.mu.Lock()
	k.config, k.last, k.wants, k.keyArg = p[1], p[2], p[3], p[4]
	k.out = append(k.out[:0], p[stateHeader:]...)
	k.mu.Unlock()
	k.raise() // its edge may have been lost with the machine that the state is from
	return nil
}
