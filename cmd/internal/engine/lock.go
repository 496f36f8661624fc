package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// lockFile is a file locked with flock(2). The lock belongs to the open file
// and not to the process: it lasts until every process that has inherited the
// descriptor has closed it or is gone, however it went. That is what tells
// living containers from stale ones. It is therefore never unlocked, only closed.
type lockFile struct {
	file *os.File
}

// errLocked says that somebody else holds a lock.
var errLocked = errors.New("locked by another process")

// openLock opens the file, with flags such as os.O_CREATE, and locks it without
// waiting. The error is errLocked when somebody else holds it.
func openLock(path string, flags int) (*lockFile, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW|flags, 0o600)
	if err != nil {
		return nil, err
	}
	if err := flock(f, unix.LOCK_EX); err != nil {
		f.Close()
		return nil, err
	}
	return &lockFile{f}, nil
}

func (l *lockFile) Close() error { return l.file.Close() }

// flock takes a lock, unix.LOCK_EX or unix.LOCK_SH, on an open file without waiting.
func flock(f *os.File, how int) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var errno error
	err = conn.Control(func(fd uintptr) {
		for {
			if errno = unix.Flock(int(fd), how|unix.LOCK_NB); errno != unix.EINTR {
				return
			}
		}
	})
	if err == nil {
		err = errno
	}
	switch {
	case err == unix.EWOULDBLOCK:
		return errLocked
	case err != nil:
		return fmt.Errorf("locking %s: %w", f.Name(), err)
	}
	return nil
}

const (
	// gatePatience is how long a command waits for others that change the
	// same thing. They hold the gate for far less than a millisecond, unless
	// one of them was stopped.
	gatePatience = 10 * time.Second
	gatePoll     = 2 * time.Millisecond
)

// openGate locks a file that is held for moments only, and waits for it.
func openGate(ctx context.Context, path string) (*lockFile, error) {
	return waitLock(ctx, path, os.O_CREATE, gatePatience)
}

// waitLock takes a lock as soon as it is free, for at most patience.
func waitLock(ctx context.Context, path string, flags int, patience time.Duration) (*lockFile, error) {
	lock, err := openLock(path, flags)
	if !errors.Is(err, errLocked) {
		return lock, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(gatePoll)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if lock, err := openLock(path, flags); !errors.Is(err, errLocked) {
				return lock, err
			}
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for lock %s: %w: %w", path, errLocked, ctx.Err())
		}
	}
}
