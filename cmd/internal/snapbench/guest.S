# The guest of the snapshot benchmark, for every monitor that starts PVH kernels:
# writes to all of its memory from 16 MiB on, says "R" on COM1, and from then on
# halts and answers each byte that comes in on COM1 with the same byte.
#
# It writes at privilege level 3, where even a software KVM runs code at full
# speed, and answers at level 0, where it can halt: the first byte's interrupt
# brings it there for good.

	.set COM1, 0x3f8
	.set PML4, 0x800000		# everything of its own lies below 16 MiB
	.set PDPT, 0x801000
	.set PD, 0x802000		# four of them
	.set TSS, 0x810000
	.set IDT, 0x814000
	.set STACK0, 0x818000		# top
	.set FILL, 0x1000000
	.set PATTERN, 0x6c6c7568
	.set IOAPIC, 0xfec00000
	.set LAPIC, 0xfee00000
	.set VECTOR, 0x40
	.set PIN, 4			# of COM1

	.section .note.pvh, "a", @note
	.long	4, 4, 18		# XEN_ELFNOTE_PHYS32_ENTRY
	.ascii	"Xen\0"
	.long	_start

	.text
	.code32
	.globl	_start
_start:					# ebx: struct hvm_start_info
	movl	40(%ebx), %esi		# memmap_paddr, memmap_entries
	movl	48(%ebx), %ecx
	xorl	%ebp, %ebp		# the end of RAM below 3 GiB
1:	cmpl	$1, 16(%esi)		# type: RAM
	jne	2f
	cmpl	$0, 4(%esi)		# above 4 GiB
	jne	2f
	movl	(%esi), %eax
	addl	8(%esi), %eax
	cmpl	%ebp, %eax
	jb	2f
	movl	%eax, %ebp
2:	addl	$24, %esi
	decl	%ecx
	jnz	1b

	movl	$(PDPT + 7), PML4	# present, writable, user
	movl	$PDPT, %edi
	movl	$(PD + 7), %eax
	movl	$4, %ecx
1:	movl	%eax, (%edi)
	addl	$8, %edi
	addl	$0x1000, %eax
	loop	1b
	movl	$PD, %edi		# 3 GiB in pages of 2 MiB
	movl	$0x87, %eax
	movl	$1536, %ecx
1:	movl	%eax, (%edi)
	addl	$8, %edi
	addl	$0x200000, %eax
	loop	1b
	movl	$(IOAPIC + 0x97), PD + (IOAPIC >> 21) * 8	# not cached
	movl	$(LAPIC + 0x97), PD + (LAPIC >> 21) * 8
	movl	$PML4, %eax
	movl	%eax, %cr3
	movl	$0x20, %eax		# PAE
	movl	%eax, %cr4
	movl	$0xc0000080, %ecx	# EFER: LME, SCE
	movl	$0x101, %eax
	xorl	%edx, %edx
	wrmsr
	movl	$0x80000011, %eax	# PG, ET, PE
	movl	%eax, %cr0
	lgdt	gdtr
	ljmp	$0x08, $long
	.code64
long:
	movl	$0xc0000081, %ecx	# STAR: SYSRET takes CS 0x1b, SS 0x13
	xorl	%eax, %eax
	movl	$0x00080008, %edx
	wrmsr
	movl	$STACK0, TSS + 4
	movw	$0x68, TSS + 0x66	# where its bitmap of ports is, zero: all allowed
	movw	$0x20, %ax
	ltr	%ax
	movl	$(IDT + VECTOR * 16), %edi
	movl	$interrupt, %eax
	movw	%ax, (%rdi)
	shrl	$16, %eax
	movw	%ax, 6(%rdi)
	movl	$(0x8e00 << 16 | 0x08), %eax	# present, interrupt gate
	movw	%ax, 2(%rdi)
	shrl	$16, %eax
	movw	%ax, 4(%rdi)
	lidt	idtr
	movb	$0xff, %al		# the old PICs stay silent
	outb	%al, $0x21
	outb	%al, $0xa1
	movl	$LAPIC, %edx
	movl	$0x1ff, 0xf0(%rdx)	# spurious vector 0xff, APIC on
	movl	$IOAPIC, %edx
	movl	$(0x10 + 2 * PIN), (%rdx)
	movl	$VECTOR, 0x10(%rdx)	# edge, not masked
	movl	$(0x11 + 2 * PIN), (%rdx)
	movl	$0, 0x10(%rdx)		# to APIC 0
	movl	$(COM1 + 4), %edx	# MCR: OUT2 lets interrupts out
	movb	$0x0b, %al
	outb	%al, %dx
	movl	$(COM1 + 1), %edx	# IER: received data
	movb	$1, %al
	outb	%al, %dx
	movl	$user, %ecx
	movl	$0x3202, %r11d		# RFLAGS: IOPL 3, IF
	sysretq

user:	movl	$FILL, %edi
	movl	%ebp, %ecx
	subl	%edi, %ecx
	shrl	$3, %ecx
	movl	$PATTERN, %eax
	cld
	rep stosq
	movl	$COM1, %edx
	movb	$'R', %al
	outb	%al, %dx
1:	pause
	jmp	1b

interrupt:
	movl	$STACK0, %esp
1:	movl	$(COM1 + 5), %edx	# LSR: is there anything?
	inb	%dx, %al
	testb	$1, %al
	jz	2f
	movl	$COM1, %edx
	inb	%dx, %al
	outb	%al, %dx
	jmp	1b
2:	movl	$LAPIC, %edx
	movl	$0, 0xb0(%rdx)		# end of interrupt
3:	sti
	hlt
	jmp	3b

	.balign	8
gdt:	.quad	0
	.quad	0x00af9b000000ffff	# 08: kernel code
	.quad	0x00cff3000000ffff	# 10: user data (RPL 3: 0x13)
	.quad	0x00affb000000ffff	# 18: user code (RPL 3: 0x1b)
	.word	0x2068, TSS & 0xffff, 0x8900 | (TSS >> 16 & 0xff), TSS >> 24 << 8	# 20: TSS
	.quad	0
gdtr:	.word	6 * 8 - 1
	.long	gdt
idtr:	.word	(VECTOR + 1) * 16 - 1
	.quad	IDT
