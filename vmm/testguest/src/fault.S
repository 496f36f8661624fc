# Takes an exception with no way to handle it: a triple fault.
	.include "guest.inc"
	.globl	_start
_start:
	report	$1
	lidt	empty(%rip)
	ud2
	.balign	8
empty:	.word	0
	.quad	0
