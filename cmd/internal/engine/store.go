package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hullvm/hull/cmd/internal/engine/cgroup"
)

// store is the part of the engine that knows containers as files.
//
//	<data>/containers/<id>/            one container
//	    lock                           held by the living (lock.go)
//	    container.json                 its Record
//	    scratch.ext4                   what it has written, unless it goes when it ends
//	<data>/names/<name>                symbolic link to its directory: names are unique
//	<data>/lock                        the gate: held while names and directories come and go
//	<run>/<short id>/                  sockets of a living container
//	<run>/<short id>.owner             symbolic link to the container's directory
//	<run>/.users                       which users VM processes are (user.go)
//
// A container's directory is put together, and taken apart, under a name that
// begins with a dot: whoever sees it sees a container that is alive or stale,
// never one that is about to be. The owner link is there before the runtime
// directory and goes after it, so that what a killed process has left in the
// runtime directory, whichever data directory it belongs to, can be told from
// what is in use.
type store struct {
	dirs   Dirs
	groups func() (*cgroup.Base, error) // Options.Cgroups, once
	joined memberships
}

func (s *store) containers() string       { return filepath.Join(s.dirs.Data, "containers") }
func (s *store) dir(id string) string     { return filepath.Join(s.containers(), id) }
func (s *store) hidden(id string) string  { return filepath.Join(s.containers(), "."+id) }
func (s *store) names() string            { return filepath.Join(s.dirs.Data, "names") }
func (s *store) nameLink(n string) string { return filepath.Join(s.names(), n) }
func (s *store) runDir(id string) string  { return filepath.Join(s.dirs.Run, ShortID(id)) }

// vmDir has the sockets of a container's VM: its process sees this directory and no other.
func (s *store) vmDir(id string) string    { return filepath.Join(s.runDir(id), "vm") }
func (s *store) ownerLink(i string) string { return s.runDir(i) + ownerSuffix }

const ownerSuffix = ".owner"

func (s *store) gate(ctx context.Context) (*lockFile, error) {
	return openGate(ctx, filepath.Join(s.dirs.Data, "lock"))
}

// Errors of the store, in docker's words.
var (
	ErrNoContainer = errors.New("no such container")
	ErrNameInUse   = errors.New("the container name is already in use")
	ErrAmbiguous   = errors.New("multiple containers have an ID with this prefix")
)

// prepare creates the directories that the store needs.
func (s *store) prepare() error {
	if err := makePrivate(s.dirs.Data); err != nil {
		return err
	}
	for _, dir := range []string{s.containers(), s.names(), s.dirs.Run} {
		if err := makeCommon(dir); err != nil {
			return err
		}
	}
	return nil
}

// create makes a container of the record, gives it an ID and, if it has none, a
// name, and returns it locked.
func (s *store) create(ctx context.Context, r *Record) (_ *lockFile, err error) {
	gate, err := s.gate(ctx)
	if err != nil {
		return nil, err
	}
	defer gate.Close()

	r.Version = recordVersion
	r.ID = s.freeID()
	if r.Name == "" {
		r.Name = randomName(func(name string) bool { return s.owner(name) != "" })
	} else if err := CheckName(r.Name); err != nil {
		return nil, err
	} else if id := s.owner(r.Name); id != "" {
		return nil, fmt.Errorf("name %q: %w by container %s: remove that container or choose another name", r.Name, ErrNameInUse, ShortID(id))
	}

	building := s.hidden(r.ID)
	if err := os.Mkdir(building, 0o700); err != nil {
		return nil, fmt.Errorf("creating container %s: %w", r.Name, err)
	}
	defer func() {
		if err != nil {
			os.RemoveAll(building)
		}
	}()
	lock, err := openLock(filepath.Join(building, lockName), os.O_CREATE|os.O_EXCL)
	if err != nil {
		return nil, fmt.Errorf("creating container %s: %w", r.Name, err)
	}
	defer func() {
		if err != nil {
			lock.Close()
		}
	}()
	if err := r.write(building); err != nil {
		return nil, err
	}
	if err := os.Rename(building, s.dir(r.ID)); err != nil {
		return nil, fmt.Errorf("creating container %s: %w", r.Name, err)
	}
	building = s.dir(r.ID)
	os.Remove(s.nameLink(r.Name)) // one that leads nowhere: see owner
	if err := os.Symlink(s.dir(r.ID), s.nameLink(r.Name)); err != nil {
		return nil, fmt.Errorf("creating container %s: %w", r.Name, err)
	}
	return lock, nil
}

// freeID makes an ID whose short form nobody uses.
func (s *store) freeID() string {
	for {
		id := newID()
		if found, err := s.byPrefix(ShortID(id)); err == nil && len(found) == 0 {
			return id
		} else if err != nil {
			return id // whatever is wrong with the directory will be reported by its use
		}
	}
}

// owner answers the ID of the container that has the name, "" for none.
func (s *store) owner(name string) string {
	dir, err := os.Readlink(s.nameLink(name))
	if err != nil {
		return ""
	}
	id := filepath.Base(dir)
	if !isID(id) {
		return ""
	}
	if _, err := os.Lstat(s.dir(id)); err != nil {
		return ""
	}
	return id
}

// ids lists the IDs of all containers.
func (s *store) ids() ([]string, error) { return s.byPrefix("") }

// byPrefix lists the IDs that begin with prefix.
func (s *store) byPrefix(prefix string) ([]string, error) {
	entries, err := os.ReadDir(s.containers())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listing containers: %w", err)
	}
	var ids []string
	for _, e := range entries {
		if isID(e.Name()) && strings.HasPrefix(e.Name(), prefix) {
			ids = append(ids, e.Name())
		}
	}
	return ids, nil
}

// find answers the ID that ref means: a whole ID, a name, or the beginning of
// one ID only, in this order.
func (s *store) find(ref string) (string, error) {
	if isID(ref) {
		if _, err := os.Lstat(s.dir(ref)); err == nil {
			return ref, nil
		}
	}
	if CheckName(ref) == nil {
		if id := s.owner(ref); id != "" {
			return id, nil
		}
	}
	if ref != "" && isHex(ref) {
		ids, err := s.byPrefix(ref)
		switch {
		case err != nil:
			return "", err
		case len(ids) == 1:
			return ids[0], nil
		case len(ids) > 1:
			return "", fmt.Errorf("%w: %s", ErrAmbiguous, ref)
		}
	}
	return "", fmt.Errorf("%w: %s", ErrNoContainer, ref)
}

// load reads one container's record. One that cannot be read comes back as a
// record with status dead and the reason, so that it can be seen and removed. A
// directory with neither record nor data is no container but one being removed.
func (s *store) load(id string) (*Record, error) {
	r, err := readRecord(s.dir(id), id)
	if !errors.Is(err, ErrBroken) {
		return r, err
	}
	if errors.Is(err, os.ErrNotExist) {
		disk := filepath.Join(s.dir(id), scratchName)
		_, file := os.Lstat(disk)
		_, shared := os.Lstat(disk + sharedSuffix)
		if errors.Is(file, os.ErrNotExist) && errors.Is(shared, os.ErrNotExist) {
			return nil, fmt.Errorf("%w: %s", ErrNoContainer, ShortID(id))
		}
	}
	return s.dead(id, err), nil
}

func (s *store) dead(id string, reason error) *Record {
	r := &Record{ID: id, Name: s.nameOf(id), State: State{Status: StatusDead, Error: reason.Error()}}
	if info, err := os.Lstat(s.dir(id)); err == nil {
		r.Created = info.ModTime()
	} else {
		r.Created = time.Unix(0, 0)
	}
	// A newer hull's record can still tell what it uses, which must not be taken for what nobody does.
	var uses struct {
		ImageID string `json:"image_id"`
		Config  struct {
			Mounts []Mount `json:"mounts"`
		} `json:"config"`
	}
	path := filepath.Join(s.dir(id), recordName)
	if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() || info.Size() > maxRecord {
		return r
	}
	if data, err := os.ReadFile(path); err == nil && json.Unmarshal(data, &uses) == nil {
		r.ImageID, r.Config.Mounts = uses.ImageID, uses.Config.Mounts
	}
	return r
}

// nameOf finds a container's name without its record.
func (s *store) nameOf(id string) string {
	if names := s.namesOf(id); len(names) > 0 {
		return names[0]
	}
	return ""
}

// namesOf are the names that lead to a container: one, but while it is renamed.
func (s *store) namesOf(id string) []string {
	entries, err := os.ReadDir(s.names())
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		if dir, err := os.Readlink(s.nameLink(e.Name())); err == nil && filepath.Base(dir) == id {
			names = append(names, e.Name())
		}
	}
	return names
}

// lock takes the lock of a container; errLocked when it is alive.
func (s *store) lock(id string) (*lockFile, error) {
	lock, err := openLock(filepath.Join(s.dir(id), lockName), 0)
	if !errors.Is(err, os.ErrNotExist) {
		return lock, err
	}
	if _, statErr := os.Lstat(s.dir(id)); errors.Is(statErr, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s", ErrNoContainer, ShortID(id))
	}
	// Somebody has removed the lock of a container that is there.
	return openLock(filepath.Join(s.dir(id), lockName), os.O_CREATE)
}

// remove deletes a container whose lock the caller holds. It vanishes at once;
// what is cut short after that is finished by a sweep.
func (s *store) remove(ctx context.Context, id string) error {
	if err := s.removeRunDir(id); err != nil {
		return err
	}
	gate, err := s.gate(ctx)
	if err != nil {
		return err
	}
	err = os.Rename(s.dir(id), s.hidden(id))
	// Not just the one in its record: whoever was to rename it may have been killed in the middle.
	for _, name := range s.namesOf(id) {
		os.Remove(s.nameLink(name))
	}
	gate.Close()
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing container %s: %w", ShortID(id), err)
	}
	if err := os.RemoveAll(s.hidden(id)); err != nil {
		return fmt.Errorf("removing container %s: %w", ShortID(id), err)
	}
	return nil
}

// makeRunDir creates the runtime directory of a container that is locked.
func (s *store) makeRunDir(id string) error {
	if err := os.Symlink(s.dir(id), s.ownerLink(id)); err != nil {
		return fmt.Errorf("creating the runtime directory: %w", err)
	}
	for _, dir := range []string{s.runDir(id), s.vmDir(id)} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return fmt.Errorf("creating the runtime directory: %w", err)
		}
	}
	return nil
}

func (s *store) removeRunDir(id string) error {
	if err := os.RemoveAll(s.runDir(id)); err != nil {
		return fmt.Errorf("removing the runtime directory: %w", err)
	}
	if err := os.Remove(s.ownerLink(id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing the runtime directory: %w", err)
	}
	return nil
}
