package share

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// maker makes files in the name of others: on a thread of its own, which has a umask and, if this process is root's, a
// user and group for file systems (setfsuid(2)) apart from those of all other threads. To change the owner afterwards
// would be a race: by its name, one could change that of another file.
type maker struct {
	work chan func()
	done chan struct{}
	root bool
}

func startMaker() (*maker, error) {
	m := &maker{work: make(chan func()), done: make(chan struct{}), root: os.Geteuid() == 0}
	ready := make(chan error)
	go func() {
		defer close(m.done)
		// Never unlocked: the thread ends with this goroutine.
		runtime.LockOSThread()
		err := m.setUp()
		ready <- err
		if err != nil {
			return
		}
		for f := range m.work {
			f()
		}
	}()
	if err := <-ready; err != nil {
		<-m.done
		return nil, err
	}
	return m, nil
}

func (m *maker) setUp() error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("giving a thread a umask of its own: %w", err)
	}
	unix.Umask(0) // the guest's kernel has applied its own
	if !m.root {
		return nil
	}
	// Another user may make files where root may: the guest's kernel has checked whether it may.
	const noSetuidFixup = 1 << 2 // SECBIT_NO_SETUID_FIXUP
	if err := unix.Prctl(unix.PR_SET_SECUREBITS, noSetuidFixup, 0, 0, 0); err != nil {
		return fmt.Errorf("keeping capabilities: %w", err)
	}
	return nil
}

// stop ends the thread. It does nothing on nil.
func (m *maker) stop() {
	if m != nil {
		close(m.work)
		<-m.done
	}
}

// as calls create, which makes a file, in the name of a user and group.
func (m *maker) as(uid, gid uint32, create func() error) error {
	result := make(chan error)
	m.work <- func() { result <- m.create(uid, gid, create) }
	return <-result
}

func (m *maker) create(uid, gid uint32, create func() error) error {
	if !m.root {
		return again(create)
	}
	defer func() {
		_ = unix.Setfsgid(0)
		_ = unix.Setfsuid(0)
	}()
	// These two fail without saying so.
	_ = unix.Setfsgid(int(gid))
	_ = unix.Setfsuid(int(uid))
	gotGID, _ := unix.SetfsgidRetGid(-1)
	gotUID, _ := unix.SetfsuidRetUid(-1)
	if uint32(gotGID) != gid || uint32(gotUID) != uid {
		return unix.EINVAL
	}
	return again(create)
}
