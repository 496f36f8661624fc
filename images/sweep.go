package images

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/gofrs/flock"
)

// markPrefix begins the names of marks in the directory of temporary files. A
// mark says that there may be garbage: files that no image in the index needs.
// Whoever is about to add files makes one first, and locks it for as long as
// it works; so a mark without a lock is the sign of an operation that failed
// or was killed, or of a removal whose files nobody has deleted yet.
const markPrefix = "mark-"

func isMark(info fs.FileInfo) bool { return strings.HasPrefix(info.Name(), markPrefix) }

// sweep deletes all files that the index does not name, unless some process
// works on the store: its files are not in the index yet. Then the marks stay
// for whoever comes next.
func (s *Store) sweep() error {
	lock := flock.New(filepath.Join(s.imagesDir(), "lock"))
	alone, err := lock.TryLock()
	if err != nil {
		return fmt.Errorf("lock the image store: %w", err)
	}
	if !alone {
		return nil
	}
	defer lock.Unlock()
	// Marks that are made from now on are about changes that this sweep may not see.
	marks, err := removeDead(s.tempDir(), isMark)
	if err != nil {
		return err
	}
	x, err := s.readIndex()
	if err != nil {
		return err
	}
	blobs, disks := make(map[string]bool), make(map[string]bool)
	for _, r := range x.Images {
		blobs[r.ID.Hex], blobs[r.Manifest.Hex] = true, true
		for _, l := range r.Layers {
			blobs[l.Blob.Hex] = true
		}
		for _, l := range r.disks() {
			disks[l.Disk] = true
		}
	}
	if err := removeOthers(s.blobDir(), blobs); err != nil {
		return fmt.Errorf("remove unused blobs: %w", err)
	}
	if err := removeOthers(s.layerDir(), disks); err != nil {
		return fmt.Errorf("remove unused layers: %w", err)
	}
	for _, mark := range marks {
		if err := os.Remove(mark); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// removeOthers removes the regular files in dir that are not wanted.
func removeOthers(dir string, wanted map[string]bool) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if wanted[e.Name()] || !e.Type().IsRegular() {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
