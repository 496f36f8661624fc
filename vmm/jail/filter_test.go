package jail

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/kvm"
	"github.com/hullvm/hull/vmm"
)

// judge runs a filter as the kernel does.
func judge(t *testing.T, program []unix.SockFilter, arch, nr uint32, args ...uint64) uint32 {
	t.Helper()
	data := make([]byte, 64)
	binary.LittleEndian.PutUint32(data[dataNr:], nr)
	binary.LittleEndian.PutUint32(data[dataArch:], arch)
	for i, a := range args {
		binary.LittleEndian.PutUint64(data[dataArgs+8*i:], a)
	}
	var a uint32
	for pc := 0; pc < len(program); pc++ {
		branch := func(taken bool) {
			if taken {
				pc += int(program[pc].Jt)
			} else {
				pc += int(program[pc].Jf)
			}
		}
		switch i := program[pc]; i.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			a = binary.LittleEndian.Uint32(data[i.K:])
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			a &= i.K
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			branch(a == i.K)
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			branch(a >= i.K)
		case unix.BPF_JMP | unix.BPF_JA:
			pc += int(i.K)
		case unix.BPF_RET | unix.BPF_K:
			return i.K
		default:
			t.Fatalf("instruction %d: code %#x", pc, i.Code)
		}
	}
	t.Fatal("the filter has no end")
	return 0
}

func refusal(errno unix.Errno) uint32 { return unix.SECCOMP_RET_ERRNO | uint32(errno) }

const (
	allowed = uint32(unix.SECCOMP_RET_ALLOW)
	ended   = uint32(unix.SECCOMP_RET_KILL_PROCESS)
)

func filterOf(t *testing.T, c vmm.Config) []unix.SockFilter {
	t.Helper()
	j, err := ForVM(&c, "", false)
	if err != nil {
		t.Fatal(err)
	}
	defer j.rules.close()
	return assemble(append(j.calls, softly()...), ended)
}

func TestFilter(t *testing.T) {
	const amd64 = unix.AUDIT_ARCH_X86_64
	const thread = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_SYSVSEM | unix.CLONE_THREAD // as Go's runtime makes one
	pid := uint64(unix.Getpid())
	for _, c := range []struct {
		name string
		nr   uint32
		args []uint64
		want uint32
	}{
		{"read", unix.SYS_READ, nil, allowed},
		{"exit", unix.SYS_EXIT_GROUP, nil, allowed},
		{"KVM_RUN", unix.SYS_IOCTL, []uint64{7, kvm.KVM_RUN}, allowed},
		{"a last ioctl", unix.SYS_IOCTL, []uint64{7, uint64(ioctls[len(ioctls)-1])}, allowed},
		{"an ioctl that the kernel truncates", unix.SYS_IOCTL, []uint64{7, 1<<32 | kvm.KVM_RUN}, allowed},
		{"KVM_CREATE_VM", unix.SYS_IOCTL, []uint64{7, kvm.KVM_CREATE_VM}, refusal(unix.EPERM)},
		{"KVM_CREATE_VCPU", unix.SYS_IOCTL, []uint64{7, kvm.KVM_CREATE_VCPU}, refusal(unix.EPERM)},
		{"TIOCSTI", unix.SYS_IOCTL, []uint64{0, unix.TIOCSTI}, refusal(unix.EPERM)},
		{"mmap", unix.SYS_MMAP, []uint64{0, 4096, unix.PROT_READ | unix.PROT_WRITE}, allowed},
		{"mmap of code", unix.SYS_MMAP, []uint64{0, 4096, unix.PROT_READ | unix.PROT_EXEC}, ended},
		{"mprotect to code", unix.SYS_MPROTECT, []uint64{0, 4096, unix.PROT_EXEC}, ended},
		{"pkey_mprotect", unix.SYS_PKEY_MPROTECT, nil, ended},
		{"a thread", unix.SYS_CLONE, []uint64{thread}, allowed},
		{"a thread with its TLS", unix.SYS_CLONE, []uint64{thread | unix.CLONE_SETTLS}, allowed},
		{"a process", unix.SYS_CLONE, []uint64{uint64(unix.SIGCHLD)}, ended},
		{"a process that shares all", unix.SYS_CLONE, []uint64{unix.CLONE_VM | unix.CLONE_FILES | unix.CLONE_SIGHAND}, ended},
		{"a thread in a network of its own", unix.SYS_CLONE, []uint64{thread | unix.CLONE_NEWNET}, ended},
		{"clone3", unix.SYS_CLONE3, nil, refusal(unix.ENOSYS)},
		{"a signal to a thread", unix.SYS_TGKILL, []uint64{pid, 5, 9}, allowed},
		{"a signal to another's", unix.SYS_TGKILL, []uint64{pid + 1, 5, 9}, ended},
		{"a signal to all", unix.SYS_KILL, []uint64{^uint64(0), 9}, ended},
		{"asking for a limit", unix.SYS_PRLIMIT64, []uint64{0, 7, 0, 0x1000}, allowed},
		{"setting a limit", unix.SYS_PRLIMIT64, []uint64{0, 7, 0x1000, 0}, refusal(unix.EPERM)},
		{"setting a limit from a high address", unix.SYS_PRLIMIT64, []uint64{0, 7, 1 << 32, 0}, refusal(unix.EPERM)},
		{"execve", unix.SYS_EXECVE, nil, ended},
		{"ptrace", unix.SYS_PTRACE, nil, ended},
		{"openat", unix.SYS_OPENAT, nil, refusal(unix.EACCES)},
		{"openat2", unix.SYS_OPENAT2, nil, refusal(unix.ENOSYS)},
		{"socket", unix.SYS_SOCKET, []uint64{unix.AF_UNIX}, ended},
		{"the last call", 0x3fffffff, nil, ended},
		{"x32", x32 | unix.SYS_READ, nil, ended},
		{"negative", ^uint32(0), nil, ended},
	} {
		if got := judge(t, filterOf(t, vmm.Config{}), amd64, c.nr, c.args...); got != c.want {
			t.Errorf("%s: %#x, want %#x", c.name, got, c.want)
		}
	}
	for _, arch := range []uint32{unix.AUDIT_ARCH_I386, unix.AUDIT_ARCH_AARCH64, 0} {
		if got := judge(t, filterOf(t, vmm.Config{}), arch, unix.SYS_READ); got != ended {
			t.Errorf("read of architecture %#x: %#x", arch, got)
		}
	}
	shares := vmm.Config{Vsock: &vmm.Vsock{CID: 3, Path: "/none"}, Shares: []vmm.Share{{Tag: "t", File: vmm.File{Path: t.TempDir()}}}}
	for nr, want := range map[uint32]uint32{
		unix.SYS_OPENAT: allowed, unix.SYS_UNLINKAT: allowed, unix.SYS_RENAMEAT2: allowed, unix.SYS_COPY_FILE_RANGE: allowed, unix.SYS_CONNECT: allowed,
		unix.SYS_OPEN: refusal(unix.EACCES), unix.SYS_EXECVE: ended, unix.SYS_SETUID: ended,
	} {
		if got := judge(t, filterOf(t, shares), amd64, nr); got != want {
			t.Errorf("call %d with shares: %#x, want %#x", nr, got, want)
		}
	}
	if got := judge(t, filterOf(t, shares), amd64, unix.SYS_SOCKET, unix.AF_INET); got != ended {
		t.Errorf("an IP socket: %#x", got)
	}
}

// TestFilterFits: the kernel takes at most BPF_MAXINSNS, and a jump reaches 255 of them.
func TestFilterFits(t *testing.T) {
	j, err := ForServer("")
	if err != nil {
		t.Fatal(err)
	}
	defer j.rules.close()
	program := assemble(append(j.calls, softly()...), ended)
	t.Logf("%d instructions", len(program))
	if len(program) > unix.BPF_MAXINSNS {
		t.Errorf("%d instructions", len(program))
	}
	for i, in := range program {
		if in.Code&7 == unix.BPF_JMP && in.Code != unix.BPF_JMP|unix.BPF_JA && (i+1+int(in.Jt) >= len(program) || i+1+int(in.Jf) >= len(program)) {
			t.Errorf("instruction %d jumps out of the filter", i)
		}
	}
}

func TestParseDenied(t *testing.T) {
	for text, want := range map[string]int{
		`5,1,2,-;audit: type=1326 audit(1.2:4): auid=4 uid=0 pid=77 comm="hull-vmm" sig=31 arch=c000003e syscall=59 compat=0`: 59,
		`5,1,2,-;audit: type=1326 audit(1.2:4): auid=4 uid=0 pid=78 comm="hull-vmm" sig=31 arch=c000003e syscall=59 compat=0`: -1,
		`5,1,2,-;audit: type=1400 audit(1.2:4): pid=77 syscall=59`:                                                            -1,
		`5,1,2,-;audit: type=1326 audit(1.2:4): pid=77 syscall=`:                                                              -1,
		`5,1,2,-;audit: type=1326 pid=77 syscall=-5`:                                                                          -1,
		``: -1,
	} {
		got, ok := parseDenied([]byte(text), 77)
		if ok != (want >= 0) || ok && got != want {
			t.Errorf("%s: %d %v", text, got, ok)
		}
	}
}

func FuzzParseDenied(f *testing.F) {
	f.Add([]byte(`5,1,2,-;audit: type=1326 audit(1.2:4): auid=4 uid=0 pid=77 comm="hull-vmm" sig=31 arch=c000003e syscall=59 compat=0`))
	f.Fuzz(func(t *testing.T, record []byte) {
		if nr, ok := parseDenied(record, 77); ok && nr < 0 {
			t.Errorf("system call %d", nr)
		}
	})
}

// TestMissingPaths: what is not there needs no rule, but a share must be.
func TestMissingPaths(t *testing.T) {
	if landlockVersion() < 2 {
		t.Skip("needs Landlock version 2")
	}
	missing := t.TempDir() + "/missing/path"
	j, err := ForVM(&vmm.Config{OrphanRemove: []string{missing}}, "", false)
	if err != nil {
		t.Fatal(err)
	}
	j.rules.close()
	if _, err := ForVM(&vmm.Config{Shares: []vmm.Share{{Tag: "t", File: vmm.File{FD: 999}}}}, "", false); !errors.Is(err, unix.EBADF) {
		t.Errorf("a share that is not open: %v", err)
	}
	if err := NewRemoval([]string{missing}).Remove(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}
