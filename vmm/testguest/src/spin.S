# Counts in memory at 0x200000 and never exits. Reports 1 first.
	.include "guest.inc"
	.globl	_start
_start:
	report	$1
	movl	$0x200000, %ebx
1:	incq	(%rbx)
	jmp	1b
