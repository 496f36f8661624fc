package serial

import (
	"errors"
	"fmt"
)

// ErrState is wrapped by the error of RestoreState.
var ErrState = errors.New("not a state of this serial port")

// What SaveState returns, byte by byte; after stateLen comes the input that the guest has not read.
const (
	stateVersion = 1

	atVersion = iota - 1
	atDLL
	atDLM
	atIER
	atFCR
	atLCR
	atMCR
	atLSR
	atMSR
	atSCR
	atFlags
	atLoopCount
	atLoop
	stateLen = atLoop + fifoSize
)

// Flags.
const (
	stateMCRWritten = 1 << iota
	stateTHRE
	stateLine
	stateFull
	stateFlags = 1<<iota - 1
)

// SaveState returns the chip's registers and the input that is on the line. Output that has not been written yet is not kept:
// it is this host's, which writes it. No vCPU may run.
func (u *UART) SaveState() ([]byte, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	r := &u.reg
	p := make([]byte, stateLen, stateLen+u.inCount)
	p[atVersion] = stateVersion
	p[atDLL], p[atDLM], p[atIER], p[atFCR], p[atLCR], p[atMCR] = r.dll, r.dlm, r.ier, r.fcr, r.lcr, r.mcr
	p[atLSR], p[atMSR], p[atSCR] = r.lsr, r.msr, r.scr
	for flag, on := range map[byte]bool{stateMCRWritten: r.mcrWritten, stateTHRE: r.thre, stateLine: r.line, stateFull: u.full} {
		if on {
			p[atFlags] |= flag
		}
	}
	p[atLoopCount] = byte(r.loopCount)
	copy(p[atLoop:], r.loop[:r.loopCount])
	for i := range u.inCount {
		p = append(p, u.input[(u.inHead+i)%len(u.input)])
	}
	return p, nil
}

// RestoreState loads what SaveState has returned into a UART that no guest has used yet, before vCPUs run. p is not trusted. On error
// nothing has changed. The IRQ's edge is sent where the interrupt has become pending by the change of host.
func (u *UART) RestoreState(p []byte) error {
	if err := checkState(p); err != nil {
		return err
	}
	u.mu.Lock()
	if u.inCount > 0 && len(p) > stateLen {
		u.mu.Unlock()
		return fmt.Errorf("%w: there is input for the guest already", ErrState)
	}
	r := &u.reg
	r.dll, r.dlm, r.ier, r.fcr, r.lcr, r.mcr = p[atDLL], p[atDLM], p[atIER], p[atFCR], p[atLCR], p[atMCR]
	r.lsr, r.msr, r.scr = p[atLSR], p[atMSR], p[atSCR]
	flags := p[atFlags]
	// The transmitter was not ready, and this one is: so it has become empty.
	r.mcrWritten, r.thre, r.line = flags&stateMCRWritten != 0, flags&(stateTHRE|stateFull) != 0, flags&stateLine != 0
	r.loopCount = copy(r.loop[:], p[atLoop:atLoop+int(p[atLoopCount])])
	if len(p) > stateLen {
		u.inHead, u.inCount = 0, copy(u.input[:], p[stateLen:])
	}
	edge := u.update()
	u.mu.Unlock()
	if edge {
		u.irq.Trigger()
	}
	return nil
}

// checkState holds p to what registers can hold.
func checkState(p []byte) error {
	switch {
	case len(p) < stateLen || len(p) > stateLen+inputLimit:
		return fmt.Errorf("%w: %d bytes", ErrState, len(p))
	case p[atVersion] != stateVersion:
		return fmt.Errorf("%w: version %d, this program knows %d", ErrState, p[atVersion], stateVersion)
	case p[atIER]&^ierMask != 0, p[atMCR]&^mcrMask != 0, p[atLSR]&^lsrErrors != 0, p[atFlags]&^stateFlags != 0,
		p[atFCR]&^(fcrEnable|3<<fcrTrigger) != 0, p[atFCR] != 0 && p[atFCR]&fcrEnable == 0:
		return fmt.Errorf("%w: registers % x", ErrState, p[:atLoopCount])
	case p[atLoopCount] > fifoSize:
		return fmt.Errorf("%w: %d bytes in a FIFO of %d", ErrState, p[atLoopCount], fifoSize)
	}
	return nil
}
