package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// sweptName marks that everything was looked through since the host booted: the
// runtime directory does not outlive that.
const sweptName = ".swept"

// sweep cleans up after processes that were killed. Every command begins with
// it, so it looks at the runtime directory only, where nothing but the living
// have anything, and at all containers once after each boot of the host.
func (s *store) sweep(ctx context.Context) error {
	swept := filepath.Join(s.dirs.Run, sweptName)
	if _, err := os.Lstat(swept); errors.Is(err, os.ErrNotExist) {
		if err := s.sweepAll(ctx); err != nil {
			return err
		}
		return os.WriteFile(swept, nil, 0o600)
	}
	return s.sweepRun(ctx)
}

// sweepRun removes the runtime directories of containers that are not alive, and
// settles those containers.
func (s *store) sweepRun(ctx context.Context) error {
	entries, err := os.ReadDir(s.dirs.Run)
	if err != nil {
		return fmt.Errorf("looking for stale containers: %w", err)
	}
	for _, e := range entries {
		if isBootDir(e.Name()) {
			if err := s.sweepBoot(e.Name()); err != nil {
				return fmt.Errorf("cleaning up after a stale VM: %w", err)
			}
			continue
		}
		if isMeetingDir(e.Name()) {
			if err := s.sweepBridge(ctx, e.Name()); err != nil {
				return fmt.Errorf("cleaning up after a network's members: %w", err)
			}
			continue
		}
		if err := s.sweepUnnamed(e.Name()); err != nil {
			return fmt.Errorf("cleaning up after a stale VM: %w", err)
		}
		short, isLink := strings.CutSuffix(e.Name(), ownerSuffix)
		if len(short) != ShortIDLength || !isHex(short) {
			continue
		}
		link := filepath.Join(s.dirs.Run, short+ownerSuffix)
		dir, err := os.Readlink(link)
		switch {
		case isLink && err == nil:
			err = s.sweepOwned(ctx, short, dir)
		case !isLink && errors.Is(err, os.ErrNotExist):
			err = os.RemoveAll(filepath.Join(s.dirs.Run, short))
		default:
			err = nil // its link is an entry of its own, or it has just gone
		}
		if err != nil {
			return fmt.Errorf("cleaning up after stale container %s: %w", short, err)
		}
	}
	return s.sweepGroups()
}

// sweepOwned settles the container in dir, which owns the runtime directory
// named short, unless it is alive.
func (s *store) sweepOwned(ctx context.Context, short, dir string) error {
	id := filepath.Base(dir)
	if !isID(id) || ShortID(id) != short {
		return fmt.Errorf("its runtime directory belongs to %s", dir)
	}
	lock, err := openLock(filepath.Join(dir, lockName), 0)
	if errors.Is(err, errLocked) {
		lock, err = s.reap(ctx, dir, id)
	}
	switch {
	case errors.Is(err, errLocked):
		return nil // alive
	case errors.Is(err, os.ErrNotExist):
		return s.removeRunDir(id)
	case err != nil:
		return err
	}
	defer lock.Close()
	if dir != s.dir(id) {
		// Of another data directory: whoever uses that will settle the rest.
		return s.removeRunDir(id)
	}
	return s.settle(ctx, id)
}

// reap ends the VM of a container whose supervisor was killed. The VM process
// sees that by itself, at once; this is for one that cannot.
func (s *store) reap(ctx context.Context, dir, id string) (*lockFile, error) {
	r, err := readRecord(dir, id)
	if err != nil || !r.State.Alive() || r.State.Supervisor.Alive() {
		return nil, errLocked
	}
	if _, err := r.State.VM.Kill(unix.SIGKILL); err != nil {
		return nil, err
	}
	return waitLock(ctx, filepath.Join(dir, lockName), 0, time.Second)
}

// settle brings a container whose lock the caller holds to rest: one that
// should go when it ends goes, the record of another says that it has ended.
func (s *store) settle(ctx context.Context, id string) error {
	r, err := s.load(id)
	if errors.Is(err, ErrNoContainer) {
		return s.remove(ctx, id)
	}
	if err != nil {
		return err
	}
	if !r.State.Alive() {
		return s.removeRunDir(id)
	}
	if r.Config.AutoRemove {
		r.State.Group.remove()
		if err := s.remove(ctx, id); err != nil {
			return err
		}
		return s.removeAnonymous(ctx, r)
	}
	r.State.abandon()
	if err := r.write(s.dir(id)); err != nil {
		return err
	}
	return s.removeRunDir(id)
}

// abandon is what becomes of a container whose supervisor was killed, or could not record how it ended.
func (s *State) abandon() {
	if s.Status == StatusStarting {
		s.Status = StatusCreated
	} else {
		s.Status = StatusExited
	}
	s.ExitCode = 128 + int(unix.SIGKILL)
	s.Finished = time.Now()
	s.Error = "how the container ended is not known: the hull process that ran it was killed, or had no space to record it"
	s.Group.remove()
	s.Supervisor, s.VM, s.Group = ProcessRef{}, ProcessRef{}, nil
}

// sweepAll settles every container that is not alive and removes names and
// directories that nothing leads to any more.
func (s *store) sweepAll(ctx context.Context) error {
	if err := s.sweepRun(ctx); err != nil {
		return err
	}
	ids, err := s.ids()
	if err != nil {
		return err
	}
	for _, id := range ids {
		if _, err := s.current(ctx, id); err != nil && !errors.Is(err, ErrNoContainer) {
			return err
		}
	}
	return s.sweepLeftovers(ctx)
}

// current reads a container's record and settles it first if it is stale.
func (s *store) current(ctx context.Context, id string) (*Record, error) {
	r, err := s.load(id)
	if err == nil && !r.State.Alive() {
		return r, nil
	}
	if err != nil && !errors.Is(err, ErrNoContainer) {
		return nil, err
	}
	lock, lockErr := s.lock(id)
	switch {
	case errors.Is(lockErr, errLocked):
		return r, err
	case lockErr != nil:
		return nil, lockErr
	}
	defer lock.Close()
	err = s.settle(ctx, id)
	if r != nil && (errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EROFS)) {
		// Its record stays as it was until there is space, and must not keep anybody from the other containers.
		settled := *r
		settled.State.abandon()
		settled.State.Error = fmt.Sprintf("how the container ended is not known: it could not be recorded: %v", err)
		return &settled, nil
	}
	if err != nil {
		return nil, err
	}
	return s.load(id)
}

// sweepLeftovers removes half-made and half-removed containers, and names that
// lead nowhere.
func (s *store) sweepLeftovers(ctx context.Context) error {
	gate, err := s.gate(ctx) // nobody is making or removing one now
	if err != nil {
		return err
	}
	defer gate.Close()
	entries, err := os.ReadDir(s.containers())
	if err != nil {
		return fmt.Errorf("looking for leftovers: %w", err)
	}
	for _, e := range entries {
		if id, hidden := strings.CutPrefix(e.Name(), "."); hidden && isID(id) {
			if err := os.RemoveAll(s.hidden(id)); err != nil {
				return fmt.Errorf("removing leftovers: %w", err)
			}
		}
	}
	names, err := os.ReadDir(s.names())
	if err != nil {
		return fmt.Errorf("looking for leftovers: %w", err)
	}
	for _, e := range names {
		if s.owner(e.Name()) == "" {
			os.Remove(s.nameLink(e.Name()))
		}
	}
	return nil
}

// checkLeftovers removes leftovers if there are signs of any: directories of containers that were not made or removed to the
// end, or more names than containers, as when one was renamed whose VM found itself alone: that knows the name which the
// container had at its start.
func (s *store) checkLeftovers(ctx context.Context) error {
	entries, err := os.ReadDir(s.containers())
	if err != nil {
		return fmt.Errorf("looking for leftovers: %w", err)
	}
	names, err := os.ReadDir(s.names())
	if err != nil {
		return fmt.Errorf("looking for leftovers: %w", err)
	}
	hidden := slices.ContainsFunc(entries, func(e os.DirEntry) bool { return strings.HasPrefix(e.Name(), ".") })
	if !hidden && len(names) <= len(entries) {
		return nil
	}
	return s.sweepLeftovers(ctx)
}
