package vmm

import (
	"bytes"
	"sync"
)

// tail keeps the last ConsoleTail bytes written to it.
type tail struct {
	mu   sync.Mutex
	buf  []byte
	next int  // where the next byte goes
	full bool // buf has wrapped around
}

func newTail(size int) *tail { return &tail{buf: make([]byte, size)} }

func (t *tail) Write(p []byte) (int, error) {
	n := len(p)
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(p) > len(t.buf) {
		p = p[len(p)-len(t.buf):]
	}
	for len(p) > 0 {
		k := copy(t.buf[t.next:], p)
		p = p[k:]
		if t.next += k; t.next == len(t.buf) {
			t.next, t.full = 0, true
		}
	}
	return n, nil
}

// Lines returns the last n whole lines, or fewer, without carriage returns.
func (t *tail) Lines(n int) string {
	t.mu.Lock()
	var all []byte
	if t.full {
		all = append(all, t.buf[t.next:]...)
	}
	all = append(all, t.buf[:t.next]...)
	t.mu.Unlock()
	all = bytes.TrimRight(bytes.ReplaceAll(all, []byte("\r"), nil), "\n")
	start := len(all)
	for ; n > 0; n-- {
		i := bytes.LastIndexByte(all[:start], '\n')
		if i < 0 {
			start = 0
			break
		}
		start = i
		if n == 1 {
			start++
		}
	}
	return string(bytes.ToValidUTF8(all[start:], []byte("?")))
}
