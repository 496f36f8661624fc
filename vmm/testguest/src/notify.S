# Writes 0, 1 and 2 to a doorbell in memory (an ioeventfd takes 1), then
# reports 0xdead.
	.include "guest.inc"
	.globl	_start
_start:
	movl	$(TESTMMIO + 0x50), %ebx
	movl	$0, (%rbx)
	movl	$1, (%rbx)
	movl	$2, (%rbx)
	report	$0xdead
1:	hlt
	jmp	1b
