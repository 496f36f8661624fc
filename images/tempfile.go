package images

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// tempFile is a file that is being written. Its name is locked with flock as
// long as its writer lives, so that whoever cleans up can tell; and a second
// writer of the same name waits for the first.
type tempFile struct {
	*os.File
	path string
	gone bool // renamed or removed
}

// lockPoll is how often a lock is tried that another process holds. flock
// itself cannot be waited for with a context.
const lockPoll = 25 * time.Millisecond

// openTemp opens the file at path for writing, creating it when it is not
// there, and locks it. When another process has it, waiting is called once and
// openTemp waits. What the file holds is what a dead writer, if any, left.
func openTemp(ctx context.Context, path string, waiting func()) (*tempFile, error) {
	for waited := false; ; {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		locked, err := tryLock(f)
		if err == nil && locked && sameFile(f, path) {
			return &tempFile{File: f, path: path}, nil
		}
		(&tempFile{File: f}).unlock()
		switch {
		case err != nil:
			return nil, err
		case locked:
			continue // renamed or removed by its last writer in between
		}
		if !waited && waiting != nil {
			waiting()
		}
		waited = true
		if err := sleep(ctx, lockPoll); err != nil {
			return nil, fmt.Errorf("wait for another process that writes %s: %w", path, err)
		}
	}
}

// newTemp makes a temporary file of a new name in dir.
func newTemp(dir, prefix string) (*tempFile, error) {
	for {
		f, err := os.CreateTemp(dir, prefix+"*")
		if err != nil {
			return nil, err
		}
		locked, err := tryLock(f)
		if err != nil {
			f.Close()
			return nil, err
		}
		// Between these two calls a cleaner may have taken it for a dead one's.
		if locked && sameFile(f, f.Name()) {
			return &tempFile{File: f, path: f.Name()}, nil
		}
		(&tempFile{File: f}).unlock()
	}
}

func tryLock(f *os.File) (bool, error) {
	for {
		switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err {
		case nil:
			return true, nil
		case unix.EWOULDBLOCK:
			return false, nil
		case unix.EINTR:
		default:
			return false, &os.PathError{Op: "flock", Path: f.Name(), Err: err}
		}
	}
}

// sameFile tells whether path still names the open file f.
func sameFile(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(path)
	return err == nil && os.SameFile(a, b)
}

// commit makes the file permanent under another name in the same file system.
// Its contents are on the disk before the name is; syncDir does the same for the name.
func (t *tempFile) commit(path string, mode fs.FileMode) error {
	if err := t.Chmod(mode); err != nil {
		return err
	}
	if err := t.Sync(); err != nil {
		return err
	}
	if err := os.Rename(t.path, path); err != nil {
		return err
	}
	t.gone = true
	return t.unlock()
}

// discard removes the file unless it was committed. It may be called more than once.
func (t *tempFile) discard() {
	if t.gone {
		return
	}
	t.gone = true
	os.Remove(t.path) // while it is locked
	t.unlock()
}

// release closes the file and leaves it where it is.
func (t *tempFile) release() {
	if !t.gone {
		t.gone = true
		t.unlock()
	}
}

// unlock gives the lock back and closes the file. Closing alone would not do:
// a child that is just being started has the file open, too, until it executes
// its program.
func (t *tempFile) unlock() error {
	unix.Flock(int(t.Fd()), unix.LOCK_UN)
	return t.Close()
}

// syncDir puts the names in a directory on the disk.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// removeDead removes the files in dir whose writers are gone and that keep
// does not want, and returns the names of those that keep does.
func removeDead(dir string, keep func(fs.FileInfo) bool) (kept []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		path := filepath.Join(dir, e.Name())
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return kept, err
		}
		dead := &tempFile{File: f}
		locked, err := tryLock(f)
		if err == nil && locked {
			if info, serr := f.Stat(); serr == nil && keep(info) {
				kept = append(kept, path)
			} else if rerr := os.Remove(path); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
				err = rerr
			}
		}
		dead.unlock()
		if err != nil {
			return kept, err
		}
	}
	return kept, nil
}

// sleep waits, or returns the error of ctx.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
