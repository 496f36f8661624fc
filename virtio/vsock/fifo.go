package vsock

import "github.com/hullvm/hull/virtio"

// chunkSize is what buffers grow by, in bytes.
const chunkSize = 16 << 10

type chunk [chunkSize]byte

// chunks keeps a few chunks that are not in use.
type chunks struct{ spare []*chunk }

// maxSpare bounds the memory that an idle device holds on to: 256 KiB.
const maxSpare = 16

func (p *chunks) get() *chunk {
	if n := len(p.spare); n > 0 {
		c := p.spare[n-1]
		p.spare = p.spare[:n-1]
		return c
	}
	return new(chunk)
}

func (p *chunks) put(c *chunk) {
	if len(p.spare) < maxSpare {
		p.spare = append(p.spare, c)
	}
}

// fifo holds bytes that a host program has not taken yet. It has memory only while it holds some.
type fifo struct {
	pool   *chunks
	chunks []*chunk
	start  int // of the first byte in the first chunk
	n      int // bytes
}

// fill appends n bytes off the front of src, which has as many.
func (f *fifo) fill(src *virtio.Buffers, n int) {
	for n > 0 {
		end := f.start + f.n
		if end == len(f.chunks)*chunkSize {
			f.chunks = append(f.chunks, f.pool.get())
		}
		c, at := f.chunks[end/chunkSize], end%chunkSize
		k := src.Read(c[at:min(chunkSize, at+n)])
		f.n += k
		n -= k
	}
}

// pieces adds what f holds to v, as far as it fits.
func (f *fifo) pieces(v *vector) {
	off, left := f.start, f.n
	for _, c := range f.chunks {
		k := min(left, chunkSize-off)
		if !v.add(c[off : off+k]) {
			return
		}
		off, left = 0, left-k
	}
}

// drop removes n bytes, no more than there are, from the front.
func (f *fifo) drop(n int) {
	f.start += n
	f.n -= n
	gone := f.start / chunkSize
	if f.n == 0 {
		gone = len(f.chunks)
		f.start = 0
	} else {
		f.start %= chunkSize
	}
	for _, c := range f.chunks[:gone] {
		f.pool.put(c)
	}
	kept := copy(f.chunks, f.chunks[gone:])
	clear(f.chunks[kept:])
	f.chunks = f.chunks[:kept]
}
