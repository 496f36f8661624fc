package engine

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/guestinit/proto"
	"github.com/hullvm/hull/vmm"
	"github.com/hullvm/hull/vmm/jail"
)

// usersName is a file in the runtime directory: whoever has locked its byte n is the user jail.FirstUser+n. The kernel lets go of the lock
// with the last process that has the file open.
const usersName = ".users"

// lendUser has the process of a VM become a user whom no other VM has, if this process can arrange that. What the VM removes as an orphan,
// with its sockets in there, is that user's from now on. Shared directories have files of other users, so that a VM with some stays root's.
func (s *store) lendUser(config *vmm.Config, table *fileTable) error {
	if !jail.OwnUsers() || len(config.Shares) > 0 {
		return nil
	}
	if err := makeCommon(s.dirs.Run); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(s.dirs.Run, usersName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("choosing a user for the VM process: %w", err)
	}
	user, err := lockUser(f)
	if err == nil {
		err = give(user, config)
	}
	switch {
	case err == nil:
		config.User = user
		table.add(f)
		return nil
	case noOwners(err):
		return f.Close()
	}
	f.Close()
	return fmt.Errorf("choosing a user for the VM process: %w", err)
}

// give gives a user what the process of a VM gets at by name: what it removes, and where its agent calls.
func give(user uint32, config *vmm.Config) error {
	paths := slices.Clone(config.OrphanRemove)
	if config.Vsock != nil {
		paths = append(paths, hostSocket(config.Vsock.Path, proto.PortControl))
	}
	for _, path := range paths {
		if err := jail.Give(user, path); err != nil {
			return err
		}
	}
	return nil
}

var errNoUser = errors.New("all users for VM processes are in use")

// lockUser locks a byte of the file that nobody has locked.
func lockUser(f *os.File) (uint32, error) {
	begin := rand.Uint32N(jail.Users)
	for i := range uint32(jail.Users) {
		n := (begin + i) % jail.Users
		switch err := lockBytes(f, int64(n), 1); err {
		case nil:
			return jail.FirstUser + n, nil
		case unix.EAGAIN, unix.EACCES:
		default:
			return 0, &os.PathError{Op: "lock", Path: f.Name(), Err: err}
		}
	}
	return 0, errNoUser
}

// lockBytes locks n bytes of a file for all who have it from this process, at once or not at all.
func lockBytes(f *os.File, start, n int64) error {
	return unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Start: start, Len: n})
}
