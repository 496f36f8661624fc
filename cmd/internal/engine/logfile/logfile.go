// Package logfile keeps lines in a file that is renamed away when it has grown enough, and reads them back: all of
// them, the last ones, and those that are still to come.
//
// The file at path is the newest; path.1 is the one before it, and so on. One process writes, any number may read.
package logfile

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// Options say how much is kept.
type Options struct {
	// MaxSize is how large one file may grow, in bytes; 0: any size, in one file.
	MaxSize int64
	// MaxFiles is how many files there may be, at least 1; 0 means 1.
	MaxFiles int
}

// Writer appends lines. Its methods may be called from any goroutine.
type Writer struct {
	path    string
	options Options

	mu   sync.Mutex
	file *os.File
	size int64
}

// Open opens the file at path for appending, and makes it if need be. A last line that was cut short, as by a crash of
// the host, is taken away.
func Open(path string, o Options) (*Writer, error) {
	w := &Writer{path: path, options: o}
	if err := w.open(); err != nil {
		return nil, fmt.Errorf("opening log %s: %w", path, err)
	}
	return w, nil
}

func (w *Writer) open() error {
	f, err := os.OpenFile(w.path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	var size int64
	if err == nil {
		size, err = wholeLines(f, info.Size())
	}
	if err == nil {
		err = f.Truncate(size)
	}
	if err != nil {
		f.Close()
		return err
	}
	w.file, w.size = f, size
	return nil
}

// wholeLines is the length of the first end bytes of f up to and with their last newline.
func wholeLines(f *os.File, end int64) (int64, error) {
	buf := make([]byte, blockSize)
	for end > 0 {
		n := min(end, blockSize)
		if _, err := f.ReadAt(buf[:n], end-n); err != nil {
			return 0, err
		}
		for i := n - 1; i >= 0; i-- {
			if buf[i] == '\n' {
				return end - n + i + 1, nil
			}
		}
		end -= n
	}
	return 0, nil
}

// Append writes lines, each with its newline, and returns how many bytes of them are kept: whole lines. Those after an
// error, such as that of a full disk, are not.
func (w *Writer) Append(lines []byte) (kept int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.file == nil {
		return 0, os.ErrClosed
	}
	for len(lines) > 0 {
		n := w.fits(lines)
		if n == 0 {
			if err := w.rotate(); err != nil {
				return kept, fmt.Errorf("beginning a new file of log %s: %w", w.path, err)
			}
			n = w.fits(lines)
		}
		if n, err := w.file.Write(lines[:n]); err != nil {
			if n > 0 {
				err = errors.Join(err, w.file.Truncate(w.size))
			}
			return kept, fmt.Errorf("writing log %s: %w", w.path, err)
		}
		w.size += int64(n)
		kept += n
		lines = lines[n:]
	}
	return kept, nil
}

// fits is how many bytes of whole lines there is room for: one line at least in an empty file.
func (w *Writer) fits(lines []byte) int {
	room := w.options.MaxSize - w.size
	if w.options.MaxSize == 0 || int64(len(lines)) <= room {
		return len(lines)
	}
	if n := bytes.LastIndexByte(lines[:max(room, 0)], '\n') + 1; n > 0 || w.size > 0 {
		return n
	}
	return bytes.IndexByte(lines, '\n') + 1
}

// rotate makes room by a new file. Readers go on with the old one under its new name.
//
// At no time is a file that is to be kept without a name, or the newest without this one: a reader may look at any
// time, and would take a gap for the end.
func (w *Writer) rotate() error {
	fresh := w.path + ".new"
	f, err := os.OpenFile(fresh, os.O_RDWR|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	for i := w.options.MaxFiles - 1; i > 0 && err == nil; i-- {
		if err = w.renumber(i-1, i); errors.Is(err, os.ErrNotExist) {
			err = nil // there are not so many yet
		}
	}
	if err == nil {
		err = os.Rename(fresh, w.path)
	}
	if err != nil {
		f.Close()
		return err
	}
	old := w.file
	w.file, w.size = f, 0
	return old.Close()
}

// renumber gives a file another number, and leaves it that which it has.
func (w *Writer) renumber(from, to int) error {
	spare := w.path + ".link"
	if err := os.Remove(spare); err != nil && !errors.Is(err, os.ErrNotExist) { // of one that was killed here
		return err
	}
	err := os.Link(numbered(w.path, from), spare)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOTSUP) { // a file system without links
		return os.Rename(numbered(w.path, from), numbered(w.path, to))
	}
	if err != nil {
		return err
	}
	if err := os.Rename(spare, numbered(w.path, to)); err != nil {
		return err
	}
	if err := os.Remove(spare); err != nil && !errors.Is(err, os.ErrNotExist) { // rename leaves it if both are one file
		return err
	}
	return nil
}

// Close ends the writing.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.file == nil {
		return nil
	}
	err := w.file.Close()
	w.file = nil
	return err
}

// numbered is the name of the i-th file, 0 the newest.
func numbered(path string, i int) string {
	if i == 0 {
		return path
	}
	return path + "." + strconv.Itoa(i)
}
