package jail

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Users that VM processes are, one for each that runs, each with a group of the same number. They have no accounts: the numbers are among
// those that systemd's list of user IDs leaves to nobody.
const (
	FirstUser = 0x7068_0000
	Users     = 1 << 16
	// Group is one that all of them are in besides.
	Group = FirstUser + Users
)

// modeShared is that of a directory of Group's in which each of its users may remove what it owns (inode(7), the sticky bit).
const modeShared = fs.ModeSticky | 0o730

// OwnUsers tells whether VM processes that this process starts can become users of their own: those of root with its capabilities can,
// but perhaps not in a user namespace.
func OwnUsers() bool { return os.Getenv(Env) != Off && otherUsers() == nil }

var errNotRoot = errors.New("it takes root, with the capabilities CHOWN, SETUID and SETGID")

// otherUsers looks whether this process may become somebody else, and give files away.
func otherUsers() error {
	const needed = 1<<unix.CAP_CHOWN | 1<<unix.CAP_SETUID | 1<<unix.CAP_SETGID
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return err
	}
	if os.Geteuid() != 0 || sets[0].Effective&needed != needed {
		return errNotRoot
	}
	return nil
}

// ownUsers tells what keeps VM processes from being users of their own.
func ownUsers() error {
	if err := otherUsers(); err != nil {
		return err
	}
	for _, file := range []string{"/proc/self/uid_map", "/proc/self/gid_map"} {
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if !maps(string(b), FirstUser, Group) {
			return fmt.Errorf("the user namespace that hull is in has no users %d to %d (see %s)", FirstUser, Group, file)
		}
	}
	return nil
}

// maps tells whether a line of a map (user_namespaces(7)) has all numbers from first to last.
func maps(table string, first, last uint64) bool {
	for line := range strings.Lines(table) {
		var inside, outside, n uint64
		if c, err := fmt.Sscan(line, &inside, &outside, &n); c == 3 && err == nil && inside <= first && last-inside < n {
			return true
		}
	}
	return false
}

// Open lets VM processes remove from a directory of root's what Give has given them, and nothing else.
func Open(dir string) error {
	if shared, err := IsOpen(dir); err != nil || shared {
		return err
	}
	if err := os.Chown(dir, 0, Group); err != nil {
		return err
	}
	return os.Chmod(dir, modeShared)
}

// IsOpen tells whether Open was called for a directory.
func IsOpen(dir string) (bool, error) {
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return false, &os.PathError{Op: "lstat", Path: dir, Err: err}
	}
	return st.Mode == unix.S_IFDIR|unix.S_ISVTX|uint32(modeShared.Perm()) && st.Uid == 0 && st.Gid == Group, nil
}

// Give lets the user remove what is at top: a symbolic link, a socket, to which it may connect then, or a directory with all in there. Files
// stay root's, and so do sockets below a directory. Nothing is given where there is nothing.
func Give(user uint32, top string) error {
	return filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
		case d.IsDir(), d.Type() == fs.ModeSocket && path == top:
			// By the group, root has its rights without capabilities, too.
			if err = os.Chmod(path, 0o770); err == nil {
				err = os.Lchown(path, int(user), 0)
			}
		case d.Type() == fs.ModeSymlink:
			err = os.Lchown(path, int(user), 0)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
}

// become makes all threads of this process another user, which takes its capabilities from it.
func become(user uint32) error {
	if user < FirstUser || user-FirstUser >= Users {
		return fmt.Errorf("user %d: must be from %d to %d", user, FirstUser, FirstUser+Users-1)
	}
	id := int(user)
	if err := syscall.Setgroups([]int{Group}); err != nil {
		return fmt.Errorf("groups of user %d: %w", user, err)
	}
	if err := syscall.Setresgid(id, id, id); err != nil {
		return fmt.Errorf("group %d: %w", user, err)
	}
	if err := syscall.Setresuid(id, id, id); err != nil {
		return fmt.Errorf("user %d: %w", user, err)
	}
	return nil
}
