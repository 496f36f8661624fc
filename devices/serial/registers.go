package serial

// Register offsets (PC16550D, table I). The first two are the divisor latch while LCR bit 7 is set.
const (
	regData = 0 // RBR (read), THR (write), DLL
	regIER  = 1 // interrupt enable, DLM
	regIIR  = 2 // interrupt identification (read), FCR: FIFO control (write)
	regLCR  = 3 // line control
	regMCR  = 4 // modem control
	regLSR  = 5 // line status
	regMSR  = 6 // modem status
	regSCR  = 7 // scratch
)

// Interrupt enable bits; the others read 0.
const (
	ierERBFI = 1 << 0 // received data available
	ierETBEI = 1 << 1 // transmitter holding register empty
	ierELSI  = 1 << 2 // receiver line status
	ierEDSSI = 1 << 3 // modem status
	ierMask  = 0x0f
)

// Interrupt identification, by priority.
const (
	iirLine    = 0x06
	iirData    = 0x04
	iirTimeout = 0x0c // characters below the trigger level
	iirTHRE    = 0x02
	iirModem   = 0x00
	iirNone    = 0x01
	iirFIFO    = 0xc0 // FIFOs are enabled
)

// FIFO control bits.
const (
	fcrEnable   = 1 << 0
	fcrClearRX  = 1 << 1
	fcrTrigger  = 6 // shift of the trigger level
	fifoSize    = 16
	lcrDLAB     = 1 << 7
	lsrDR       = 1 << 0 // data ready
	lsrOE       = 1 << 1 // overrun error
	lsrErrors   = 0x1e   // OE, PE, FE, BI
	lsrTHRE     = 1 << 5 // transmitter holding register (or FIFO) empty
	lsrTEMT     = 1 << 6 // transmitter empty
	mcrRTS      = 1 << 1
	mcrLoop     = 1 << 4
	mcrMask     = 0x1f
	msrDCTS     = 1 << 0 // CTS has changed
	msrDDSR     = 1 << 1 // DSR has changed
	msrTERI     = 1 << 2 // RI has gone away
	msrDDCD     = 1 << 3 // DCD has changed
	msrCTS      = 1 << 4
	msrDSR      = 1 << 5
	msrRI       = 1 << 6
	msrDCD      = 1 << 7
	msrDeltas   = 0x0f
	msrOnline   = msrCTS | msrDSR | msrDCD // the terminal is there and ready
	resetDLL    = 0x0c                     // 9,600 baud
	lcrResetVal = 0x03                     // 8 bits, no parity, 1 stop bit
)

// triggerLevels are the FIFO's, by FCR bits 6 and 7.
var triggerLevels = [4]int{1, 4, 8, 14}

// registers is the state of the chip proper.
type registers struct {
	dll, dlm           byte
	ier, fcr, lcr, mcr byte
	lsr                byte // errors only; the rest is worked out
	msr                byte
	scr                byte

	mcrWritten bool // the guest knows of modem control
	thre       bool // THRE interrupt is pending
	line       bool // interrupt output

	// loop holds what was sent in loopback mode.
	loop      [fifoSize]byte
	loopCount int
}

func (r *registers) init() {
	r.dll, r.lcr, r.msr = resetDLL, lcrResetVal, msrOnline
}

// looping reports whether the transmitter is wired to the receiver and the line is cut off.
func (r *registers) looping() bool { return r.mcr&mcrLoop != 0 }

// fifo reports whether the FIFOs are on.
func (r *registers) fifo() bool { return r.fcr&fcrEnable != 0 }

// listening reports whether the guest is ready for input from the line. See the package comment.
func (r *registers) listening() bool {
	return !r.looping() && (r.mcr&mcrRTS != 0 || r.ier&ierERBFI != 0 || !r.mcrWritten)
}

// received is the number of bytes that the guest can read.
func (u *UART) received() int {
	n := u.reg.loopCount
	if u.reg.listening() {
		n += u.inCount
	}
	if !u.reg.fifo() {
		return min(n, 1)
	}
	return min(n, fifoSize)
}

// cause is the pending interrupt of the highest priority.
func (u *UART) cause() byte {
	r := &u.reg
	n := u.received()
	switch {
	case r.ier&ierELSI != 0 && r.lsr&lsrErrors != 0:
		return iirLine
	case r.ier&ierERBFI != 0 && n > 0:
		// The line is infinitely fast, so the timeout of four character times has always passed.
		if r.fifo() && n < triggerLevels[r.fcr>>fcrTrigger] {
			return iirTimeout
		}
		return iirData
	case r.ier&ierETBEI != 0 && r.thre:
		return iirTHRE
	case r.ier&ierEDSSI != 0 && r.msr&msrDeltas != 0:
		return iirModem
	}
	return iirNone
}

// read reads one register. mu is held.
func (u *UART) read(off uint64) byte {
	r := &u.reg
	switch off {
	case regData:
		if r.lcr&lcrDLAB != 0 {
			return r.dll
		}
		return u.receive()
	case regIER:
		if r.lcr&lcrDLAB != 0 {
			return r.dlm
		}
		return r.ier
	case regIIR:
		v := u.cause()
		if v == iirTHRE {
			r.thre = false
		}
		if r.fifo() {
			v |= iirFIFO
		}
		return v
	case regLCR:
		return r.lcr
	case regMCR:
		return r.mcr
	case regLSR:
		v := r.lsr
		r.lsr = 0
		if u.received() > 0 {
			v |= lsrDR
		}
		if !u.full || r.looping() {
			v |= lsrTHRE | lsrTEMT
		}
		return v
	case regMSR:
		v := r.msr
		r.msr &^= msrDeltas
		return v
	default:
		return r.scr
	}
}

// write writes one register. mu is held.
func (u *UART) write(off uint64, v byte) {
	r := &u.reg
	switch off {
	case regData:
		if r.lcr&lcrDLAB != 0 {
			r.dll = v
			return
		}
		u.transmit(v)
	case regIER:
		if r.lcr&lcrDLAB != 0 {
			r.dlm = v
			return
		}
		if v&^r.ier&ierETBEI != 0 && (!u.full || r.looping()) {
			r.thre = true
		}
		r.ier = v & ierMask
	case regIIR:
		u.writeFCR(v)
	case regLCR:
		r.lcr = v
	case regMCR:
		r.mcr, r.mcrWritten = v&mcrMask, true
		r.modem()
	case regSCR:
		r.scr = v
	}
	// LSR and MSR are for reading; writing them is for factory tests.
}

// writeFCR takes a FIFO control write. Turning the FIFOs on or off empties them. What the terminal has sent was not in
// them but on the line, and stays there.
func (u *UART) writeFCR(v byte) {
	r := &u.reg
	if (v^r.fcr)&fcrEnable != 0 || v&fcrClearRX != 0 {
		r.loopCount = 0
	}
	r.fcr = 0
	if v&fcrEnable != 0 {
		r.fcr = v & (fcrEnable | 3<<fcrTrigger)
	}
}

// modem works out the modem status after MCR has changed: in loopback mode the four outputs are wired to the inputs.
func (r *registers) modem() {
	lines := byte(msrOnline)
	if r.looping() {
		lines = 0
		for _, wire := range [4]struct{ out, in byte }{
			{1 << 0, msrDSR}, // DTR
			{mcrRTS, msrCTS},
			{1 << 2, msrRI},  // OUT1
			{1 << 3, msrDCD}, // OUT2
		} {
			if r.mcr&wire.out != 0 {
				lines |= wire.in
			}
		}
	}
	old := r.msr
	deltas := old & msrDeltas
	deltas |= (old ^ lines) >> 4 & (msrDCTS | msrDDSR | msrDDCD)
	if old&^lines&msrRI != 0 {
		deltas |= msrTERI
	}
	r.msr = lines | deltas
}

// receive takes the next byte out of the receiver; 0 when there is none.
func (u *UART) receive() byte {
	r := &u.reg
	if r.loopCount > 0 {
		v := r.loop[0]
		copy(r.loop[:], r.loop[1:r.loopCount])
		r.loopCount--
		return v
	}
	if u.inCount == 0 || !r.listening() {
		return 0
	}
	v := u.input[u.inHead]
	u.inHead = (u.inHead + 1) % len(u.input)
	u.inCount--
	if u.starved && u.inCount <= len(u.input)/2 {
		u.starved = false
		select {
		case u.space <- struct{}{}:
		default: // it has not been seen yet, which is as good
		}
	}
	return v
}

// transmit sends a byte.
func (u *UART) transmit(v byte) {
	r := &u.reg
	if r.looping() {
		limit := 1
		if r.fifo() {
			limit = fifoSize
		}
		if r.loopCount < limit {
			r.loop[r.loopCount] = v
			r.loopCount++
		} else {
			r.lsr |= lsrOE
			if !r.fifo() {
				r.loop[0] = v // without FIFO the old character is overwritten
			}
		}
		r.thre = true
		return
	}
	u.send(v)
	r.thre = !u.full
}
