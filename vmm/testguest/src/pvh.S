# Like hello, but started through PVH in 32-bit mode, as other monitors start
# an ELF file too: for comparing them.
	.include "guest.inc"
	.code32
	.section .note, "a", @note
	.long	4, 4, 18		# name size, descriptor size, XEN_ELFNOTE_PHYS32_ENTRY
	.asciz	"Xen"
	.long	_start
	.text
	.globl	_start
_start:
	movw	$COM1, %dx
	movl	$text, %esi
	movl	$(end - text), %ecx
1:	movb	(%esi), %al
	outb	%al, %dx
	incl	%esi
	decl	%ecx
	jnz	1b
	movb	$0xfe, %al
	outb	%al, $0x64
2:	hlt
	jmp	2b
text:	.ascii	"hello\r\n"
end:
