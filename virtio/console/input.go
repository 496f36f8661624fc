package console

import (
	"bytes"
	"sync"

	"github.com/hullvm/hull/virtio"
)

const (
	// inputLimit is the number of bytes that are taken ahead of the guest.
	inputLimit = 4 << 10
	// restoredLimit bounds the bytes that a snapshot keeps of it: what is restored, and what was typed before that.
	restoredLimit = 2 * inputLimit
)

// input is a ring of bytes on their way to the guest.
type input struct {
	space chan struct{}

	mu      sync.Mutex // guards what follows
	ring    [inputLimit]byte
	head    int
	count   int
	starved bool // a put was cut short

	restored []byte // comes before the ring, in a buffer of its own
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
	if len(in.restored) > 0 {
		n := dst.Write(in.restored)
		in.restored = in.restored[n:]
		return n
	}
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

// save appends what the guest has not got yet to p: no more than restoredLimit bytes.
func (in *input) save(p []byte) []byte {
	in.mu.Lock()
	defer in.mu.Unlock()
	first := in.ring[in.head:min(in.head+in.count, inputLimit)]
	all := append(append(append(p, in.restored...), first...), in.ring[:in.count-len(first)]...)
	return all[:min(len(all), len(p)+restoredLimit)]
}

// restore has the guest get p, which was typed at another host, before all that is typed at this one.
func (in *input) restore(p []byte) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.restored = bytes.Clone(p)
}
