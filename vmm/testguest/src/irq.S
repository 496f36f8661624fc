# Waits in HLT for interrupts of I/O APIC pin 5 and reports each. The edge
# arrives at vector 0x40.
	.include "guest.inc"
	.globl	_start
_start:
	leaq	idt(%rip), %rdi		# one gate at vector 0x40
	addq	$(0x40 * 16), %rdi
	leaq	handler(%rip), %rax
	movw	%ax, (%rdi)
	movw	%cs, %cx
	movw	%cx, 2(%rdi)
	movw	$0x8e00, 4(%rdi)	# present, interrupt gate
	shrq	$16, %rax
	movw	%ax, 6(%rdi)
	shrq	$16, %rax
	movl	%eax, 8(%rdi)
	movl	$0, 12(%rdi)
	leaq	idt(%rip), %rax
	movq	%rax, idtr+2(%rip)
	lidt	idtr(%rip)
	movb	$0xff, %al		# the old PICs stay silent
	outb	%al, $0x21
	outb	%al, $0xa1
	lapic	0xf0, $0x1ff		# spurious vector 0xff, APIC on
	movl	$IOAPIC, %ebx		# pin 5: vector 0x40, edge, to APIC 0
	movl	$(0x10 + 2 * 5 + 1), (%rbx)
	movl	$0, 0x10(%rbx)
	movl	$(0x10 + 2 * 5), (%rbx)
	movl	$0x40, 0x10(%rbx)
	report	$1			# ready
loop:	sti
	hlt
	jmp	loop
handler:
	addq	$40, %rsp		# instead of iretq: SS, RSP, RFLAGS, CS, RIP
	report	$2
	lapic	0xb0, $0		# end of interrupt
	jmp	loop
	.balign	8
idtr:	.word	0x41 * 16 - 1
	.quad	0
	.bss
	.balign	16
idt:	.skip	0x41 * 16
