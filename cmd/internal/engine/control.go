package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/guestinit/proto"
	"github.com/hullvm/hull/vmm"
)

// controlName is the socket in a container's runtime directory on which its supervisor takes requests: one connection
// for each, one frame of package proto for the request and one for the answer. Whoever may open it is this user.
const controlName = "control"

// What can be asked of a supervisor, as in request.Op.
const (
	opAttach  = "attach"  // after the answer the connection is a muxConn
	opWait    = "wait"    // answered when the container has ended; with Next, when this life has
	opSignal  = "signal"  // send Signal to the main process
	opResize  = "resize"  // the main process's terminal has now Rows and Cols
	opStop    = "stop"    // end it: Signal, and SIGKILL after Timeout
	opEnd     = "end"     // end it at once, by force
	opPause   = "pause"   // stop all of it where it is
	opUnpause = "unpause" // go on
	opChange  = "change"  // make Change

	opCheckpoint = "checkpoint" // save it
	opMetrics    = "metrics"    // answered with what its VM has counted
)

// request is what is asked of a supervisor.
type request struct {
	Op      string         `json:"op"`
	Attach  *attachRequest `json:"attach,omitempty"`
	Signal  int            `json:"signal,omitempty"`
	Rows    uint16         `json:"rows,omitempty"`
	Cols    uint16         `json:"cols,omitempty"`
	Timeout time.Duration  `json:"timeout,omitempty"`
	Next    bool           `json:"next,omitempty"`
	Host    bool           `json:"host,omitempty"` // it is stopped because the host goes down
	Change  *Change        `json:"change,omitempty"`

	Checkpoint *checkpointRequest `json:"checkpoint,omitempty"`
}

// attachRequest says which streams somebody wants who attaches.
type attachRequest struct {
	Stdin  bool `json:"stdin,omitempty"`
	Stdout bool `json:"stdout,omitempty"`
	Stderr bool `json:"stderr,omitempty"`
}

// answer is a supervisor's.
type answer struct {
	Error *Failure `json:"error,omitempty"` // nil: it went well
	Exit  *Exit    `json:"exit,omitempty"`  // to opWait; nil: the container never ran

	Metrics *vmm.Metrics `json:"metrics,omitempty"` // to opMetrics
}

// Failure is an error that another process of hull's has told.
type Failure struct {
	Message string `json:"message"`
	Code    int    `json:"code"` // exit status for a command that fails with it
	// NotRunning says that it is ErrNotRunning.
	NotRunning bool `json:"not_running,omitempty"`
}

func (f *Failure) Error() string { return f.Message }

// Is makes a Failure the error that it was.
func (f *Failure) Is(target error) bool { return f.NotRunning && target == ErrNotRunning }

// notRunning tells whether err means that there is nothing to ask any more.
func notRunning(err error) bool {
	var refused *proto.Error
	return errors.Is(err, ErrNotRunning) || errors.Is(err, errVMGone) || errors.Is(err, proto.ErrClosed) || errors.As(err, &refused) && refused.Code == proto.CodeNoProcess
}

// failure makes err fit to be told to another process; nil for nil.
func failure(err error) *Failure {
	if err == nil {
		return nil
	}
	return &Failure{Message: err.Error(), Code: ExitCode(err), NotRunning: notRunning(err)}
}

// dialControl connects to a container's supervisor and asks.
func (e *Engine) dialControl(ctx context.Context, id string, r request) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", filepath.Join(e.store.runDir(id), controlName))
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ECONNREFUSED):
		return nil, fmt.Errorf("container %s %w", id, ErrNotRunning)
	case err != nil:
		return nil, fmt.Errorf("container %s: connecting to its supervisor: %w", ShortID(id), err)
	}
	if err := proto.WriteFrame(conn, r); err != nil {
		conn.Close()
		return nil, fmt.Errorf("container %s: asking its supervisor: %w", ShortID(id), err)
	}
	return conn, nil
}

// ask asks a container's supervisor and waits for the answer.
func (e *Engine) ask(ctx context.Context, id string, r request) (answer, error) {
	conn, err := e.dialControl(ctx, id, r)
	if err != nil {
		return answer{}, err
	}
	defer conn.Close()
	return readAnswer(ctx, id, conn)
}

// readAnswer waits for a supervisor's answer. One that went away without a word has ended with its container.
func readAnswer(ctx context.Context, id string, conn net.Conn) (answer, error) {
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	var a answer
	err := proto.ReadFrame(conn, &a)
	switch {
	case err != nil && ctx.Err() != nil:
		return answer{}, context.Cause(ctx)
	case err != nil:
		return answer{}, fmt.Errorf("container %s %w", id, ErrNotRunning)
	case a.Error != nil:
		return answer{}, a.Error
	}
	return a, nil
}

// controlPatience is how long somebody who connects may take to say what they want.
const controlPatience = 10 * time.Second

// httpGet begins a request by HTTP. As a frame's length it would be more than one may have.
const httpGet = "GET "

// serve takes requests until the listener is closed.
func (s *supervisor) serve() {
	for {
		conn, err := s.listener.AcceptUnix()
		if err != nil {
			return
		}
		s.serving.Go(func() { s.handle(conn) })
	}
}

// handle answers one request.
func (s *supervisor) handle(conn *net.UnixConn) {
	defer conn.Close()
	forget := context.AfterFunc(s.ctx, func() { conn.Close() })
	defer forget()
	var r request
	conn.SetReadDeadline(time.Now().Add(controlPatience))
	first := make([]byte, len(httpGet))
	if _, err := io.ReadFull(conn, first); err != nil {
		return
	}
	rest := io.MultiReader(bytes.NewReader(first), conn)
	if string(first) == httpGet {
		s.serveHTTP(conn, rest)
		return
	}
	if err := proto.ReadFrame(rest, &r); err != nil {
		return
	}
	conn.SetReadDeadline(time.Time{})
	if r.Op == opAttach {
		s.attach(conn, r.Attach)
		return
	}
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	if r.Op == opWait || r.Op == opStop || r.Op == opEnd { // they take long, and whoever asks may go away
		go func() {
			defer cancel()
			_, _ = conn.Read(make([]byte, 1))
		}()
	}
	a, err := s.carryOut(ctx, r)
	a.Error = failure(err)
	if err != nil {
		s.log.Debug("request failed", "op", r.Op, "error", err)
	} else {
		s.log.Debug("request", "op", r.Op)
	}
	_ = proto.WriteFrame(conn, a) // if it fails there is nobody to tell
}

func (s *supervisor) carryOut(ctx context.Context, r request) (a answer, err error) {
	switch r.Op {
	case opWait:
		a.Exit, err = s.wait(ctx, r.Next)
	case opSignal:
		err = s.signal(ctx, unix.Signal(r.Signal))
	case opResize:
		err = s.resize(ctx, r.Rows, r.Cols)
	case opStop:
		err = s.stop(ctx, unix.Signal(r.Signal), r.Timeout, r.Host)
	case opEnd:
		err = s.end(ctx)
	case opPause:
		err = s.pause(ctx)
	case opUnpause:
		err = s.unpause(ctx)
	case opChange:
		err = s.change(ctx, r.Change)
	case opCheckpoint:
		if r.Checkpoint == nil {
			err = errors.New("checkpoint: nobody says where")
		} else {
			err = s.checkpoint(ctx, r.Checkpoint)
		}
	case opMetrics:
		a.Metrics, err = s.metrics(ctx)
	default:
		err = fmt.Errorf("request %q: %w", r.Op, errors.ErrUnsupported)
	}
	return a, err
}

// attach makes a connection part of the container's streams.
func (s *supervisor) attach(conn *net.UnixConn, want *attachRequest) {
	if want == nil {
		return
	}
	m := newMuxConn(conn)
	// Registered first: whoever has the answer misses nothing from then on.
	a := answer{}
	m.mu.Lock()
	s.hub.add(m, want)
	s.emit("attach", nil) // before what the user then types can end the container
	err := proto.WriteFrame(conn, a)
	m.mu.Unlock()
	if err != nil {
		s.hub.remove(m)
		return
	}
	s.hub.serve(m, want, s.latest().Config.StdinOnce)
}
