# The /init of the boot benchmark: hands the marker line to the kernel, which
# writes it to the console at once (a terminal's driver would take its time, and
# not every monitor's serial port suits it), and powers off, or restarts the
# machine if it was given an argument (a machine without power management can only
# restart). Assembled by "go generate" into marker.elf.
	.globl	_start
_start:
	movl	$2, %eax		# open("/dev/kmsg", O_WRONLY)
	leaq	kmsg(%rip), %rdi
	movl	$1, %esi
	xorl	%edx, %edx
	syscall
	movl	%eax, %edi		# write(fd, text, length)
	movl	$1, %eax
	leaq	text(%rip), %rsi
	movl	$(end - text), %edx
	syscall
	movl	$169, %eax		# reboot(MAGIC1, MAGIC2, command)
	movl	$0xfee1dead, %edi
	movl	$0x28121969, %esi
	movl	$0x4321fedc, %edx	# LINUX_REBOOT_CMD_POWER_OFF
	cmpq	$1, (%rsp)		# argc
	je	1f
	movl	$0x01234567, %edx	# LINUX_REBOOT_CMD_RESTART
1:	xorl	%r10d, %r10d
	syscall
2:	jmp	2b
kmsg:	.asciz	"/dev/kmsg"
text:	.ascii	"<0>HULL-BENCH-MARKER\n"	# level 0: shown in spite of "quiet"
end:
