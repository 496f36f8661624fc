# Starts all other CPUs by INIT and SIPI; each reports 0x100 plus its APIC ID.
# The boot CPU reports 1 first and 0xdead when it has sent everything.
	.include "guest.inc"
	.set	TRAMPOLINE, 0x8000
	.globl	_start
_start:
	report	$1
	leaq	ap(%rip), %rsi
	movl	$TRAMPOLINE, %edi
	movl	$(apend - ap), %ecx
	cld
	rep movsb
	lapic	0xf0, $0x1ff
	lapic	0x300, $0xc4500		# INIT, all but self
	lapic	0x300, $(0xc4600 | TRAMPOLINE >> 12) # SIPI
	lapic	0x300, $(0xc4600 | TRAMPOLINE >> 12)
	report	$0xdead
1:	hlt
	jmp	1b
	.code16
ap:					# CS base is TRAMPOLINE, IP 0
	movl	$1, %eax
	cpuid
	shrl	$24, %ebx		# initial APIC ID
	movl	%ebx, %eax
	addl	$0x100, %eax
	outl	%eax, $TESTPORT
	cli
1:	hlt
	jmp	1b
apend:
	.code64
