package jail

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/vmm"
)

// What Landlock can refuse, by the version of its interface that knows it.
const (
	filesV1 = 1<<13 - 1 // LANDLOCK_ACCESS_FS_EXECUTE to LANDLOCK_ACCESS_FS_MAKE_SYM

	readFiles  = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR
	writeFiles = unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE | unix.LANDLOCK_ACCESS_FS_REFER |
		unix.LANDLOCK_ACCESS_FS_REMOVE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE |
		unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_MAKE_REG | unix.LANDLOCK_ACCESS_FS_MAKE_SOCK |
		unix.LANDLOCK_ACCESS_FS_MAKE_FIFO | unix.LANDLOCK_ACCESS_FS_MAKE_SYM

	// onFile is what a rule about something else than a directory may say.
	onFile = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE
)

// rulesetAttr is struct landlock_ruleset_attr as of version 6. Older kernels take it if what they do not know is zero.
type rulesetAttr struct{ files, net, scoped uint64 }

// landlockVersion is that of the kernel's interface, 0 without.
func landlockVersion() int {
	v, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0
	}
	return int(v)
}

// handled is all that a version can refuse and that is not needed by any VM.
func handled(version int) (a rulesetAttr) {
	a.files = filesV1
	for _, more := range []struct {
		version int
		files   uint64
	}{{2, unix.LANDLOCK_ACCESS_FS_REFER}, {3, unix.LANDLOCK_ACCESS_FS_TRUNCATE}, {5, unix.LANDLOCK_ACCESS_FS_IOCTL_DEV}} {
		if version >= more.version {
			a.files |= more.files
		}
	}
	if version >= 4 {
		a.net = unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
	}
	if version >= 6 {
		a.scoped = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET
	}
	return a
}

// ruleset is a set of rules of Landlock.
type ruleset struct {
	fd    int // -1: none
	files uint64
}

var noRules = ruleset{fd: -1}

func (r *ruleset) create(a rulesetAttr) error {
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&a)), unsafe.Sizeof(a), 0)
	if errno != 0 {
		return fmt.Errorf("making a set of rules: %w", errno)
	}
	*r = ruleset{int(fd), a.files}
	return nil
}

func (r *ruleset) close() {
	if r.fd >= 0 {
		unix.Close(r.fd)
	}
	r.fd = -1
}

// allow adds a rule about what is open as fd, and what is below.
func (r *ruleset) allow(fd int, access uint64) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		access &= onFile
	}
	if access &= r.files; access == 0 {
		return nil
	}
	rule := unix.LandlockPathBeneathAttr{Allowed_access: access, Parent_fd: int32(fd)}
	_, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(r.fd), unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&rule)), 0, 0, 0)
	runtime.KeepAlive(&rule)
	if errno != 0 {
		return errno
	}
	return nil
}

// allowPath adds a rule about what is at path, if something is.
func (r *ruleset) allowPath(path string, access uint64) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT {
		return nil
	}
	if err == nil {
		err = r.allow(fd, access)
		unix.Close(fd)
	}
	if err != nil {
		return &os.PathError{Op: "allow", Path: path, Err: err}
	}
	return nil
}

// forVM makes the rules of a VM: it has its shares, and may remove what it is to remove.
func (r *ruleset) forVM(c *vmm.Config) error {
	version := landlockVersion()
	if version == 0 || version == 1 && len(c.Shares) > 0 {
		return nil // the first version lets nobody move a file from one directory to another
	}
	if err := r.create(handled(version)); err != nil {
		return err
	}
	for _, s := range c.Shares {
		access := uint64(readFiles)
		if !s.ReadOnly {
			access |= writeFiles
		}
		var err error
		if s.File.FD != 0 {
			err = r.allow(s.File.FD, access)
		} else {
			err = r.allowPath(s.File.Path, access)
		}
		if err != nil {
			return fmt.Errorf("share %q: %w", s.Tag, err)
		}
	}
	for _, p := range c.OrphanRemove {
		if err := r.allowRemoval(filepath.Clean(p)); err != nil {
			return err
		}
	}
	return nil
}

// allowRemoval lets a path be removed with all below it. The right to remove a name is one to the directory that it is in:
// other empty directories in there can be removed as well, or other files if this is one.
func (r *ruleset) allowRemoval(path string) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); errors.Is(err, unix.ENOENT) {
		return nil
	} else if err != nil {
		return &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return r.allowPath(filepath.Dir(path), unix.LANDLOCK_ACCESS_FS_REMOVE_FILE)
	}
	const below = unix.LANDLOCK_ACCESS_FS_READ_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE | unix.LANDLOCK_ACCESS_FS_REMOVE_DIR
	if err := r.allowPath(path, below); err != nil {
		return err
	}
	return r.allowPath(filepath.Dir(path), unix.LANDLOCK_ACCESS_FS_REMOVE_DIR)
}

// forServer makes the rules of an API's server, which must get at whatever its clients name: it cannot start programs, make
// device nodes or use TCP.
func (r *ruleset) forServer() error {
	version := landlockVersion()
	if version < 2 {
		return nil // files must be moved from one directory to another
	}
	a := handled(version)
	a.files &= unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_MAKE_CHAR | unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK |
		unix.LANDLOCK_ACCESS_FS_REFER
	if err := r.create(a); err != nil {
		return err
	}
	return r.allowPath("/", unix.LANDLOCK_ACCESS_FS_REFER)
}

// enter puts the rules into force on all threads. Each gets a domain of its own, so none may be scoped to signals: threads
// signal one another.
func (r *ruleset) enter() error {
	if r.fd < 0 {
		return nil
	}
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_LANDLOCK_RESTRICT_SELF, uintptr(r.fd), 0, 0); errno != 0 {
		return errno
	}
	return nil
}
