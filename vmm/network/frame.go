package network

import "golang.org/x/sys/unix"

// headerSize is the number of bytes of virtio-net's header before each frame (VIRTIO 1.2, 5.1.6).
const headerSize = 12

// maxFrame is the longest frame that is expected, in bytes.
const maxFrame = 65535 + 18

// outbox puts frames of the guest together for one system call.
type outbox struct {
	v vector
	// tail takes the end of a frame in more pieces than there may be vectors: made when there is one.
	tail []byte
}

// fill makes header and frame the vector.
func (o *outbox) fill(header *[headerSize]byte, frame [][]byte) {
	o.v.reset()
	o.v.add(header[:])
	direct := frame
	if len(frame) > maxVector-1 {
		direct = frame[:maxVector-2]
	}
	for _, p := range direct {
		o.v.add(p)
	}
	if len(direct) == len(frame) {
		return
	}
	o.tail = o.tail[:0]
	for _, p := range frame[len(direct):] {
		o.tail = append(o.tail, p...)
	}
	o.v.add(o.tail)
}

// inbox reads frames for the guest straight into its memory. What is longer than the guest has room for spills into
// a buffer of its own, and stays the next frame: nobody can be asked for a frame's length without taking it.
type inbox struct {
	v      vector
	spill  []byte // maxFrame bytes, touched only when a frame spills
	held   int    // length of the frame in spill, or 0
	header [headerSize]byte
}

// drop throws the frame away that spilled, and reports whether there was one.
func (i *inbox) drop() bool {
	had := i.held > 0
	i.held = 0
	return had
}

// receive is Receive of virtio-net's Backend. read takes one message, header and frame, into the vector, and returns its
// length, which may be more than fitted.
func (i *inbox) receive(header *[headerSize]byte, frame [][]byte, read func(*vector) (int, unix.Errno)) (int, unix.Errno) {
	room := 0
	for _, p := range frame {
		room += len(p)
	}
	if i.held > 0 {
		n := i.held
		if n <= room {
			*header = i.header
			scatter(frame, i.spill[:n])
			i.held = 0
		}
		return n, 0
	}
	if i.spill == nil {
		i.spill = make([]byte, maxFrame)
	}
	direct := frame[:min(len(frame), maxVector-2)]
	fits := 0
	for {
		i.v.reset()
		i.v.add(header[:])
		fits = 0
		for _, p := range direct {
			i.v.add(p)
			fits += len(p)
		}
		i.v.add(i.spill)
		n, errno := read(&i.v)
		i.v.reset()
		if errno != 0 || n == 0 {
			return 0, errno
		}
		n -= headerSize
		switch {
		case n <= 0 || n > fits+len(i.spill):
			continue // not a frame
		case n <= fits:
			return n, 0
		case n <= room:
			scatter(frame[len(direct):], i.spill[:n-fits])
			return n, 0
		case n > len(i.spill):
			continue // longer than any frame
		}
		copy(i.spill[fits:n], i.spill[:n-fits])
		rest := i.spill[:fits]
		for _, p := range direct {
			rest = rest[copy(rest, p):]
		}
		i.held, i.header = n, *header
		return n, 0
	}
}

// scatter copies b to the front of the pieces, which have room for it.
func scatter(pieces [][]byte, b []byte) {
	for _, p := range pieces {
		b = b[copy(p, b):]
	}
}
