package jail

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/kvm"
	"github.com/hullvm/hull/vmm/memory"
)

// allow lists calls that are let through whatever their arguments are.
func allow(nrs ...uint32) (list []call) {
	for _, nr := range nrs {
		list = append(list, call{nr: nr})
	}
	return list
}

// refuse lists calls that get an error.
func refuse(errno unix.Errno, nrs ...uint32) (list []call) {
	for _, nr := range nrs {
		list = append(list, call{nr: nr, deny: uint32(errno), never: true})
	}
	return list
}

// PR_SET_VMA gives memory a name; the Go runtime does.
const prSetVMA = 0x53564d41

// otherProcess has the flags of clone(2) that make a namespace, or a process that is not a thread of this one.
const otherProcess = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER |
	unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWTIME | unix.CLONE_PTRACE | unix.CLONE_PARENT

// vmCalls are those of every VM: of the Go runtime, of vCPUs and of devices whose files are open. What is called most comes
// first; those with arguments to look at above all, since the kernel remembers the answer for the others.
func vmCalls() []call {
	pid := uint32(os.Getpid())
	thread := []test{{arg: 0, mask: unix.CLONE_VM | unix.CLONE_THREAD | unix.CLONE_SIGHAND | otherProcess, value: unix.CLONE_VM | unix.CLONE_THREAD | unix.CLONE_SIGHAND}}
	readable := []tests{{without(2, unix.PROT_EXEC)}}
	list := []call{
		{nr: unix.SYS_IOCTL, any: oneOf(1, ioctls...), deny: uint32(unix.EPERM)},
		{nr: unix.SYS_TGKILL, any: oneOf(0, pid)},
		{nr: unix.SYS_MMAP, any: readable},
		{nr: unix.SYS_MPROTECT, any: readable},
		{nr: unix.SYS_CLONE, any: []tests{thread}},
		{nr: unix.SYS_FCNTL, any: oneOf(1, unix.F_GETFL, unix.F_SETFL, unix.F_GETFD, unix.F_SETFD, unix.F_DUPFD_CLOEXEC), deny: uint32(unix.EPERM)},
		{nr: unix.SYS_PRCTL, any: oneOf(0, prSetVMA, unix.PR_SET_NAME, unix.PR_GET_NAME), deny: uint32(unix.EPERM)},
		{nr: unix.SYS_KILL, any: oneOf(0, pid)},
		// Limits can be asked for.
		{nr: unix.SYS_PRLIMIT64, any: []tests{{equal(2, 0), test{arg: 2, high: true, mask: ^uint32(0)}}}, deny: uint32(unix.EPERM)},
	}
	list = append(list, allow(
		unix.SYS_READ, unix.SYS_WRITE, unix.SYS_FUTEX, unix.SYS_EPOLL_PWAIT, unix.SYS_EPOLL_WAIT, unix.SYS_EPOLL_CTL, unix.SYS_POLL, unix.SYS_PPOLL,
		unix.SYS_PREADV2, unix.SYS_PWRITEV2, unix.SYS_READV, unix.SYS_WRITEV, unix.SYS_PREAD64, unix.SYS_PWRITE64, unix.SYS_PREADV, unix.SYS_PWRITEV,
		unix.SYS_RECVMSG, unix.SYS_SENDMSG, unix.SYS_RECVFROM, unix.SYS_SENDTO,
		unix.SYS_FDATASYNC, unix.SYS_FSYNC, unix.SYS_FALLOCATE, unix.SYS_FTRUNCATE, unix.SYS_LSEEK, unix.SYS_FSTAT, unix.SYS_FSTATFS, unix.SYS_FADVISE64, unix.SYS_FLOCK,
		unix.SYS_CLOSE, unix.SYS_EPOLL_CREATE1, unix.SYS_EVENTFD2, unix.SYS_PIPE2,
		unix.SYS_GETSOCKOPT, unix.SYS_SETSOCKOPT, unix.SYS_GETSOCKNAME, unix.SYS_GETPEERNAME, unix.SYS_SHUTDOWN,
		unix.SYS_MUNMAP, unix.SYS_MADVISE, unix.SYS_MSYNC, unix.SYS_MREMAP, unix.SYS_MINCORE, unix.SYS_BRK, unix.SYS_GETRANDOM, unix.SYS_MEMBARRIER,
		unix.SYS_NANOSLEEP, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_CLOCK_GETTIME, unix.SYS_CLOCK_GETRES, unix.SYS_GETTIMEOFDAY, unix.SYS_TIME,
		unix.SYS_TIMER_CREATE, unix.SYS_TIMER_SETTIME, unix.SYS_TIMER_DELETE, unix.SYS_SETITIMER,
		unix.SYS_SCHED_YIELD, unix.SYS_SCHED_GETAFFINITY, unix.SYS_GETCPU,
		unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_SIGALTSTACK, unix.SYS_RESTART_SYSCALL,
		unix.SYS_GETPID, unix.SYS_GETTID, unix.SYS_GETPPID, unix.SYS_GETUID, unix.SYS_GETEUID, unix.SYS_GETGID, unix.SYS_GETEGID,
		unix.SYS_GETRLIMIT, unix.SYS_GETRUSAGE, unix.SYS_UNAME, unix.SYS_SYSINFO, unix.SYS_TIMES,
		unix.SYS_EXIT, unix.SYS_EXIT_GROUP,
		unix.SYS_SET_ROBUST_LIST, unix.SYS_RSEQ, // of threads of a program that is linked with C
	)...)
	// clone3 takes its flags in memory, where no filter sees them: libraries go on with clone.
	return append(list, refuse(unix.ENOSYS, unix.SYS_CLONE3)...)
}

// connectCalls are those of a socket device: it takes connections, and makes them to sockets of this host's that have a name.
func connectCalls() []call {
	return append([]call{{nr: unix.SYS_SOCKET, any: oneOf(0, unix.AF_UNIX)}}, allow(unix.SYS_CONNECT, unix.SYS_ACCEPT4)...)
}

// removeCalls remove files and directories.
func removeCalls() []call {
	return allow(unix.SYS_OPENAT, unix.SYS_NEWFSTATAT, unix.SYS_GETDENTS64, unix.SYS_UNLINKAT)
}

// fileCalls are all that a share does with files, and what names files by their paths.
func fileCalls() []call {
	return append(removeCalls(), allow(
		unix.SYS_MKDIRAT, unix.SYS_MKNODAT, unix.SYS_SYMLINKAT, unix.SYS_LINKAT, unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2, unix.SYS_READLINKAT,
		unix.SYS_FCHMOD, unix.SYS_FCHMODAT, unix.SYS_FCHOWN, unix.SYS_FCHOWNAT, unix.SYS_UTIMENSAT, unix.SYS_STATX, unix.SYS_STATFS,
		unix.SYS_FGETXATTR, unix.SYS_FSETXATTR, unix.SYS_FLISTXATTR, unix.SYS_FREMOVEXATTR, unix.SYS_COPY_FILE_RANGE,
		unix.SYS_SETFSUID, unix.SYS_SETFSGID, unix.SYS_UMASK,
	)...)
}

// serverCalls are those of an API's server besides.
func serverCalls() []call {
	return allow(
		unix.SYS_OPEN, unix.SYS_STAT, unix.SYS_LSTAT, unix.SYS_ACCESS, unix.SYS_FACCESSAT, unix.SYS_FACCESSAT2, unix.SYS_READLINK, unix.SYS_GETCWD,
		unix.SYS_MKDIR, unix.SYS_RENAME, unix.SYS_UNLINK, unix.SYS_RMDIR, unix.SYS_TRUNCATE, unix.SYS_SENDFILE, unix.SYS_SPLICE, unix.SYS_KCMP,
	)
}

// softly are calls that a library may try, and that do no harm when they fail. They come last: what else is listed wins.
func softly() []call {
	list := refuse(unix.EACCES,
		unix.SYS_OPEN, unix.SYS_OPENAT, unix.SYS_STAT, unix.SYS_LSTAT, unix.SYS_NEWFSTATAT, unix.SYS_STATX, unix.SYS_ACCESS, unix.SYS_FACCESSAT, unix.SYS_FACCESSAT2,
		unix.SYS_READLINK, unix.SYS_READLINKAT, unix.SYS_GETCWD, unix.SYS_UNLINK, unix.SYS_UNLINKAT, unix.SYS_RMDIR, unix.SYS_STATFS)
	list = append(list, refuse(unix.ENOSYS, unix.SYS_OPENAT2, unix.SYS_COPY_FILE_RANGE, unix.SYS_SENDFILE, unix.SYS_SPLICE)...)
	return append(list, refuse(unix.EPERM, unix.SYS_SETRLIMIT, unix.SYS_SCHED_SETAFFINITY, unix.SYS_SETPRIORITY)...)
}

// ioctls are the requests of a machine that runs, is saved, or is restored, by their low 32 bits: KVM_RUN first. None makes a VM, a
// vCPU, or a device in the kernel.
var ioctls = []uint32{
	kvm.KVM_RUN,
	kvm.KVM_IRQ_LINE, kvm.KVM_SIGNAL_MSI, kvm.KVM_KVMCLOCK_CTRL, kvm.KVM_NMI,
	kvm.KVM_GET_DIRTY_LOG, kvm.KVM_CLEAR_DIRTY_LOG,
	kvm.KVM_CHECK_EXTENSION, kvm.KVM_GET_MSR_INDEX_LIST, kvm.KVM_GET_SUPPORTED_CPUID,
	kvm.KVM_IRQFD, kvm.KVM_IOEVENTFD, kvm.KVM_SET_USER_MEMORY_REGION, kvm.KVM_SET_GSI_ROUTING,
	kvm.KVM_GET_IRQCHIP, kvm.KVM_SET_IRQCHIP, kvm.KVM_GET_PIT2, kvm.KVM_SET_PIT2, kvm.KVM_GET_CLOCK, kvm.KVM_SET_CLOCK,
	kvm.KVM_GET_REGS, kvm.KVM_SET_REGS, kvm.KVM_GET_SREGS, kvm.KVM_SET_SREGS, kvm.KVM_TRANSLATE,
	kvm.KVM_GET_MSRS, kvm.KVM_SET_MSRS, kvm.KVM_GET_FPU, kvm.KVM_SET_FPU, kvm.KVM_GET_LAPIC, kvm.KVM_SET_LAPIC,
	kvm.KVM_GET_CPUID2, kvm.KVM_SET_CPUID2, kvm.KVM_GET_MP_STATE, kvm.KVM_SET_MP_STATE,
	kvm.KVM_GET_VCPU_EVENTS, kvm.KVM_SET_VCPU_EVENTS, kvm.KVM_GET_DEBUGREGS, kvm.KVM_SET_DEBUGREGS,
	kvm.KVM_GET_TSC_KHZ, kvm.KVM_SET_TSC_KHZ, kvm.KVM_GET_XSAVE, kvm.KVM_GET_XSAVE2, kvm.KVM_SET_XSAVE, kvm.KVM_GET_XCRS, kvm.KVM_SET_XCRS,
	kvm.KVM_GET_NESTED_STATE, kvm.KVM_SET_NESTED_STATE,
	// Of tap interfaces that are open: which queues are in use, and what a frame may leave to the other side.
	unix.TUNSETQUEUE, unix.TUNSETOFFLOAD, unix.TUNGETIFF, unix.TUNSETVNETHDRSZ,
	// Of memory that a page fault handler brings: to let it go when the handler is gone.
	memory.UFFDIO_UNREGISTER,
	// Of the user's terminal.
	unix.TCGETS, unix.TCSETS, unix.TIOCGWINSZ, unix.TIOCINQ,
}
