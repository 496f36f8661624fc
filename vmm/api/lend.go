package api

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/vmm"
)

// loan is a copy of a descriptor for a machine, which closes it; what it is a copy of stays here.
type loan struct {
	of *os.File
	fd int
}

// loans are those for one machine.
type loans []loan

// share lends f.
func (l *loans) share(f *os.File) (vmm.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return vmm.File{}, os.NewSyscallError("fcntl", err)
	}
	*l = append(*l, loan{f, fd})
	return vmm.File{Path: f.Name(), FD: fd}, nil
}

// takeBack closes what a machine that could not be made has not closed: its number may be something else's by now, so the
// kernel is asked whether it is still the same. Where it cannot be asked, it stays open.
func (l loans) takeBack() {
	const kcmpFile = 0 // KCMP_FILE
	pid := uintptr(os.Getpid())
	for _, o := range l {
		same, _, errno := unix.Syscall6(unix.SYS_KCMP, pid, pid, kcmpFile, o.of.Fd(), uintptr(o.fd), 0)
		if errno == 0 && same == 0 {
			_ = unix.Close(o.fd)
		}
	}
}
