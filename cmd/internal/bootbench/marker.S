# The /init of the boot benchmark: writes the marker line, waits until the
# serial port has sent it (tcdrain: what a driver still holds is lost with the
# power), and powers off, or
# restarts the machine if it was given an argument (a machine without power
# management can only restart). Assembled by "go generate" into marker.elf.
	.globl	_start
_start:
	movl	$1, %eax		# write(1, text, length)
	movl	$1, %edi
	leaq	text(%rip), %rsi
	movl	$(end - text), %edx
	syscall
	movl	$16, %eax		# ioctl(1, TCSBRK, 1)
	movl	$1, %edi
	movl	$0x5409, %esi
	movl	$1, %edx
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
text:	.ascii	"HULL-BENCH-MARKER\n"
end:
