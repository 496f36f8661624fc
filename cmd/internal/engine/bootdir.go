package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// newPrefix begins the names of those that are being made.
const newPrefix = ".new-"

// newPatience is how long making one may take.
const newPatience = 10 * time.Second

// bootPrefix begins the names of the runtime directories of bare VMs, which
// have no container behind them: each holds its own lock.
const bootPrefix = "boot-"

// makeBootDir creates the runtime directory of a bare VM. It is locked before it
// has the name by which a sweep could find it.
func (s *store) makeBootDir(ctx context.Context) (dir string, _ *lockFile, err error) {
	if err := s.prepare(); err != nil {
		return "", nil, err
	}
	if err := s.sweep(ctx); err != nil {
		return "", nil, err
	}
	dir = filepath.Join(s.dirs.Run, bootPrefix+ShortID(newID()))
	building, err := os.MkdirTemp(s.dirs.Run, newPrefix)
	if err != nil {
		return "", nil, fmt.Errorf("creating the runtime directory: %w", err)
	}
	lock, err := openLock(filepath.Join(building, lockName), os.O_CREATE|os.O_EXCL)
	if err == nil {
		if err = os.Rename(building, dir); err == nil {
			return dir, lock, nil
		}
		lock.Close()
	}
	os.RemoveAll(building)
	return "", nil, fmt.Errorf("creating the runtime directory: %w", err)
}

// sweepBoot removes the runtime directory of a bare VM that is not alive.
func (s *store) sweepBoot(name string) error {
	dir := filepath.Join(s.dirs.Run, name)
	lock, err := openLock(filepath.Join(dir, lockName), 0)
	switch {
	case errors.Is(err, errLocked):
		return nil
	case err == nil:
		defer lock.Close()
	case !errors.Is(err, os.ErrNotExist):
		return err
	}
	return os.RemoveAll(dir)
}

// sweepUnnamed removes a runtime directory whose maker was killed before it had
// its name.
func (s *store) sweepUnnamed(name string) error {
	dir := filepath.Join(s.dirs.Run, name)
	if !strings.HasPrefix(name, newPrefix) {
		return nil
	}
	if info, err := os.Lstat(dir); err != nil || time.Since(info.ModTime()) < newPatience {
		return nil
	}
	return os.RemoveAll(dir)
}

func isBootDir(name string) bool {
	short, ok := strings.CutPrefix(name, bootPrefix)
	return ok && len(short) == ShortIDLength && isHex(short)
}
