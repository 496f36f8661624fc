# Port and memory accesses of every width, string output, then HLT for good.
	.include "guest.inc"
	.globl	_start
_start:
	report	$0x11223344
	movb	$0x55, %al
	outb	%al, $TESTPORT
	movw	$0x6677, %ax
	outw	%ax, $TESTPORT
	inl	$TESTPORT, %eax
	addl	$1, %eax
	outl	%eax, $TESTPORT		# what was read, plus one
	movl	$TESTMMIO, %ebx
	movb	$0x88, (%rbx)
	movw	$0x99aa, 2(%rbx)
	movl	$0xbbccddee, 4(%rbx)
	movabsq	$0x0102030405060708, %rax
	movq	%rax, 8(%rbx)
	movq	16(%rbx), %rax
	addq	$1, %rax
	movq	%rax, 24(%rbx)		# what was read, plus one
	movw	$TESTPORT, %dx
	leaq	words(%rip), %rsi
	movl	$3, %ecx
	cld
	rep outsl
	report	$0xdead
1:	hlt
	jmp	1b
words:	.long	1, 2, 3
