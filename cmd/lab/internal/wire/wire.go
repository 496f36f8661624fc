// Package wire is what the lab's two ends say to each other on one stream: a
// command to run, its input and output, and how it ended.
//
// The host sends one [Request], then any of KindInput, KindInputEnd, KindResize
// and KindSignal. The guest sends KindOutput and KindErrors as the command
// writes, and one [Exit] as its last frame. A stream that ends without an Exit
// means that the machine, not the command, is gone.
//
// A stream on which KindPing comes first belongs to the watchdog: each ping is
// answered by a KindPong with the same payload, but only after a thread bound to
// each of the machine's CPUs has run. A machine that answers can be expected to
// finish its work.
package wire

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// Kind says what a frame is.
type Kind byte

// The kinds of frames, and their payloads.
const (
	KindRequest  Kind = 1  // to the guest: Request as JSON
	KindInput    Kind = 2  // to the guest: bytes for the command's stdin or terminal
	KindInputEnd Kind = 3  // to the guest: stdin is at its end; empty
	KindResize   Kind = 4  // to the guest: Size as JSON
	KindSignal   Kind = 5  // to the guest: one byte, the signal's number
	KindOutput   Kind = 6  // to the host: bytes of stdout or of the terminal
	KindErrors   Kind = 7  // to the host: bytes of stderr
	KindExit     Kind = 8  // to the host: Exit as JSON
	KindPing     Kind = 9  // to the guest: anything short
	KindPong     Kind = 10 // to the host: the ping's payload

	// Between "lab" and the keeper of a started machine; never to the guest.
	KindStatus Kind = 11 // a question, empty; or the answer, Status as JSON
	KindStop   Kind = 12 // end the machine; answered by the end of the connection

	kindLast = KindStop
)

const (
	// MaxPayload is the most bytes one frame carries.
	MaxPayload = 1 << 20
	// Chunk is how many bytes of input or output go into one frame.
	Chunk      = 32 << 10
	headerSize = 5
)

// ErrFrame is wrapped by the errors of frames that no version of the lab sends.
var ErrFrame = errors.New("lab protocol: malformed frame")

// Size is a terminal's size in characters.
type Size struct {
	Rows uint16
	Cols uint16
}

// Copy is one --copy: a file or directory of the host that appears in the machine.
type Copy struct {
	Source      string // absolute, on the host
	Destination string // absolute, in the machine
}

// Request is a command to run in the machine, as root.
type Request struct {
	Command     []string // looked up in Environment's PATH; not empty
	Environment []string // NAME=value; all of it
	Directory   string   // "/" is used where it does not exist
	Terminal    *Size    // nil: stdin, stdout and stderr are pipes
	Copies      []Copy
}

// Exit is how a command ended.
type Exit struct {
	// Status is what a shell would report: the command's own, 128+N when signal N
	// killed it, 126 and 127 when it could not be executed or found, 125 when the
	// lab could not do its part.
	Status int
	// Error says why for 125, 126 and 127 of the lab's making.
	Error string `json:",omitempty"`
}

// Status describes a started machine.
type Status struct {
	PID           int       // of its keeper
	Started       time.Time // when it was ready
	CPUs          int
	Memory        int // MiB
	Deterministic bool
	Commands      int // running now
}

// Write sends one frame in a single call of w.Write.
func Write(w io.Writer, kind Kind, payload []byte) error {
	if len(payload) > MaxPayload {
		return fmt.Errorf("%w: %d bytes to send", ErrFrame, len(payload))
	}
	b := make([]byte, headerSize, headerSize+len(payload))
	b[0] = byte(kind)
	binary.BigEndian.PutUint32(b[1:], uint32(len(payload)))
	_, err := w.Write(append(b, payload...))
	return err
}

// WriteJSON sends v as the payload of a frame.
func WriteJSON(w io.Writer, kind Kind, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return Write(w, kind, b)
}

// Read returns the next frame. The error is io.EOF between frames, and
// io.ErrUnexpectedEOF within one.
func Read(r io.Reader) (Kind, []byte, error) {
	var b [headerSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return 0, nil, err
	}
	kind, n := Kind(b[0]), binary.BigEndian.Uint32(b[1:])
	if kind < KindRequest || kind > kindLast || n > MaxPayload {
		return 0, nil, fmt.Errorf("%w: kind %d with %d bytes", ErrFrame, kind, n)
	}
	payload := make([]byte, n)
	if _, err := io.ReadFull(r, payload); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	return kind, payload, nil
}

// ReadRequest decodes and checks a Request's payload.
func ReadRequest(payload []byte) (*Request, error) {
	var r Request
	if err := json.Unmarshal(payload, &r); err != nil {
		return nil, fmt.Errorf("%w: request: %v", ErrFrame, err)
	}
	if len(r.Command) == 0 || r.Command[0] == "" {
		return nil, fmt.Errorf("%w: request without a command", ErrFrame)
	}
	return &r, nil
}
