#include "textflag.h"

// Assembly because Go has no way to read the counter.

// func rdtsc() uint64
TEXT ·rdtsc(SB), NOSPLIT, $0-8
	LFENCE
	RDTSC
	SHLQ $32, DX
	ORQ  DX, AX
	LFENCE
	MOVQ AX, ret+0(FP)
	RET
