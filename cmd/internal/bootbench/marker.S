# The /init of the boot benchmark: writes the marker line and powers off.
# Assembled by "go generate" into marker.elf.
	.globl	_start
_start:
	movl	$1, %eax		# write(1, text, length)
	movl	$1, %edi
	leaq	text(%rip), %rsi
	movl	$(end - text), %edx
	syscall
	movl	$169, %eax		# reboot(MAGIC1, MAGIC2, LINUX_REBOOT_CMD_POWER_OFF)
	movl	$0xfee1dead, %edi
	movl	$0x28121969, %esi
	movl	$0x4321fedc, %edx
	xorl	%r10d, %r10d
	syscall
1:	jmp	1b
text:	.ascii	"HULL-BENCH-MARKER\n"
end:
