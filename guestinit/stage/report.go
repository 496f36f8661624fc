package stage

import (
	"encoding/json"
	"errors"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/guestinit/proto"
)

// The child sends packets of JSON, each of them a message. After the one that
// says "about to execute", the end of the socket means success.
type message struct {
	Terminal bool         `json:"terminal,omitempty"` // a descriptor of the terminal's master comes with it
	Execute  bool         `json:"execute,omitempty"`  // execve is next
	Error    *proto.Error `json:"error,omitempty"`    // the child has failed
}

// maxMessage is the largest packet, in bytes; a longer error message is cut.
const maxMessage = 16 << 10

// send sends a message, and a descriptor with it if fd is not negative.
func send(m message, fd int) error {
	raw, err := json.Marshal(m)
	if err != nil {
		return err
	}
	var rights []byte
	if fd >= 0 {
		rights = unix.UnixRights(fd)
	}
	return unix.Sendmsg(fdReport, raw, rights, nil, 0)
}

// report tells the agent of a failure.
func report(err error) {
	var e *proto.Error
	if !errors.As(err, &e) {
		e = &proto.Error{Code: proto.CodeIO}
	}
	out := proto.Error{Code: e.Code, Message: err.Error()}
	const most = maxMessage / 8 // JSON may make six bytes of one
	if len(out.Message) > most {
		out.Message = out.Message[:most] + " …"
	}
	// If this fails the agent sees a child that ended without a word, and says so.
	_ = send(message{Error: &out}, -1)
}
