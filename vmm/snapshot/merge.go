package snapshot

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
)

// ErrBase is wrapped by Merge's error when the differential snapshot is not
// based on the other one.
var ErrBase = errors.New("the snapshot is based on another one")

// Merge lays the differential snapshot in directory diff over the one that it
// is based on, and writes the result, a snapshot of the same kind as the base,
// to a new directory.
func Merge(base, diff, out string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("merge snapshot %s into %s: %w", diff, base, err)
		}
	}()
	lower, lowerMemory, err := open(base)
	if err != nil {
		return err
	}
	defer lowerMemory.Close()
	upper, upperMemory, err := open(diff)
	if err != nil {
		return err
	}
	defer upperMemory.Close()
	if upper.Base != lower.ID || upper.Memory.Size != lower.Memory.Size {
		return ErrBase
	}
	d, err := Create(out)
	if err != nil {
		return err
	}
	changed := upper.Memory.Extents
	upper.Base, upper.Memory.Extents = lower.Base, union(lower.Memory.Extents, changed)
	err = writeNew(filepath.Join(d.Path(), MemoryFile), func(f *os.File) error {
		for _, layer := range []struct {
			from    *os.File
			extents []Extent
		}{{lowerMemory, lower.Memory.Extents}, {upperMemory, changed}} {
			for _, e := range layer.extents {
				if err := copyExtent(f, layer.from, e); err != nil {
					return err
				}
			}
		}
		_, err := f.WriteAt(Trailer(upper.ID), int64(upper.Memory.Size))
		return err
	})
	if err == nil {
		err = writeNew(filepath.Join(d.Path(), StateFile), func(f *os.File) error { return Write(f, upper) })
	}
	if err != nil {
		return errors.Join(err, d.Abort())
	}
	return d.Commit()
}

// open reads the state in a directory, and opens the memory that belongs to it.
func open(dir string) (*State, *os.File, error) {
	f, err := os.Open(filepath.Join(dir, StateFile))
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	s, err := Read(f)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	m, err := os.Open(filepath.Join(dir, MemoryFile))
	if err != nil {
		return nil, nil, err
	}
	if err := s.CheckMemory(m); err != nil {
		m.Close()
		return nil, nil, err
	}
	return s, m, nil
}

// writeNew makes a file that only its owner reads, on stable storage.
func writeNew(path string, write func(*os.File) error) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = write(f)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// copyExtent copies a piece of memory.
func copyExtent(to, from *os.File, e Extent) error {
	buf := make([]byte, 1<<20)
	for off := int64(e.Offset); off < int64(e.Offset+e.Length); {
		p := buf[:min(int64(len(buf)), int64(e.Offset+e.Length)-off)]
		if _, err := io.ReadFull(io.NewSectionReader(from, off, int64(len(p))), p); err != nil {
			return err
		}
		// The base may have something where the other has zeros: they are written.
		if _, err := to.WriteAt(p, off); err != nil {
			return err
		}
		off += int64(len(p))
	}
	return nil
}

// union returns the pieces that are in either list, in rising order.
func union(a, b []Extent) []Extent {
	all := slices.Concat(a, b)
	slices.SortFunc(all, func(x, y Extent) int {
		switch {
		case x.Offset < y.Offset:
			return -1
		case x.Offset > y.Offset:
			return 1
		}
		return 0
	})
	var out []Extent
	for _, e := range all {
		if last := len(out) - 1; last >= 0 && e.Offset <= out[last].Offset+out[last].Length {
			out[last].Length = max(out[last].Length, e.Offset+e.Length-out[last].Offset)
			continue
		}
		out = append(out, e)
	}
	return out
}
