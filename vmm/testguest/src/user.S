# Drops to privilege level 3 with access to all ports, where even a software
# KVM runs code at full speed, and answers forever: reports a counter that it
# raises by one each time.
	.include "guest.inc"
	.globl	_start
_start:
	leaq	gdt(%rip), %rax
	movq	%rax, gdtr+2(%rip)
	lgdt	gdtr(%rip)
	movl	$0x3002, %r11d		# RFLAGS: IOPL 3
	sysret_on
	movl	$0xc0000081, %ecx	# STAR: SYSRET takes CS 0x1b, SS 0x13
	rdmsr
	movl	$0x00080008, %edx
	wrmsr
	leaq	user(%rip), %rcx
	sysretq
user:
	movl	$0, %eax
1:	outl	%eax, $TESTPORT
	incl	%eax
	jmp	1b
	.balign	8
gdt:	.quad	0
	.quad	0x00af9b000000ffff	# 08: kernel code
	.quad	0x00cff3000000ffff	# 10: user data (RPL 3: 0x13)
	.quad	0x00affb000000ffff	# 18: user code (RPL 3: 0x1b)
gdtend:
gdtr:	.word	gdtend - gdt - 1
	.quad	0
