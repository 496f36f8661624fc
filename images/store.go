package images

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/gofrs/flock"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/semaphore"
)

// Store is the image store in one data directory. Its methods may be called
// from several goroutines and, on one directory, from several processes.
type Store struct {
	dir    string
	limits Limits
	// cpu is held by what would keep a processor busy: decompression and conversion.
	cpu *semaphore.Weighted
	net network

	mu       sync.Mutex // protects what follows
	inUse    func() (map[v1.Hash][]User, error)
	builtins []*Image
}

// Options change how a store works. The zero value is what hull uses.
type Options struct {
	Limits Limits
}

// partialAge is how long a layer that was fetched in part waits for its pull to be repeated.
const partialAge = 7 * 24 * time.Hour

// Open opens the store in the data directory dir, which is created when it is
// not there, and removes what killed processes have left half-written.
func Open(dir string) (*Store, error) { return OpenOptions(dir, Options{}) }

// OpenOptions is Open with options.
func OpenOptions(dir string, opts Options) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open the image store: %w", err)
	}
	s := &Store{
		dir:    dir,
		limits: opts.Limits.withDefaults(),
		cpu:    semaphore.NewWeighted(int64(runtime.GOMAXPROCS(0))),
		net:    defaultNetwork(),
	}
	for _, d := range []string{s.blobDir(), s.partialDir(), s.tempDir(), s.layerDir(), s.layerTempDir()} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("open the image store: %w", err)
		}
	}
	if _, err := s.readIndex(); err != nil {
		return nil, err
	}
	if err := s.clean(); err != nil {
		return nil, fmt.Errorf("open the image store: remove what was left half-written: %w", err)
	}
	return s, nil
}

// Close releases what the store holds open. Images that were handed out stay valid.
func (s *Store) Close() error { return nil }

// clean removes what dead processes have left.
func (s *Store) clean() error {
	never := func(fs.FileInfo) bool { return false }
	if _, err := removeDead(s.layerTempDir(), never); err != nil {
		return err
	}
	if _, err := removeDead(s.partialDir(), func(info fs.FileInfo) bool { return time.Since(info.ModTime()) < partialAge }); err != nil {
		return err
	}
	marks, err := removeDead(s.tempDir(), isMark)
	if err != nil {
		return err
	}
	if len(marks) > 0 {
		return s.sweep()
	}
	return nil
}

// User is a container that uses an image.
type User struct {
	Name    string
	Running bool
}

// SetInUse sets the hook that tells which images containers use, by image ID.
// Remove refuses those images, and those that are acquired.
func (s *Store) SetInUse(hook func() (map[v1.Hash][]User, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inUse = hook
}

// usePrefix begins the names of files in the directory of temporary files that
// say, as long as they are locked, that somebody has acquired an image. Then comes
// its identifier.
const usePrefix = "use-"

// allUsers returns the containers that use each image. It is called under the
// index's lock.
func (s *Store) allUsers() (map[v1.Hash][]User, error) {
	s.mu.Lock()
	hook := s.inUse
	s.mu.Unlock()
	all := make(map[v1.Hash][]User)
	if hook != nil {
		known, err := hook()
		if err != nil {
			return nil, fmt.Errorf("find out which containers use the image: %w", err)
		}
		maps.Copy(all, known)
	}
	acquired, err := s.acquired()
	if err != nil {
		return nil, fmt.Errorf("find out which images are being used: %w", err)
	}
	for _, id := range acquired {
		all[id] = append(all[id], User{Name: "that is being created"})
	}
	return all, nil
}

// acquired lists the images that somebody has acquired.
func (s *Store) acquired() ([]v1.Hash, error) {
	entries, err := os.ReadDir(s.tempDir())
	if err != nil {
		return nil, err
	}
	var ids []v1.Hash
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), usePrefix)
		if !ok {
			continue
		}
		f, err := os.OpenFile(filepath.Join(s.tempDir(), e.Name()), os.O_RDWR, 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		free, err := tryLock(f)
		(&tempFile{File: f}).unlock()
		if err != nil {
			return nil, err
		}
		if hex, _, _ := strings.Cut(rest, "-"); !free {
			ids = append(ids, v1.Hash{Algorithm: "sha256", Hex: hex})
		}
	}
	return ids, nil
}

// hold keeps every process from sweeping until the result is called.
func (s *Store) hold(ctx context.Context) (release func(), err error) {
	lock := flock.New(filepath.Join(s.imagesDir(), "lock"))
	if _, err := lock.TryRLockContext(ctx, lockPoll); err != nil {
		return nil, fmt.Errorf("lock the image store: %w", err)
	}
	return sync.OnceFunc(func() { lock.Unlock() }), nil
}
