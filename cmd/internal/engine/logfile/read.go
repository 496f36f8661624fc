package logfile

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

const (
	// blockSize is how much is read at once, in bytes.
	blockSize = 64 << 10
	// MaxLine is the length of the longest line that is read, in bytes; a longer one is left out.
	MaxLine = 1 << 20
	// mostFiles bounds the search for older files, which are all open while a log is read.
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
//
// What is written meanwhile is read with Follow only. None of the lines that there are at the beginning is lost to
// a rotation; who follows slower than lines are written and files go misses those that have gone.
func Read(ctx context.Context, path string, o ReadOptions, emit func(line []byte) error) error {
	r := &reader{ctx: ctx, path: path, emit: emit, growing: o.Follow != nil}
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

// reader is at a place in a log.
type reader struct {
	ctx     context.Context
	path    string
	emit    func([]byte) error
	growing bool // lines that come later are wanted

	files []*openFile   // the oldest first, which is being read; empty: there is no log yet
	in    *bufio.Reader // of the first; nil: not begun
	part  []byte        // of a line whose end is not written yet, or that is longer than the buffer
	long  bool          // what part was the beginning of is too long
}

// openFile is one of a log's files.
type openFile struct {
	*os.File
	info os.FileInfo // when it was opened
}

func (r *reader) close() { closeFiles(r.files...) }

// begin opens all that there is, and goes to the first line that is wanted.
func (r *reader) begin(tail int) error {
	var err error
	if r.files, err = r.newer(nil); err != nil || tail < 0 {
		return err
	}
	for i := len(r.files) - 1; i >= 0; i-- {
		f := r.files[i]
		at, found, err := lastLines(f.File, f.info.Size(), tail)
		if err == nil {
			_, err = f.Seek(at, io.SeekStart)
		}
		if err != nil {
			return fmt.Errorf("reading log %s: %w", f.Name(), err)
		}
		if tail -= found; tail <= 0 {
			closeFiles(r.files[:i]...)
			r.files = r.files[i:]
			break
		}
	}
	return nil
}

// newer opens the files that have come after this one, the oldest first; nil: all. If this one is not kept any more it
// is all as well.
//
// They may get higher numbers at any time: what is found at a number is older than the file before it only if that is
// at its own number still.
func (r *reader) newer(than *openFile) (files []*openFile, err error) {
	var last *openFile
	for i := 0; i < mostFiles; i++ {
		f, err := openNumbered(r.path, i)
		if err != nil {
			closeFiles(files...)
			return nil, err
		}
		if last != nil && !last.isAt(r.path, i-1) {
			closeFiles(f)
			var kept bool
			if i, kept = last.find(r.path, i); !kept {
				break // and neither are those before it
			}
			continue
		}
		if f == nil || f.same(than) {
			closeFiles(f)
			break
		}
		if f.same(last) { // which has both numbers while it gets the next
			closeFiles(f)
			continue
		}
		files, last = append(files, f), f
	}
	slices.Reverse(files)
	return files, nil
}

// openNumbered opens the i-th file; nil: there is none.
func openNumbered(path string, i int) (*openFile, error) {
	f, err := os.Open(numbered(path, i))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading log: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("reading log: %w", err)
	}
	return &openFile{f, info}, nil
}

func (f *openFile) same(other *openFile) bool { return other != nil && os.SameFile(f.info, other.info) }

// isAt tells whether the file has the number i.
func (f *openFile) isAt(path string, i int) bool {
	info, err := os.Stat(numbered(path, i))
	return err == nil && os.SameFile(f.info, info)
}

// find looks for the file's number, i or higher; it is not kept any more if there is none.
func (f *openFile) find(path string, i int) (int, bool) {
	for ; i < mostFiles; i++ {
		info, err := os.Stat(numbered(path, i))
		switch {
		case err != nil:
			return 0, false
		case os.SameFile(f.info, info):
			return i, true
		}
	}
	return 0, false
}

func closeFiles(files ...*openFile) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}

// lastLines finds where the last n lines of the first size bytes of f begin, and how many there are.
func lastLines(f *os.File, size int64, n int) (at int64, found int, err error) {
	end, err := wholeLines(f, size)
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
	for {
		var last *openFile
		if len(r.files) > 0 {
			last = r.files[0]
			if err := r.use(last); err != nil {
				return err
			}
			if err := r.lines(); err != nil {
				return err
			}
		}
		switch {
		case len(r.files) > 1:
			last.Close()
			r.files, r.in = r.files[1:], nil
		case !r.growing:
			return nil
		default:
			newer, err := r.newer(last)
			if err != nil || len(newer) == 0 {
				return err
			}
			r.files = append(r.files, newer...) // and once more the last, which may have grown until it got a successor
		}
	}
}

// use reads from a file, where it is, if it is not read from already.
func (r *reader) use(f *openFile) error {
	if r.in != nil {
		return nil
	}
	var in io.Reader = f
	if !r.growing {
		at, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			return fmt.Errorf("reading log: %w", err)
		}
		in = io.LimitReader(f, f.info.Size()-at)
	}
	r.in, r.part, r.long = bufio.NewReaderSize(in, blockSize), nil, false
	return nil
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
