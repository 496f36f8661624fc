package proto

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// MaxFrame is the largest payload of a frame, in bytes.
const MaxFrame = 4 << 20

// ErrFrameSize is wrapped by errors about a frame that is empty or larger than [MaxFrame].
var ErrFrameSize = errors.New("frame size out of range")

// readChunk is how much is allocated ahead of the bytes that really came: a peer
// that announces much and sends little costs little.
const readChunk = 64 << 10

// WriteFrame writes v as one frame: the length of its JSON as a big-endian
// uint32, then the JSON. It makes one call of Write.
func WriteFrame(w io.Writer, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encoding a frame: %w", err)
	}
	if len(body) == 0 || len(body) > MaxFrame {
		return fmt.Errorf("writing a frame of %d bytes: %w (1 to %d)", len(body), ErrFrameSize, MaxFrame)
	}
	frame := make([]byte, 4, 4+len(body))
	binary.BigEndian.PutUint32(frame, uint32(len(body)))
	if _, err := w.Write(append(frame, body...)); err != nil {
		return fmt.Errorf("writing a frame: %w", err)
	}
	return nil
}

// ReadFrame reads one frame into v. It takes not one byte more from r than the frame has. The error is
// io.EOF, unwrapped, when r ends before the frame's first byte, and wraps
// io.ErrUnexpectedEOF when it ends within.
func ReadFrame(r io.Reader, v any) error {
	body, err := readBody(r)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("decoding a frame: %w", err)
	}
	return nil
}

func readBody(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		if err == io.EOF {
			return nil, io.EOF
		}
		return nil, fmt.Errorf("reading a frame's length: %w", err)
	}
	size := binary.BigEndian.Uint32(head[:])
	if size == 0 || size > MaxFrame {
		return nil, fmt.Errorf("reading a frame of %d bytes: %w (1 to %d)", size, ErrFrameSize, MaxFrame)
	}
	var body []byte
	for left := int(size); left > 0; {
		n := min(left, readChunk)
		start := len(body)
		body = append(body, make([]byte, n)...)
		if _, err := io.ReadFull(r, body[start:]); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, fmt.Errorf("reading a frame of %d bytes: %w", size, err)
		}
		left -= n
	}
	return body, nil
}
