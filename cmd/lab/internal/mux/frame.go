package mux

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Kinds of frames.
const (
	kindOpen   = 1 // a new stream; no payload
	kindData   = 2 // bytes of a stream, 1 … maxPayload
	kindWindow = 3 // payload: uint32, so many more bytes may be sent
	kindEnd    = 4 // the sender will send no more data on this stream; no payload
	kindReset  = 5 // the sender has forgotten this stream: neither reads nor writes it; no payload
)

const (
	headerSize = 9
	// maxPayload keeps a whole data frame within 32 KiB, the most that Linux's
	// virtio-serial driver passes to the device at once.
	maxPayload = 32<<10 - headerSize
	// window is how many bytes of one stream may be on their way or waiting for a
	// reader. It is what a stalled reader costs in memory.
	window = 512 << 10
)

// ErrProtocol is wrapped by the error of a session whose peer broke the rules: a
// session cannot go on after it, because nothing says where the next frame starts.
var ErrProtocol = errors.New("lab channel: protocol violated")

// header is the fixed part of a frame:
//
//	byte   kind
//	uint32 stream, big-endian
//	uint32 length of the payload, big-endian
type header struct {
	kind   byte
	stream uint32
	length uint32
}

func (h header) append(b []byte) []byte {
	b = append(b, h.kind)
	b = binary.BigEndian.AppendUint32(b, h.stream)
	return binary.BigEndian.AppendUint32(b, h.length)
}

// readHeader reads and checks a header. The error is io.EOF between frames and
// io.ErrUnexpectedEOF within one.
func readHeader(r io.Reader) (header, error) {
	var b [headerSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return header{}, err
	}
	h := header{kind: b[0], stream: binary.BigEndian.Uint32(b[1:]), length: binary.BigEndian.Uint32(b[5:])}
	ok := false
	switch h.kind {
	case kindOpen, kindEnd, kindReset:
		ok = h.length == 0
	case kindData:
		ok = h.length > 0 && h.length <= maxPayload
	case kindWindow:
		ok = h.length == 4
	}
	if !ok {
		return header{}, fmt.Errorf("%w: frame of kind %d with %d bytes", ErrProtocol, h.kind, h.length)
	}
	return h, nil
}
