package engine

import (
	"io"
	"os"
	"sync"
	"time"

	"github.com/hullvm/hull/cmd/internal/engine/logfile"
	"github.com/hullvm/hull/guestinit/proto"
)

// hub is the middle of a container's standard streams: what the main process writes goes to the log and to everybody
// who is attached, what they write goes to the process.
type hub struct {
	log *logfile.Streams // nil: none is kept

	mu      sync.Mutex
	clients map[*muxConn]*attachRequest
	stdin   *os.File // of the life that goes on; nil: there is none, or it has been closed
	ending  bool     // the workload has ended
}

func newHub(log *logfile.Streams) *hub {
	return &hub{log: log, clients: make(map[*muxConn]*attachRequest)}
}

// hubPatience is how long somebody who is attached may keep the end of a container waiting by not reading.
const hubPatience = 10 * time.Second

// add attaches a client. It is let go when a write to it fails.
func (h *hub) add(c *muxConn, want *attachRequest) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clients[c] = want
	if h.ending {
		c.conn.SetWriteDeadline(time.Now().Add(hubPatience))
	}
}

func (h *hub) remove(c *muxConn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.clients, c)
	c.conn.Close()
}

// begin takes the input of a new life.
func (h *hub) begin(stdin *os.File) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stdin, h.ending = stdin, false
}

// workloadEnded says that from now on nobody may keep the container waiting.
func (h *hub) workloadEnded() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ending = true
	for c := range h.clients {
		c.conn.SetWriteDeadline(time.Now().Add(hubPatience))
	}
	h.closeInputLocked()
}

// end lets go of everybody: all output of this life has come.
func (h *hub) end() {
	for _, stream := range []string{proto.StreamStdout, proto.StreamStderr} {
		if h.log != nil {
			h.log.End(stream)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.clients {
		c.conn.Close()
	}
	clear(h.clients)
	h.closeInputLocked()
}

// lost tells how many entries of the log could not be kept, and why.
func (h *hub) lost() (int, error) {
	if h.log == nil {
		return 0, nil
	}
	return h.log.Lost()
}

// input passes on what somebody attached has written.
func (h *hub) input(p []byte) {
	h.mu.Lock()
	stdin := h.stdin
	h.mu.Unlock()
	if stdin != nil {
		_, _ = stdin.Write(p) // it fails when the workload has ended or wants no more
	}
}

func (h *hub) closeInput() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closeInputLocked()
}

func (h *hub) closeInputLocked() {
	if h.stdin != nil {
		h.stdin.Close()
		h.stdin = nil
	}
}

// writer is where one output stream goes: into the hub, and to the front end that runs the container, if it wants it. Only
// that one's failure is the workload's.
func (h *hub) writer(kind byte, front io.Writer) io.Writer {
	name := proto.StreamStdout
	if kind == muxStderr {
		name = proto.StreamStderr
	}
	return hubWriter{h, kind, name, front}
}

type hubWriter struct {
	hub   *hub
	kind  byte
	name  string
	front io.Writer
}

func (w hubWriter) Write(p []byte) (int, error) {
	if w.hub.log != nil {
		w.hub.log.Write(w.name, p)
	}
	for _, c := range w.hub.readers(w.kind) {
		if err := c.send(w.kind, p); err != nil {
			w.hub.remove(c)
		}
	}
	if w.front == nil {
		return len(p), nil
	}
	return w.front.Write(p)
}

// readers are those who want the stream.
func (h *hub) readers(kind byte) []*muxConn {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.clients) == 0 {
		return nil
	}
	var list []*muxConn
	for c, want := range h.clients {
		if kind == muxStdout && want.Stdout || kind == muxStderr && want.Stderr {
			list = append(list, c)
		}
	}
	return list
}

// serve takes the input of an attached client to its end.
func (h *hub) serve(c *muxConn, want *attachRequest, once bool) {
	defer h.remove(c)
	buf := make([]byte, pumpBuffer)
	for {
		kind, p, err := c.receive(buf)
		switch {
		case err != nil:
			return
		case kind != muxStdin || !want.Stdin:
			continue
		case len(p) > 0:
			h.input(p)
		case once:
			h.closeInput()
		}
	}
}
