#include "textflag.h"

// Assembly because sync/atomic has no 16-bit store, and a wider one would write memory that is the guest's.
// XCHG with memory is locked: a full barrier.

// func exchange16(p *uint16, v uint16)
TEXT ·exchange16(SB), NOSPLIT, $0-10
	MOVQ p+0(FP), AX
	MOVW v+8(FP), CX
	XCHGW CX, (AX)
	RET

// func pause()
TEXT ·pause(SB), NOSPLIT, $0-0
	PAUSE
	RET
