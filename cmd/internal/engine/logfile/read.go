package logfile

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const (
	// blockSize is how much is read at once, in bytes.
	blockSize = 64 << 10
	// MaxLine is the length of the longest line that is read, in bytes; a longer one is left out.
	MaxLine = 1 << 20
	// mostFiles bounds the search for older files.
	mostFiles = 10_000
)

// ReadOptions say which lines are wanted.
type ReadOptions struct {
	// Tail is how many of the last lines are wanted of what there is; negative: all.
	Tail int
	// Follow, if not nil, asks for the lines that are still to come, until it is closed.
	Follow <-chan struct{}
}

// ErrStop ends Read without an error when emit returns it.
var ErrStop = errors.New("no more lines are wanted")

// Read calls emit for each line, the oldest first, without its newline; the line is emit's during the call only. It ends
// with emit's first error, or that of ctx. A log that does not exist has no lines.
func Read(ctx context.Context, path string, o ReadOptions, emit func(line []byte) error) error {
	r := &reader{ctx: ctx, path: path, emit: emit}
	defer r.close()
	var changes *watch
	if o.Follow != nil {
		var err error // before the first look: what comes later is then noticed
		if changes, err = watchDirectory(filepath.Dir(path)); err != nil {
			return fmt.Errorf("following log %s: %w", path, err)
		}
		defer changes.close()
	}
	err := r.begin(o.Tail)
	if err == nil {
		err = r.rest()
	}
	for err == nil && o.Follow != nil {
		select {
		case <-changes.changed:
			err = r.rest()
		case <-o.Follow:
			o.Follow = nil
			err = r.rest()
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	if errors.Is(err, ErrStop) {
		return nil
	}
	return err
}

// reader is at a place in one of a log's files.
type reader struct {
	ctx  context.Context
	path string
	emit func([]byte) error
	file *os.File // nil: at the very beginning
	in   *bufio.Reader
	part []byte // of a line whose end is not written yet, or that is longer than the buffer
	long bool   // what part was the beginning of is too long
}

func (r *reader) close() {
	if r.file != nil {
		r.file.Close()
	}
}

func (r *reader) use(f *os.File) {
	r.close()
	r.file, r.in, r.part, r.long = f, bufio.NewReaderSize(f, blockSize), nil, false
}

// begin goes to the first line that is wanted.
func (r *reader) begin(tail int) error {
	if tail < 0 {
		return r.next()
	}
	for i := 0; i < mostFiles; i++ {
		f, err := os.Open(numbered(r.path, i))
		if errors.Is(err, os.ErrNotExist) {
			break
		}
		if err != nil {
			return fmt.Errorf("reading log: %w", err)
		}
		at, found, err := lastLines(f, tail)
		if err == nil {
			_, err = f.Seek(at, io.SeekStart)
		}
		if err != nil {
			f.Close()
			return fmt.Errorf("reading log %s: %w", f.Name(), err)
		}
		r.use(f)
		if tail -= found; tail <= 0 {
			break
		}
	}
	return nil
}

// lastLines finds where the last n lines of f begin, and how many there are.
func lastLines(f *os.File, n int) (at int64, found int, err error) {
	end, err := wholeLines(f)
	if err != nil || n == 0 || end == 0 {
		return end, 0, err
	}
	buf := make([]byte, blockSize)
	for pos := end - 1; pos > 0; { // the last newline ends a line, those before it begin one
		size := min(pos, blockSize)
		if _, err := f.ReadAt(buf[:size], pos-size); err != nil {
			return 0, 0, err
		}
		for i := size - 1; i >= 0; i-- {
			if buf[i] != '\n' {
				continue
			}
			if found++; found == n {
				return pos - size + i + 1, n, nil
			}
		}
		pos -= size
	}
	return 0, found + 1, nil
}

// rest reads all that there is.
func (r *reader) rest() error {
	if r.file == nil {
		if err := r.next(); err != nil || r.file == nil {
			return err
		}
	}
	for {
		if err := r.lines(); err != nil {
			return err
		}
		// A file that has got a successor does not grow any more, but may have grown until it got one.
		newer, err := r.newer()
		if err != nil || newer == nil {
			return err
		}
		if err := r.lines(); err != nil {
			newer.Close()
			return err
		}
		r.use(newer)
	}
}

// lines reads to the end of the file.
func (r *reader) lines() error {
	for {
		if err := r.ctx.Err(); err != nil {
			return err
		}
		piece, err := r.in.ReadSlice('\n')
		if err != nil {
			if len(r.part)+len(piece) > MaxLine {
				r.part, r.long = nil, true
			}
			if !r.long {
				r.part = append(r.part, piece...)
			}
			switch {
			case errors.Is(err, bufio.ErrBufferFull):
				continue
			case errors.Is(err, io.EOF):
				return nil
			}
			return fmt.Errorf("reading log: %w", err)
		}
		if r.long || len(r.part)+len(piece) > MaxLine+1 {
			r.part, r.long = nil, false
			continue
		}
		line := piece[:len(piece)-1]
		if len(r.part) > 0 {
			line = append(r.part, line...)
			r.part = nil
		}
		if err := r.emit(line); err != nil {
			return err
		}
	}
}

// newer opens the file that came after this one; nil if there is none.
func (r *reader) newer() (*os.File, error) {
	here, err := r.file.Stat()
	if err != nil {
		return nil, fmt.Errorf("reading log: %w", err)
	}
	var previous *os.File
	for i := 0; i < mostFiles; i++ {
		f, err := os.Open(numbered(r.path, i))
		if errors.Is(err, os.ErrNotExist) {
			break
		}
		if err != nil {
			closeFile(previous)
			return nil, fmt.Errorf("reading log: %w", err)
		}
		info, err := f.Stat()
		if err == nil && os.SameFile(here, info) {
			f.Close()
			return previous, nil
		}
		closeFile(previous)
		previous = f
	}
	return previous, nil // the oldest: this one is not kept any more
}

// next opens the oldest file, if there is any.
func (r *reader) next() error {
	var oldest *os.File
	for i := 0; i < mostFiles; i++ {
		f, err := os.Open(numbered(r.path, i))
		if errors.Is(err, os.ErrNotExist) {
			break
		}
		closeFile(oldest)
		if err != nil {
			return fmt.Errorf("reading log: %w", err)
		}
		oldest = f
	}
	if oldest != nil {
		r.use(oldest)
	}
	return nil
}

func closeFile(f *os.File) {
	if f != nil {
		f.Close()
	}
}

// watch tells of changes in a directory.
type watch struct {
	file    *os.File
	changed chan struct{} // holds a token when something has changed since it was taken
	done    chan struct{}
}

func watchDirectory(dir string) (*watch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("inotify: %w", err)
	}
	w := &watch{file: os.NewFile(uintptr(fd), "inotify"), changed: make(chan struct{}, 1), done: make(chan struct{})}
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_MODIFY|unix.IN_CREATE|unix.IN_MOVED_TO); err != nil {
		w.file.Close()
		return nil, fmt.Errorf("watching %s: %w", dir, err)
	}
	go w.run()
	return w, nil
}

func (w *watch) run() {
	defer close(w.done)
	buf := make([]byte, 4096)
	for {
		if _, err := w.file.Read(buf); err != nil {
			return
		}
		select {
		case w.changed <- struct{}{}:
		default:
		}
	}
}

func (w *watch) close() {
	w.file.Close()
	<-w.done
}
