# Looks again and again whether all that a CPU, its timer, a disk's queue and
# their interrupts hold is as it left it, and counts. What it finds wrong it
# reports, 0xbad00 and what it was, and stops. It never reports otherwise: the
# test reads its counters in memory.
#
# The loop runs at privilege level 3. Interrupts go back there by SYSRET, as
# software KVMs do not know IRETQ; see interrupt.
	.include "guest.inc"
	.set	COUNTS, 0x300000	# 8 bytes each: loops, ticks, requests, errors
	.set	LOOPS, COUNTS
	.set	TICKS, COUNTS + 8
	.set	REQUESTS, COUNTS + 16
	.set	DONE, COUNTS + 32	# requests that an interrupt has told of
	.set	FAILED, COUNTS + 40
	.set	STACK, 0x310000
	.set	STACK0, 0x318000
	.set	TSS, 0x31a000
	.set	IDT, 0x31c000
	.set	FS, 0x320000		# what FS and GS point at holds its own address
	.set	GS, 0x321000
	.set	DESC, 0x330000		# the queue: 4 entries
	.set	AVAIL, 0x330040
	.set	USED, 0x331000
	.set	HEADER, 0x332000	# 16 bytes
	.set	SECTOR, 0x332200	# 512 bytes
	.set	ANSWER, 0x332400	# 1 byte
	.set	DISK, 0xd0000000	# the first virtio-mmio device
	.set	DISKPIN, 5
	.set	SECTORS, 63		# less one: a power of two
	.set	SALT, 0x5eed5eed
	.set	PATIENCE, 1 << 30	# looks for an interrupt before one counts as lost
	.set	PERIOD, 2000000		# of the timer, ns

	.macro	wrong code
	movl	$(0xbad00 + \code), %eax
	jmp	failed
	.endm
	.macro	put reg, value
	movl	$DISK, %eax
	movl	\value, \reg(%rax)
	.endm
	.macro	setmsr index, low, high
	movl	$\index, %ecx
	movl	$\low, %eax
	movl	$\high, %edx
	wrmsr
	.endm
	.macro	wantmsr index, low, high, code
	movl	$\index, %ecx
	rdmsr
	cmpl	$\low, %eax
	jne	9f
	cmpl	$\high, %edx
	je	8f
9:	wrong	\code
8:
	.endm
	.macro	setdr n, value
	movl	$\value, %eax
	movq	%rax, %db\n
	.endm
	.macro	wantdr n, value
	movq	%db\n, %rax
	cmpl	$\value, %eax
	je	8f
	wrong	(0x20 + \n)
8:
	.endm
	# gate VECTOR, HANDLER
	.macro	gate vector, handler
	movl	$(IDT + \vector * 16), %edi
	movl	$\handler, %eax
	movw	%ax, (%rdi)
	shrl	$16, %eax
	movw	%ax, 6(%rdi)
	movl	$(0x8e00 << 16 | 0x08), %eax	# present, interrupt gate
	movw	%ax, 2(%rdi)
	shrl	$16, %eax
	movw	%ax, 4(%rdi)
	.endm

	.globl	_start
_start:
	lgdt	gdtr
	movl	$STACK0, TSS + 4
	movw	$0x68, TSS + 0x66	# where its bitmap of ports is, zero: all allowed
	movw	$0x20, %ax
	ltr	%ax
	gate	0x40, timer
	gate	0x41, disk
	lidt	idtr
	movb	$0xff, %al		# the old PICs stay silent
	outb	%al, $0x21
	outb	%al, $0xa1
	lapic	0xf0, $0x1ff		# spurious vector 0xff, APIC on
	lapic	0x3e0, $0xb		# the timer counts each ns
	lapic	0x320, $0x20040		# periodic, vector 0x40
	lapic	0x380, $PERIOD
	movl	$IOAPIC, %ebx		# the disk's pin: vector 0x41, edge, to APIC 0
	movl	$(0x10 + 2 * DISKPIN + 1), (%rbx)
	movl	$0, 0x10(%rbx)
	movl	$(0x10 + 2 * DISKPIN), (%rbx)
	movl	$0x41, 0x10(%rbx)
	sysret_on
	movq	%cr4, %rax		# OSFXSR: without it a processor has no SSE
	orl	$0x200, %eax
	movq	%rax, %cr4
	setmsr	0xc0000081, 0, 0x00080008	# STAR: SYSRET takes CS 0x1b, SS 0x13
	setmsr	0xc0000082, 0x11223344, 0	# LSTAR
	setmsr	0xc0000084, 0x40700, 0		# SFMASK
	setmsr	0xc0000100, FS, 0		# FS base
	setmsr	0xc0000101, GS, 0		# GS base
	setmsr	0xc0000102, 0x55667788, 0x7	# kernel GS base
	setmsr	0x174, 0x18, 0			# SYSENTER
	setmsr	0x175, 0x01020304, 0
	setmsr	0x176, 0x05060708, 0
	setdr	0, 0x1000100
	setdr	1, 0x1000200
	setdr	2, 0x1000300
	setdr	3, 0x1000400
	movl	$0x0badf00d, %eax
	movq	%rax, %cr2
	movl	$FS, FS
	movl	$GS, GS

	put	0x070, $0		# the disk: reset, ACKNOWLEDGE, DRIVER
	put	0x070, $3
	put	0x024, $1		# F_VERSION_1 and nothing else
	put	0x020, $1
	put	0x024, $0
	put	0x020, $0
	put	0x070, $11		# FEATURES_OK
	put	0x030, $0
	put	0x038, $4
	put	0x080, $DESC
	put	0x084, $0
	put	0x090, $AVAIL
	put	0x094, $0
	put	0x0a0, $USED
	put	0x0a4, $0
	put	0x044, $1
	movl	$HEADER, DESC		# header, sector (written), answer (written)
	movl	$16, DESC + 8
	movl	$(1 << 16 | 1), DESC + 12
	movl	$SECTOR, DESC + 16
	movl	$512, DESC + 24
	movl	$(2 << 16 | 3), DESC + 28
	movl	$ANSWER, DESC + 32
	movl	$1, DESC + 40
	movl	$2, DESC + 44
	put	0x070, $15		# DRIVER_OK

	movl	$user, %ecx
	movl	$0x3202, %r11d		# RFLAGS: IOPL 3, IF
	sysretq

# The handlers run at privilege level 0 and change nothing of what they
# interrupt: what SYSRET needs is put on the interrupted code's stack, where
# resume finds it, also if another interrupt comes first.
timer:
	pushq	%rax
	pushq	%rcx
	pushq	%rdx
	wantmsr	0xc0000081, 0, 0x00080008, 0x10
	wantmsr	0xc0000082, 0x11223344, 0, 0x11
	wantmsr	0xc0000084, 0x40700, 0, 0x12
	wantmsr	0xc0000100, FS, 0, 0x13
	wantmsr	0xc0000101, GS, 0, 0x14
	wantmsr	0xc0000102, 0x55667788, 0x7, 0x15
	wantmsr	0x174, 0x18, 0, 0x16
	wantmsr	0x175, 0x01020304, 0, 0x17
	wantmsr	0x176, 0x05060708, 0, 0x18
	wantdr	0, 0x1000100
	wantdr	1, 0x1000200
	wantdr	2, 0x1000300
	wantdr	3, 0x1000400
	movq	%cr2, %rax
	cmpl	$0x0badf00d, %eax
	je	1f
	wrong	0x28
1:	movl	$LAPIC, %eax
	cmpl	$0x1ff, 0xf0(%rax)
	je	1f
	wrong	0x29
1:	cmpl	$PERIOD, 0x380(%rax)
	je	1f
	wrong	0x2a
1:	popq	%rdx
	popq	%rcx
	popq	%rax
	incq	TICKS
	jmp	return
disk:
	pushq	%rax
	pushq	%rcx
	movl	$DISK, %eax
	movl	0x060(%rax), %ecx	# InterruptStatus: 0 for an edge that was sent once more
	testl	$1, %ecx
	jz	1f
	incq	DONE
1:	movl	%ecx, 0x064(%rax)	# InterruptACK
	popq	%rcx
	popq	%rax
return:
	pushq	%rax			# 0: rax, 8: RIP, CS, RFLAGS, 32: RSP, SS
	movq	32(%rsp), %rax
	subq	$32, %rax
	movq	%rcx, (%rax)
	movq	%r11, 8(%rax)
	movq	(%rsp), %rcx
	movq	%rcx, 16(%rax)
	movq	8(%rsp), %rcx
	movq	%rcx, 24(%rax)
	movq	24(%rsp), %r11
	movq	%rax, %rsp
	movl	$LAPIC, %eax
	movl	$0, 0xb0(%rax)		# end of interrupt
	movl	$resume, %ecx
	sysretq
resume:
	popq	%rcx
	popq	%r11
	popq	%rax
	ret

failed:					# at any privilege level
	movl	%eax, FAILED
	outl	%eax, $TESTPORT
1:	jmp	1b

	.balign	8
gdt:	.quad	0
	.quad	0x00af9b000000ffff	# 08: kernel code
	.quad	0x00cff3000000ffff	# 10: user data (RPL 3: 0x13)
	.quad	0x00affb000000ffff	# 18: user code (RPL 3: 0x1b)
	.word	0x2068, TSS & 0xffff, 0x8900 | (TSS >> 16 & 0xff), TSS >> 24 << 8	# 20: TSS
	.quad	0
gdtr:	.word	6 * 8 - 1
	.quad	gdt
idtr:	.word	0x42 * 16 - 1
	.quad	IDT

	.macro	want reg, value, code
	cmpq	$\value, %\reg
	je	1f
	wrong	\code
1:
	.endm
	.macro	wantxmm n
	movdqa	%xmm\n, %xmm15
	pcmpeqb	vectors + 16 * \n, %xmm15
	pmovmskb %xmm15, %eax
	cmpl	$0xffff, %eax
	je	1f
	wrong	(0x40 + \n)
1:
	.endm
	.macro	everyxmm what
	.irp	n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14
	\what	\n
	.endr
	.endm
	.macro	setxmm n
	movdqa	vectors + 16 * \n, %xmm\n
	.endm

	.balign	16
vectors:
	.irp	n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14
	.quad	0x1111111111111111 * \n + 1, ~(0x0101010101010101 * \n)
	.endr
user:
	movl	$STACK, %esp
	everyxmm setxmm
	fninit
	fld1
	fldpi
	movq	$0x11111111, %rbx
	movq	$-0x22222222, %rcx
	movq	$0x33333333, %rdx
	movq	$-0x44444444, %rsi
	movq	$0x55555555, %rdi
	movq	$-0x66666666, %rbp
	movq	$0x77777777, %r8
	movq	$-0x11223344, %r9
	movq	$0x12345678, %r10
	movq	$-0x12345678, %r11
	movq	$0x0fedcba9, %r12
	movq	$-0x0fedcba9, %r13
	xorl	%r14d, %r14d		# looks since the last request
	xorl	%r15d, %r15d		# loops
	jmp	submit
loop:
	want	rbx, 0x11111111, 1
	want	rcx, -0x22222222, 2
	want	rdx, 0x33333333, 3
	want	rsi, -0x44444444, 4
	want	rdi, 0x55555555, 5
	want	rbp, -0x66666666, 6
	want	r8, 0x77777777, 7
	want	r9, -0x11223344, 8
	want	r10, 0x12345678, 9
	want	r11, -0x12345678, 10
	want	r12, 0x0fedcba9, 11
	want	r13, -0x0fedcba9, 12
	want	rsp, STACK, 13
	cmpq	%r15, LOOPS
	je	1f
	wrong	14
1:	incq	%r15
	incq	LOOPS
	cmpl	$FS, %fs:0
	je	1f
	wrong	0x30
1:	cmpl	$GS, %gs:0
	je	1f
	wrong	0x31
1:	everyxmm wantxmm
	fstps	scratch			# pi and one, and back
	cmpl	$0x40490fdb, scratch
	jne	2f
	fstps	scratch
	cmpl	$0x3f800000, scratch
	je	1f
2:	wrong	0x32
1:	fld1
	fldpi
	# The request is done when its interrupt has come: a lost one is an error,
	# and so is one that came twice.
	movq	REQUESTS, %rax
	cmpq	%rax, DONE
	je	done
	incq	%r14
	cmpq	$PATIENCE, %r14
	jb	loop
	wrong	0x33
done:
	cmpw	%ax, USED + 2
	je	1f
	wrong	0x34
1:	cmpb	$0, ANSWER
	je	1f
	wrong	0x35
1:	leal	-1(%rax), %eax		# the sector's number and the salt
	andl	$SECTORS, %eax
	addl	$SALT, %eax
	cmpl	%eax, SECTOR
	jne	2f
	cmpl	%eax, SECTOR + 508
	je	submit
2:	wrong	0x36
submit:
	movq	REQUESTS, %rax
	movl	%eax, %r14d
	andl	$SECTORS, %r14d
	movl	%r14d, HEADER + 8	# VIRTIO_BLK_T_IN, of that sector
	movb	$0xff, ANSWER
	movl	$0, SECTOR
	movl	$0, SECTOR + 508
	incq	%rax
	movq	%rax, REQUESTS
	movw	%ax, AVAIL + 2		# the ring's entries are all 0: descriptor 0
	put	0x050, $0
	xorl	%r14d, %r14d
	jmp	loop
	.balign	4
scratch:
	.long	0
