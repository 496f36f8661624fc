package console

import (
	"sync"

	"github.com/hullvm/hull/virtio"
)

// inputLimit is the number of bytes that are taken ahead of the guest.
const inputLimit = 4 << 10

// input is a ring of bytes on their way to the guest.
type input struct {
	space chan struct{}

	mu      sync.Mutex // guards what follows
	ring    [inputLimit]byte
	head    int
	count   int
	starved bool // a put was cut short
}

// put appends as much of p as fits and returns how much that is.
func (in *input) put(p []byte) int {
	in.mu.Lock()
	defer in.mu.Unlock()
	n := min(len(p), inputLimit-in.count)
	tail := (in.head + in.count) % inputLimit
	copy(in.ring[:], p[copy(in.ring[tail:], p[:n]):n])
	in.count += n
	in.starved = in.starved || n < len(p)
	return n
}

// fill moves as much as there is and fits to dst and returns how much that is.
func (in *input) fill(dst *virtio.Buffers) int {
	in.mu.Lock()
	defer in.mu.Unlock()
	done := 0
	for in.count > 0 && dst.Len() > 0 {
		n := dst.Write(in.ring[in.head:min(in.head+in.count, inputLimit)])
		in.head = (in.head + n) % inputLimit
		in.count -= n
		done += n
	}
	if in.starved && in.count <= inputLimit/2 {
		in.starved = false
		select {
		case in.space <- struct{}{}:
		default:
		}
	}
	return done
}
