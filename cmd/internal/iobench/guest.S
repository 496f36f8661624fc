# The guest of the I/O benchmark: drives the queues of one virtio-mmio device and
# tells on COM1 how long that took. The same bytes run under every monitor that
# starts PVH kernels; the work is described in the initial ram disk, which is a
# struct of 8-byte words (the P_ constants; type work in work.go).
#
# Privileged code ends as soon as page tables are in place: the rest runs at
# privilege level 3 with access to all ports and to the device's registers, where
# even a software KVM runs code at full speed. Used rings are polled, or looked at
# after each interrupt, which is waited for without halting.
#
# What it says, a line each, numbers as 16 hexadecimal digits:
#   R                             ready; goes on when a byte is sent to COM1
#   E ticks requests errors kicks interrupts
#   F code                        something went wrong, see the fail macros

	.set COM1, 0x3f8
	.set RAM, 128 << 20		# what every monitor gives this guest

# The work, see type work.
	.set P_BASE, work + 0		# the virtio-mmio slots to look through
	.set P_STRIDE, work + 8
	.set P_SLOTS, work + 16
	.set P_DEVICE, work + 24	# the device ID to look for
	.set P_KIND, work + 32
	.set P_FEATURES, work + 40	# to negotiate
	.set P_DEPTH, work + 48		# requests in flight
	.set P_SIZE, work + 56		# bytes of a request
	.set P_COUNT, work + 64		# requests to measure; VSOCK_IN: bytes
	.set P_WARMUP, work + 72	# those before them
	.set P_UNITS, work + 80		# blk: places of P_SIZE bytes on the disk, a power of two
	.set P_SEQUENTIAL, work + 88	# blk: 1 for one after the other, 0 for random ones
	.set P_WRITE, work + 96		# blk: 1 for writes
	.set P_SEED, work + 104		# blk, vsock: what data is made of
	.set P_STEP, work + 112		# blk: bytes from one word that is looked at to the next
	.set P_INTERRUPTS, work + 120	# 1 to take an interrupt for what is done
	.set WORK_SIZE, 128

# Memory, from 16 MiB on. All of it is zero when the guest starts.
	.set PML4, 0x1000000
	.set PDPT, 0x1001000
	.set PDRAM, 0x1002000		# page directory of RAM
	.set PDIO, 0x1003000		# page directory of 3 to 4 GiB
	.set TSS, 0x1010000
	.set IDT, 0x1014000
	.set STACK0, 0x1018000		# top, for privileged code
	.set STACK, 0x1020000		# top
	.set RINGS, 0x1100000		# RING_SIZE bytes a queue
	.set TABLES, 0x1200000		# indirect tables, 64 bytes a slot
	.set HEADERS, 0x1210000		# headers of requests, 64 bytes a slot
	.set AUX, 0x1300000		# vsock: buffers of the other queue, a page a slot
	.set DATA, 0x1800000		# a buffer for each slot

# A queue: where its parts are, and what the driver knows of it.
	.set RING_SHIFT, 16
	.set DESC, 0
	.set AVAIL, 0x2000
	.set USED, 0x4000
	.set Q_INDEX, 0x8000
	.set Q_MASK, 0x8004		# size - 1
	.set Q_AVAIL, 0x8008		# next avail.idx
	.set Q_TOLD, 0x800c		# avail.idx as the device sees it
	.set Q_USED, 0x8010		# used.idx up to which entries were taken
	.set Q_USED_EVENT, 0x8018	# address of used_event
	.set Q_AVAIL_EVENT, 0x8020	# address of avail_event

# virtio-mmio registers (VIRTIO 1.2, 4.2.2)
	.set MAGIC, 0x000
	.set VERSION, 0x004
	.set DEVICE_ID, 0x008
	.set DEVICE_FEATURES, 0x010
	.set DEVICE_FEATURES_SEL, 0x014
	.set DRIVER_FEATURES, 0x020
	.set DRIVER_FEATURES_SEL, 0x024
	.set QUEUE_SEL, 0x030
	.set QUEUE_NUM_MAX, 0x034
	.set QUEUE_NUM, 0x038
	.set QUEUE_READY, 0x044
	.set QUEUE_NOTIFY, 0x050
	.set INTERRUPT_STATUS, 0x060
	.set INTERRUPT_ACK, 0x064
	.set STATUS, 0x070
	.set QUEUE_DESC, 0x080
	.set QUEUE_DRIVER, 0x090
	.set QUEUE_DEVICE, 0x0a0
	.set CONFIG, 0x100

# Interrupt controllers. All of the IOAPIC's inputs that devices may have get the
# same vector: only one device is at work.
	.set IOAPIC, 0xfec00000
	.set LAPIC, 0xfee00000
	.set VECTOR, 0x40
	.set FIRST_PIN, 5
	.set PINS, 24

# Descriptor flags (2.7.5)
	.set NEXT, 1
	.set WRITE, 2
	.set INDIRECT, 4

# Kinds of work
	.set BLK, 0
	.set NET_OUT, 1
	.set NET_IN, 2
	.set VSOCK_OUT, 3
	.set VSOCK_IN, 4
	.set REGISTER, 5		# reads of a register of the device

	.set NET_HEADER, 12		# struct virtio_net_hdr (5.1.6)
	.set MIN_BUFFER, 1526		# bytes to receive in, as Linux has it: a header and an Ethernet frame
	.set ETHERTYPE, 0xb588		# 0x88b5, for experiments (IEEE 802), as it is in memory

# struct virtio_vsock_hdr (5.10.6)
	.set V_SRC_CID, 0
	.set V_DST_CID, 8
	.set V_SRC_PORT, 16
	.set V_DST_PORT, 20
	.set V_LEN, 24
	.set V_TYPE, 28
	.set V_OP, 30
	.set V_FLAGS, 32
	.set V_BUF_ALLOC, 36
	.set V_FWD_CNT, 40
	.set V_SIZE, 44
	.set OP_REQUEST, 1
	.set OP_RESPONSE, 2
	.set OP_RW, 5
	.set OP_CREDIT_UPDATE, 6
	.set PORT, 1024			# of the host
	.set BUF_ALLOC, 256 << 10	# as Linux has it
	.set CREDIT_STEP, 128 << 10	# bytes after which the host gets new credit
	.set AUX_SLOTS, 16

	.set PATIENCE, 200000000	# looks at a ring before the guest gives up

	.macro fail code
	movl	$\code, %edi
	jmp	failed
	.endm

	.macro put_reg reg, value	# a device register
	movl	\value, %eax
	movl	%eax, \reg(%rbx)
	.endm

	.section .note, "a", @note
	.long	4, 4, 18		# name size, descriptor size, XEN_ELFNOTE_PHYS32_ENTRY
	.asciz	"Xen"
	.long	_start

	.text
	.code32
	.globl	_start
_start:					# ebx: struct hvm_start_info
	movl	16(%ebx), %eax		# modlist_paddr
	movl	(%eax), %ebp		# the first module
	movl	$(PDPT + 7), PML4	# present, writable, user
	movl	$(PDRAM + 7), PDPT
	movl	$(PDIO + 7), PDPT + 3 * 8
	movl	$PDRAM, %edi
	movl	$0x87, %eax		# the same, and a page of 2 MiB
1:	movl	%eax, (%edi)
	addl	$8, %edi
	addl	$0x200000, %eax
	cmpl	$(RAM + 0x87), %eax
	jne	1b
	movl	(P_BASE - work)(%ebp), %eax
	movl	%eax, %ecx
	shrl	$21, %ecx
	andl	$511, %ecx
	andl	$0xffe00000, %eax
	orl	$0x97, %eax		# not cached
	movl	%eax, PDIO(,%ecx,8)
	movl	$(IOAPIC + 0x97), PDIO + (IOAPIC >> 21 & 511) * 8
	movl	$(LAPIC + 0x97), PDIO + (LAPIC >> 21 & 511) * 8
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
	movl	$user, %ecx
	movl	$0x3002, %r11d		# RFLAGS: IOPL 3
	cmpl	$0, (P_INTERRUPTS - work)(%rbp)
	je	1f
	orl	$0x200, %r11d		# IF
1:	sysretq

# interrupt is what runs at VECTOR: it acknowledges, and goes back by SYSRET, as
# software KVMs do not know IRETQ. What that changes it puts on the interrupted
# code's stack, where resume finds it, also if another interrupt comes first.
interrupt:
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
	movl	INTERRUPT_STATUS(%rbx), %eax
	movl	%eax, INTERRUPT_ACK(%rbx)
	incl	interrupts		# after that: what was done before is seen
	movl	$LAPIC, %eax
	movl	$0, 0xb0(%rax)		# end of interrupt
	movl	$resume, %ecx
	sysretq
resume:
	popq	%rcx
	popq	%r11
	popq	%rax
	ret

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

user:
	movl	$STACK, %esp
	movl	%ebp, %esi
	movl	$work, %edi
	movl	$WORK_SIZE, %ecx
	rep movsb
	call	find
	cmpl	$0, P_INTERRUPTS
	je	1f
	call	set_interrupts
1:	call	negotiate
	movl	P_KIND, %eax
	movl	queues(,%rax,4), %ebp	# how many
	xorl	%edi, %edi
1:	call	set_queue
	incl	%edi
	cmpl	%ebp, %edi
	jb	1b
	movq	P_KIND, %rax
	shlq	$5, %rax
	movq	kinds(%rax), %rcx
	movq	kinds+8(%rax), %rdx
	movq	%rdx, prepare
	movq	kinds+16(%rax), %rdx
	movq	%rdx, check
	movl	kinds+24(%rax), %edi	# the queue that is measured
	movl	kinds+28(%rax), %eax
	movl	%eax, receives
	call	ring
	call	touch
	call	*%rcx			# fill the buffers
	put_reg	STATUS, $15		# and DRIVER_OK
	cmpl	$VSOCK_OUT, P_KIND
	jb	2f
	cmpl	$REGISTER, P_KIND
	je	2f
	call	connect
2:	cmpl	$0, receives
	jne	3f
	movl	P_WARMUP, %edi
	call	run
	call	ready
	jmp	4f
3:	call	ready			# what comes in comes from now on
	movl	P_DEPTH, %edi
	call	post
	movl	P_WARMUP, %edi
	call	run
4:	movq	$0, errors
	movq	$0, kicks
	movl	interrupts, %eax
	movl	%eax, interrupts_before
	call	ticks
	movq	%rax, begin
	movl	P_COUNT, %edi
	call	run
	call	ticks
	subq	begin, %rax
	movq	%rax, %rdi
	movb	$'E', %al
	call	say
	call	number
	movslq	%r15d, %rdi		# negative: more than were asked for
	negq	%rdi
	addq	P_COUNT, %rdi
	call	number
	movq	errors, %rdi
	call	number
	movq	kicks, %rdi
	call	number
	movl	interrupts, %edi
	subl	interrupts_before, %edi
	call	number
	call	newline
1:	pause				# until the monitor is ended
	jmp	1b

## COM1

# ready says so and waits for a byte.
ready:
	movb	$'R', %al
	call	say
	call	newline
	movw	$(COM1 + 5), %dx
1:	inb	%dx, %al		# data ready?
	testb	$1, %al
	jz	1b
	movw	$COM1, %dx
	inb	%dx, %al
	ret

failed:
	movb	$'F', %al
	call	say
	call	number
	call	newline
1:	pause
	jmp	1b

newline:
	movb	$'\n', %al
say:
	movw	$COM1, %dx
	outb	%al, %dx
	ret

# number says a space and rdi.
number:
	movb	$' ', %al
	call	say
	movl	$16, %ecx
1:	rolq	$4, %rdi
	movl	%edi, %eax
	andl	$15, %eax
	movb	digits(%rax), %al
	call	say
	decl	%ecx
	jnz	1b
	ret

ticks:
	lfence
	rdtsc
	shlq	$32, %rdx
	orq	%rdx, %rax
	lfence
	ret

## The device

# find leaves the device's registers in rbx.
find:
	movq	P_BASE, %rbx
	movl	P_SLOTS, %ecx
1:	cmpl	$0x74726976, MAGIC(%rbx)
	jne	2f
	cmpl	$2, VERSION(%rbx)
	jne	2f
	movl	DEVICE_ID(%rbx), %eax
	cmpl	P_DEVICE, %eax
	je	3f
2:	addq	P_STRIDE, %rbx
	decl	%ecx
	jnz	1b
	fail	0x10			# no such device
3:	ret

set_interrupts:
	movb	$0xff, %al		# the old PICs stay silent
	outb	%al, $0x21
	outb	%al, $0xa1
	movl	$LAPIC, %edx
	movl	$0x1ff, 0xf0(%rdx)	# spurious vector 0xff, APIC on
	movl	$IOAPIC, %edx
	movl	$FIRST_PIN, %ecx
1:	leal	0x10(%rcx,%rcx), %eax
	movl	%eax, (%rdx)
	movl	$VECTOR, 0x10(%rdx)	# edge, not masked
	incl	%eax
	movl	%eax, (%rdx)
	movl	$0, 0x10(%rdx)		# to APIC 0
	incl	%ecx
	cmpl	$PINS, %ecx
	jb	1b
	ret

# negotiate goes as far as FEATURES_OK (3.1.1).
negotiate:
	put_reg	STATUS, $0
	put_reg	STATUS, $3		# ACKNOWLEDGE, DRIVER
	xorl	%ecx, %ecx
1:	movl	%ecx, DEVICE_FEATURES_SEL(%rbx)
	movl	%ecx, DRIVER_FEATURES_SEL(%rbx)
	movl	P_FEATURES(,%rcx,4), %eax
	movl	DEVICE_FEATURES(%rbx), %edx
	andl	%eax, %edx
	cmpl	%eax, %edx
	jne	2f
	movl	%eax, DRIVER_FEATURES(%rbx)
	incl	%ecx
	cmpl	$2, %ecx
	jb	1b
	put_reg	STATUS, $11		# and FEATURES_OK
	testl	$8, STATUS(%rbx)
	jz	2f
	ret
2:	fail	0x11			# a feature is missing

# ring leaves the address of queue edi in r12.
ring:
	movl	%edi, %r12d
	shll	$RING_SHIFT, %r12d
	addl	$RINGS, %r12d
	ret

# set_queue makes queue edi ready, 256 entries long if it can be.
set_queue:
	call	ring
	movl	%edi, Q_INDEX(%r12)
	movl	%edi, QUEUE_SEL(%rbx)
	movl	QUEUE_NUM_MAX(%rbx), %ecx
	movl	$256, %eax
	cmpl	%eax, %ecx
	cmoval	%eax, %ecx
	movl	%ecx, QUEUE_NUM(%rbx)
	cmpl	P_DEPTH, %ecx
	jae	1f
	cmpl	$2, %edi		# the event queue of vsock may be short
	jae	1f
	fail	0x12
1:	leal	-1(%rcx), %eax
	movl	%eax, Q_MASK(%r12)
	leaq	(AVAIL + 4)(%r12,%rcx,2), %rax
	movq	%rax, Q_USED_EVENT(%r12)
	leaq	(USED + 4)(%r12,%rcx,8), %rax
	movq	%rax, Q_AVAIL_EVENT(%r12)
	leal	DESC(%r12), %eax
	movl	%eax, QUEUE_DESC(%rbx)
	leal	AVAIL(%r12), %eax
	movl	%eax, QUEUE_DRIVER(%rbx)
	leal	USED(%r12), %eax
	movl	%eax, QUEUE_DEVICE(%rbx)
	put_reg	QUEUE_READY, $1
	call	silence
	ret

## A queue, in r12

# put makes slot edi available, kick publishes it.
put:
	movl	Q_AVAIL(%r12), %eax
	incl	Q_AVAIL(%r12)
	andl	Q_MASK(%r12), %eax
	movw	%di, (AVAIL + 4)(%r12,%rax,2)
	ret

# kick publishes what was put, and notifies the device if that wants to know
# (2.7.10: with EVENT_IDX, if the index goes past avail_event).
kick:
	movl	Q_AVAIL(%r12), %eax
	movl	Q_TOLD(%r12), %ecx
	movl	%eax, %edx
	subl	%ecx, %edx		# how many
	jz	1f
	movl	%eax, Q_TOLD(%r12)
	movl	%eax, %ecx
	xchgw	%cx, (AVAIL + 2)(%r12)	# a full barrier as well
	movq	Q_AVAIL_EVENT(%r12), %rcx
	subw	(%rcx), %ax
	decw	%ax
	cmpw	%dx, %ax
	jae	1f
	movl	Q_INDEX(%r12), %eax
	movl	%eax, QUEUE_NOTIFY(%rbx)
	incq	kicks
1:	ret

# silence keeps used_event out of the device's way (2.7.8), or asks for an
# interrupt with the next used buffer.
silence:
	movl	Q_USED(%r12), %eax
	cmpl	$0, P_INTERRUPTS
	jne	1f
	addl	$0x7fff, %eax
1:
	movq	Q_USED_EVENT(%r12), %rcx
	movw	%ax, (%rcx)
	ret

# post makes slots 0 to edi - 1 available.
post:
	pushq	%rbp
	movl	%edi, %ebp
	xorl	%edi, %edi
1:	call	put
	incl	%edi
	cmpl	%ebp, %edi
	jb	1b
	popq	%rbp
	jmp	kick

# run keeps P_DEPTH requests in flight until edi have been completed. r14: still
# to be submitted, r15: to be completed, rbp: used.idx as last seen, r13: slot.
# A queue that receives has its buffers and gets them back at once.
run:
	movl	%edi, %r15d
	cmpl	$REGISTER, P_KIND
	je	read_register
	testl	%edi, %edi
	jnz	0f
	ret
0:
	movl	$-1, %r14d
	cmpl	$0, receives
	jne	3f
	movl	%edi, %r14d
	xorl	%r13d, %r13d
1:	cmpl	P_DEPTH, %r13d
	jae	2f
	testl	%r14d, %r14d
	jz	2f
	movl	%r13d, %edi
	call	*prepare
	movl	%r13d, %edi
	call	put
	incl	%r13d
	decl	%r14d
	jmp	1b
2:	call	kick
3:	movl	$PATIENCE, %edx
	cmpl	$0, P_INTERRUPTS
	jne	8f
4:	movzwl	(USED + 2)(%r12), %ebp
	cmpw	Q_USED(%r12), %bp
	jne	5f
	pause
	decl	%edx
	jnz	4b
	fail	0x20			# no answer
5:	movl	Q_USED(%r12), %eax
	andl	Q_MASK(%r12), %eax
	movl	(USED + 4)(%r12,%rax,8), %r13d
	movl	(USED + 8)(%r12,%rax,8), %esi
	incl	Q_USED(%r12)
	decl	%r15d
	movl	%r13d, %edi
	call	*check
	testl	%r14d, %r14d
	jz	6f
	decl	%r14d
	movl	%r13d, %edi
	call	*prepare
	movl	%r13d, %edi
	call	put
6:	cmpw	Q_USED(%r12), %bp
	jne	5b
	call	silence
	cmpl	$0, P_INTERRUPTS
	je	7f
	mfence				# what was done before that has no interrupt
	movzwl	(USED + 2)(%r12), %ebp
	cmpw	Q_USED(%r12), %bp
	jne	5b
7:	call	kick
	testl	%r15d, %r15d
	jg	3b
	ret
8:	movl	interrupts, %eax
	cmpl	seen, %eax
	jne	9f
	pause
	decl	%edx
	jnz	8b
	fail	0x26			# no interrupt
9:	movl	%eax, seen
	movzwl	(USED + 2)(%r12), %ebp
	cmpw	Q_USED(%r12), %bp
	jne	5b
	jmp	8b

read_register:
	movl	INTERRUPT_STATUS(%rbx), %eax
	decl	%r15d
	jg	read_register
	ret

# descriptor sets entry edi of the table to esi bytes at rax with the flags in
# edx.
descriptor:
	movl	%edi, %ecx
	shll	$4, %ecx
	movq	%rax, DESC(%r12,%rcx)
	movl	%esi, (DESC + 8)(%r12,%rcx)
	movl	%edx, (DESC + 12)(%r12,%rcx)
	ret

# buffer leaves the address of slot edi's data in rax. Slots are whole pages
# apart, with room for a packet's header.
buffer:
	movl	P_SIZE, %eax
	addl	$(4095 + 64), %eax
	andl	$-4096, %eax
	imull	%edi, %eax
	addl	$DATA, %eax
	ret

# touch writes to the middle of every page of all slots' buffers. What a guest has
# never written to is the host's one page of zeros, which is faster to read than any
# other.
touch:
	movl	P_SIZE, %eax
	addl	$(4095 + 64), %eax
	andl	$-4096, %eax
	imull	P_DEPTH, %eax
	addl	$DATA, %eax
	movl	$DATA, %edx
1:	movl	%edx, 2048(%rdx)
	addl	$4096, %edx
	cmpl	%eax, %edx
	jb	1b
	ret

# nothing is the hook of those who have nothing to do.
nothing:
	ret

## Block device (5.2.6): each slot is an indirect table of header, data, status

	.set B_STATUS, 48		# in the slot's header line, behind the header
	.set B_PLACE, 32		# and where on the disk its data belongs

blk_fill:
	xorl	%edi, %edi
1:	movl	%edi, %r8d
	shll	$6, %r8d
	leal	HEADERS(%r8), %r9d
	movl	P_WRITE, %eax		# VIRTIO_BLK_T_IN or T_OUT
	movl	%eax, (%r9)
	movl	%r9d, TABLES(%r8)
	movl	$16, (TABLES + 8)(%r8)
	movl	$(NEXT | 1 << 16), (TABLES + 12)(%r8)
	call	buffer
	movl	%eax, (TABLES + 16)(%r8)
	movl	P_SIZE, %eax
	movl	%eax, (TABLES + 24)(%r8)
	movl	$(NEXT | WRITE | 2 << 16), %eax
	movl	$(NEXT | 2 << 16), %ecx
	cmpl	$0, P_WRITE
	cmovnel	%ecx, %eax
	movl	%eax, (TABLES + 28)(%r8)
	addl	$B_STATUS, %r9d
	movl	%r9d, (TABLES + 32)(%r8)
	movl	$1, (TABLES + 40)(%r8)
	movl	$WRITE, (TABLES + 44)(%r8)
	leal	TABLES(%r8), %eax
	movl	$48, %esi
	movl	$INDIRECT, %edx
	call	descriptor
	incl	%edi
	cmpl	P_DEPTH, %edi
	jb	1b
	movq	P_SEED, %rax
	orq	$1, %rax
	movq	%rax, random
	ret

# blk_prepare chooses the next place on the disk.
blk_prepare:
	movl	%edi, %r8d
	shll	$6, %r8d
	addl	$HEADERS, %r8d
	cmpl	$0, P_SEQUENTIAL
	jne	1f
	movq	random, %rax		# xorshift64
	movq	%rax, %rcx
	shlq	$13, %rcx
	xorq	%rcx, %rax
	movq	%rax, %rcx
	shrq	$7, %rcx
	xorq	%rcx, %rax
	movq	%rax, %rcx
	shlq	$17, %rcx
	xorq	%rcx, %rax
	movq	%rax, random
	jmp	2f
1:	movq	sequence, %rax
	incq	sequence
2:	movq	P_UNITS, %rcx
	decq	%rcx
	andq	%rcx, %rax
	imulq	P_SIZE, %rax
	movq	%rax, B_PLACE(%r8)
	movb	$0xff, B_STATUS(%r8)
	movq	%rax, %r9
	shrq	$9, %rax
	movq	%rax, 8(%r8)		# sector
	cmpl	$0, P_WRITE
	jne	3f
	ret
3:	call	buffer			# stamp the data: each word is its place on the disk, xor the seed
	movq	P_SIZE, %rdx
	addq	%rax, %rdx
	subq	%rax, %r9		# rax + r9: the place
4:	leaq	(%rax,%r9), %rcx
	xorq	P_SEED, %rcx
	movq	%rcx, (%rax)
	addq	P_STEP, %rax
	cmpq	%rdx, %rax
	jb	4b
	ret

# blk_check looks at status and, for reads, at the data.
blk_check:
	movl	%edi, %r8d
	shll	$6, %r8d
	addl	$HEADERS, %r8d
	cmpb	$0, B_STATUS(%r8)
	jne	3f
	cmpl	$0, P_WRITE
	jne	2f
	cmpl	P_SIZE, %esi		# the data and the status
	jbe	3f
	movq	B_PLACE(%r8), %r9
	call	buffer
	movq	P_SIZE, %rdx
	addq	%rax, %rdx
	subq	%rax, %r9
1:	leaq	(%rax,%r9), %rcx
	xorq	P_SEED, %rcx
	cmpq	%rcx, (%rax)
	jne	3f
	addq	P_STEP, %rax
	cmpq	%rdx, %rax
	jb	1b
2:	ret
3:	incq	errors
	ret

## Network card (5.1.6): a descriptor of header and frame

net_fill:
	xorl	%edi, %edi
1:	call	buffer
	movl	P_SIZE, %esi
	addl	$NET_HEADER, %esi
	xorl	%edx, %edx
	cmpl	$0, receives
	je	2f
	movl	$WRITE, %edx
	movl	$MIN_BUFFER, %ecx
	cmpl	%ecx, %esi
	cmovbl	%ecx, %esi
2:	call	descriptor
	cmpl	$0, receives
	jne	3f
	movl	$0x00000002, NET_HEADER(%rax)	# to 02:00:00:00:00:02, whom nobody is
	movw	$0x0200, (NET_HEADER + 4)(%rax)
	movl	$0x00000002, (NET_HEADER + 6)(%rax)
	movw	$0x0100, (NET_HEADER + 10)(%rax)
	movw	$ETHERTYPE, (NET_HEADER + 12)(%rax)
3:	incl	%edi
	cmpl	P_DEPTH, %edi
	jb	1b
	ret

# net_prepare numbers the frames.
net_prepare:
	call	buffer
	movq	sequence, %rcx
	incq	sequence
	movq	%rcx, (NET_HEADER + 14)(%rax)
	ret

# net_check counts the frames that the benchmark sends and no others.
net_check:
	call	buffer
	cmpw	$ETHERTYPE, (NET_HEADER + 12)(%rax)
	jne	1f
	subl	$NET_HEADER, %esi
	cmpl	P_SIZE, %esi
	jne	2f
	ret
1:	incl	%r15d
	ret
2:	incq	errors
	ret

## Socket device (5.10.6): a descriptor of header and data

vsock_fill:
	xorl	%edi, %edi
1:	call	buffer
	movl	P_SIZE, %esi
	addl	$V_SIZE, %esi
	xorl	%edx, %edx
	cmpl	$0, receives
	je	2f
	movl	$WRITE, %edx
2:	call	descriptor
	cmpl	$0, receives
	jne	3f
	movq	%rax, %r8
	movw	$OP_RW, %si
	call	vsock_header
	movl	P_SIZE, %ecx
	movl	%ecx, V_LEN(%r8)
3:	incl	%edi
	cmpl	P_DEPTH, %edi
	jb	1b
	ret

# vsock_header fills the header at r8 for operation si.
vsock_header:
	movq	CONFIG(%rbx), %rcx	# guest_cid
	movq	%rcx, V_SRC_CID(%r8)
	movq	$2, V_DST_CID(%r8)
	movl	$PORT, V_SRC_PORT(%r8)
	movl	$PORT, V_DST_PORT(%r8)
	movl	$0, V_LEN(%r8)
	movw	$1, V_TYPE(%r8)		# stream
	movw	%si, V_OP(%r8)
	movl	$BUF_ALLOC, V_BUF_ALLOC(%r8)
	movq	received, %rcx
	movl	%ecx, V_FWD_CNT(%r8)
	ret

# connect readies the queue that is not measured and opens the connection. The
# queue that is measured stays in r12.
connect:
	pushq	%r12
	cmpl	$0, receives
	jne	2f
	xorl	%edi, %edi		# sends: the receive queue takes credit
	call	ring
1:	call	aux
	movl	$4096, %esi
	movl	$WRITE, %edx
	call	descriptor
	incl	%edi
	cmpl	$AUX_SLOTS, %edi
	jb	1b
	call	post
	popq	%r12			# the request goes out by slot 0
	pushq	%r12
	call	vsock_slot_request
	xorl	%edi, %edi
	call	ring
	call	await_response
	popq	%r12
	ret
2:	movl	$1, %edi		# receives: requests and credit go out by the other
	call	ring
	movw	$OP_REQUEST, %si
	call	send_aux
	popq	%r12
	pushq	%r12
	xorl	%edi, %edi		# one buffer for the response
	call	put
	call	kick
	call	await_response
	popq	%r12
	ret

# aux leaves the address of the buffer of slot edi of the other queue in rax.
aux:
	movl	%edi, %eax
	shll	$12, %eax
	addl	$AUX, %eax
	ret

# vsock_slot_request sends OP_REQUEST from slot 0 of the queue to be measured.
vsock_slot_request:
	xorl	%edi, %edi
	call	buffer
	movq	%rax, %r8
	movw	$OP_REQUEST, %si
	call	vsock_header
	movl	$V_SIZE, DESC + 8(%r12)
	xorl	%edi, %edi
	call	put
	call	kick
	movl	$PATIENCE, %edx
1:	movzwl	(USED + 2)(%r12), %eax
	cmpw	Q_USED(%r12), %ax
	jne	2f
	pause
	decl	%edx
	jnz	1b
	fail	0x21
2:	incl	Q_USED(%r12)
	movl	P_SIZE, %eax		# and is as the others again
	movl	%eax, V_LEN(%r8)
	movw	$OP_RW, V_OP(%r8)
	addl	$V_SIZE, %eax
	movl	%eax, DESC + 8(%r12)
	ret

# await_response takes packets from the receive queue in r12 until the connection
# is open.
await_response:
	movl	$PATIENCE, %edx
1:	call	take
	cmpw	$OP_RESPONSE, %ax
	je	2f
	testw	%ax, %ax
	jnz	3f
	pause
	decl	%edx
	jnz	1b
	fail	0x22			# no answer
3:	cmpw	$OP_CREDIT_UPDATE, %ax
	je	1b
	fail	0x23			# refused
2:	ret

# take takes one packet from the receive queue in r12 and leaves its operation in
# ax, 0 if there is none. What it says of credit is kept. The buffer goes back if
# it is one of the queue that is not measured.
take:
	xorl	%eax, %eax
	movzwl	(USED + 2)(%r12), %ecx
	cmpw	Q_USED(%r12), %cx
	je	2f
	movl	Q_USED(%r12), %ecx
	incl	Q_USED(%r12)
	andl	Q_MASK(%r12), %ecx
	movl	(USED + 4)(%r12,%rcx,8), %edi
	movl	%edi, %ecx
	shll	$4, %ecx
	movq	DESC(%r12,%rcx), %r8
	movl	V_BUF_ALLOC(%r8), %ecx
	movl	%ecx, peer_alloc
	movl	V_FWD_CNT(%r8), %ecx
	movl	%ecx, peer_fwd
	movzwl	V_OP(%r8), %eax
	cmpl	$0, receives
	jne	2f
	pushq	%rax
	pushq	%rdx
	call	put
	call	silence
	call	kick
	popq	%rdx
	popq	%rax
2:	ret

# vsock_prepare numbers the packets, and waits for credit for one more
# (5.10.6.3).
vsock_prepare:
	movl	$PATIENCE, %edx
1:	movl	sent, %eax
	subl	peer_fwd, %eax
	addl	P_SIZE, %eax
	cmpl	peer_alloc, %eax
	jbe	2f
	pushq	%rdi
	pushq	%rdx
	call	kick			# what was put is to be read first
	popq	%rdx
	pushq	%r12
	xorl	%edi, %edi
	call	ring
	call	take
	popq	%r12
	popq	%rdi
	pause
	decl	%edx
	jnz	1b
	fail	0x24			# no credit
2:	movl	P_SIZE, %eax
	addl	%eax, sent
	call	buffer
	movq	sequence, %rcx
	incq	sequence
	movq	%rcx, V_SIZE(%rax)
	ret

# vsock_check takes data: a stream of words that are their place in it, modulo
# 1 MiB, xor the seed. What is counted are its bytes, as the device fills buffers
# as far as it has data.
vsock_check:
	call	buffer
	cmpw	$OP_RW, V_OP(%rax)
	jne	3f
	movl	V_LEN(%rax), %ecx
	incl	%r15d
	subl	%ecx, %r15d
	leal	V_SIZE(%rcx), %edx
	cmpl	%esi, %edx
	jne	2f
	movq	received, %rdx
	addq	%rcx, received
	andl	$0xfffff, %edx
	xorq	P_SEED, %rdx
	cmpq	%rdx, V_SIZE(%rax)
	jne	2f
1:	movq	received, %rcx
	movq	%rcx, %rdx
	subq	granted, %rdx
	cmpq	$CREDIT_STEP, %rdx
	jb	4f
	movq	%rcx, granted
	pushq	%r12
	movl	$1, %edi
	call	ring
	movw	$OP_CREDIT_UPDATE, %si
	call	send_aux
	popq	%r12
	ret
2:	incq	errors
	jmp	1b
3:	incl	%r15d
4:	ret

# send_aux sends a packet without data and with operation si by the queue in r12,
# which is not the measured one.
send_aux:
	movl	$PATIENCE, %edx
1:	movzwl	(USED + 2)(%r12), %ecx	# how many are in flight
	movl	Q_AVAIL(%r12), %eax
	subw	%cx, %ax
	cmpw	$AUX_SLOTS, %ax
	jb	2f
	pause
	decl	%edx
	jnz	1b
	fail	0x25
2:	movzwl	%cx, %ecx
	movl	%ecx, Q_USED(%r12)
	movl	Q_AVAIL(%r12), %edi
	andl	$(AUX_SLOTS - 1), %edi	# they come back in order
	call	aux
	movq	%rax, %r8
	call	vsock_header
	movq	%r8, %rax
	movl	$V_SIZE, %esi
	xorl	%edx, %edx
	call	descriptor
	call	put
	call	silence
	jmp	kick

	.balign	8
# For each kind: fill, prepare, check, the queue to measure, whether it receives.
kinds:	.quad	blk_fill, blk_prepare, blk_check
	.long	0, 0
	.quad	net_fill, net_prepare, nothing
	.long	1, 0
	.quad	net_fill, nothing, net_check
	.long	0, 1
	.quad	vsock_fill, vsock_prepare, nothing
	.long	1, 0
	.quad	vsock_fill, nothing, vsock_check
	.long	0, 1
	.quad	nothing, nothing, nothing
	.long	0, 0
queues:	.long	1, 2, 2, 3, 3, 1	# how many queues it has
digits:	.ascii	"0123456789abcdef"

	.bss
	.balign	64
work:	.skip	WORK_SIZE
prepare: .skip	8
check:	.skip	8
begin:	.skip	8
errors:	.skip	8
kicks:	.skip	8
random:	.skip	8
sequence: .skip	8
received: .skip	8			# vsock: bytes taken
granted: .skip	8			# vsock: and of them told to the host
receives: .skip	4
interrupts: .skip 4			# taken
interrupts_before: .skip 4
seen:	.skip	4			# of interrupts
sent:	.skip	4			# vsock: bytes, modulo 2^32
peer_alloc: .skip 4
peer_fwd: .skip	4
