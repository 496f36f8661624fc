package snapshot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Dir is a directory in the making. Nobody sees it under its name before
// Commit, and what was there before stays until then.
type Dir struct {
	path string // where it will be
	temp string // where it is
	lock *os.File
}

// tempMark is in the names of directories that are not complete. What follows
// it makes them different.
const tempMark = ".incomplete-"

// Create makes a directory to be filled, next to path. It removes what earlier
// attempts at the same path have left that did not live to their end.
func Create(path string) (*Dir, error) {
	path = filepath.Clean(path)
	parent, name := filepath.Split(path)
	if parent == "" {
		parent = "."
	}
	sweep(parent, name)
	temp, err := os.MkdirTemp(parent, name+tempMark)
	if err != nil {
		return nil, fmt.Errorf("snapshot %s: %w", path, err)
	}
	lock, err := os.Open(temp)
	if err == nil {
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("snapshot %s: %w", path, err), os.Remove(temp))
	}
	return &Dir{path: path, temp: temp, lock: lock}, nil
}

// sweep removes incomplete directories whose maker is gone: nobody holds their lock.
func sweep(parent, name string) {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return // Create says why
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), name+tempMark) {
			continue
		}
		path := filepath.Join(parent, e.Name())
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			_ = os.RemoveAll(path) // what cannot be removed now can be next time
		}
		f.Close()
	}
}

// Path is where the directory's files are to be written.
func (d *Dir) Path() string { return d.temp }

// Files makes both of a snapshot's files in the directory, which only their owner reads: they hold a guest's secrets.
func (d *Dir) Files() (state, memory *os.File, err error) {
	create := func(name string) (*os.File, error) {
		return os.OpenFile(filepath.Join(d.temp, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	}
	if state, err = create(StateFile); err != nil {
		return nil, nil, err
	}
	if memory, err = create(MemoryFile); err != nil {
		state.Close()
		return nil, nil, err
	}
	return state, memory, nil
}

// Commit gives the directory its name. Another one that had it is removed.
func (d *Dir) Commit() error {
	defer d.lock.Close()
	err := unix.Renameat2(unix.AT_FDCWD, d.temp, unix.AT_FDCWD, d.path, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EEXIST) {
		// What is exchanged has the name of an incomplete one from then on.
		if err = unix.Renameat2(unix.AT_FDCWD, d.temp, unix.AT_FDCWD, d.path, unix.RENAME_EXCHANGE); err == nil {
			return os.RemoveAll(d.temp)
		}
	}
	if errors.Is(err, unix.EINVAL) { // a file system without these
		err = os.Rename(d.temp, d.path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("snapshot %s: %w", d.path, err), os.RemoveAll(d.temp))
	}
	return nil
}

// Abort removes the directory.
func (d *Dir) Abort() error {
	defer d.lock.Close()
	return os.RemoveAll(d.temp)
}
