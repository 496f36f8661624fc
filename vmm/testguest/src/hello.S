# Writes "hello" to COM1 and resets the machine through the keyboard controller.
	.include "guest.inc"
	.globl	_start
_start:
	movw	$COM1, %dx
	leaq	text(%rip), %rsi
	movl	$(end - text), %ecx
1:	movb	(%rsi), %al
	outb	%al, %dx
	incq	%rsi
	decl	%ecx
	jnz	1b
	movb	$0xfe, %al
	outb	%al, $0x64
2:	hlt
	jmp	2b
text:	.ascii	"hello\r\n"
end:
