// Package api is Firecracker's HTTP API on a Unix socket: one machine of package vmm, configured, started and looked after by
// requests, so that programs that drive Firecracker drive hull without being changed. `hull vmm` is this package as a command.
//
// The API's own description says what a request may be and what comes of it; this package keeps to it in paths, bodies, status
// codes and messages. What it describes and hull does not have is refused with the status 400 and a sentence, never ignored: CPU
// templates by name, simultaneous multithreading, vhost-user disks, hotplugged memory, free page hinting. One thing is
// taken and makes no difference: a disk's io_engine, for the engine is hull's own, which waits for no request.
//
// Read in this order: api.go (a Server and its machine), http.go (from a connection to a request), routes.go (which there are),
// decode.go and types.go (bodies), then a file for each thing that can be configured: boot.go, drives.go, nics.go, devices.go,
// balloon.go, cpu.go, mmds.go; start.go puts a machine together from them, snapshot.go saves it. logger.go and metrics.go tell about it.
//
// # What may be tried
//
// Whoever may open the socket may do anything with the machine, and read and write this process's files. Even so nothing that comes
// in over it ends in a panic, a hang, or memory without bound: bodies, headers, connections and the time that a request takes to
// arrive are limited. Requests are carried out one at a time, in the order in which they came.
package api

import (
	"cmp"
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"github.com/hullvm/hull/vmm"
	"github.com/hullvm/hull/vmm/network/mmds"
)

const (
	// Version is that of the API: Firecracker's, with which clients choose what to ask for.
	Version = "1.17.0"
	// DefaultID is a machine's ID unless it is given one, and DefaultMaxBody the largest body of a request, in bytes.
	DefaultID      = "anonymous-instance"
	DefaultMaxBody = 51200

	appName = "Firecracker" // clients look for it
)

// Config says how to make a Server. The zero value is good.
type Config struct {
	ID string // of the machine; "" is DefaultID
	// MaxBody is the largest body of a request, and of the metadata store, in bytes; 0 is DefaultMaxBody.
	MaxBody int
	// MaxMetadata is the most that the metadata store takes, in bytes of JSON; 0 is MaxBody.
	MaxMetadata int
	// Stdin and Stdout are the guest's serial console. Nil: nothing is read, or what is written is kept for error reports only.
	// They stay the caller's.
	Stdin, Stdout *os.File
	// Change, if not nil, has the last word on the machine's configuration, and Options are passed to vmm.New.
	Change  func(*vmm.Config)
	Options []vmm.Option
	// Confine, if not nil, is called when a machine is made and has not run yet: from then on this process needs no more than
	// a running machine does, and files that clients name.
	Confine func() error
}

// Server is an API and its machine. Its methods may be called from any goroutine.
type Server struct {
	cfg     Config
	log     logger
	meter   meter
	started time.Time

	mu        sync.Mutex // held for as long as a request is carried out
	resources resources
	machine   *vmm.Machine // nil before the start
	paused    bool
	fresh     bool // paused since it was restored
	noBase    bool // the last snapshot failed: the next cannot be differential
	closed    bool
	poll      context.CancelFunc // ends the polling of the balloon; nil without
	stats     map[string]uint64  // what the guest has reported last

	meta     metadata
	services []*mmds.Service // before network cards
	ended    chan struct{}   // closed when the machine has ended
	quit     chan struct{}   // closed by Close
}

// New makes a server without a machine. Close must be called.
func New(cfg Config) *Server {
	cfg.ID = cmp.Or(cfg.ID, DefaultID)
	cfg.MaxBody = cmp.Or(cfg.MaxBody, DefaultMaxBody)
	cfg.MaxMetadata = cmp.Or(cfg.MaxMetadata, cfg.MaxBody)
	s := &Server{cfg: cfg, started: time.Now(), ended: make(chan struct{}), quit: make(chan struct{})}
	s.resources.machine = defaultMachine
	s.meta.init(cfg.MaxMetadata)
	s.log.id = cfg.ID
	return s
}

// Ended is closed when the guest has run and ended.
func (s *Server) Ended() <-chan struct{} { return s.ended }

// Result is how the guest ended, once Ended is closed.
func (s *Server) Result() vmm.Result {
	<-s.ended
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.machine.Wait()
}

// Run answers requests on l, which it closes, until the guest has ended, or ctx does. The error is why requests cannot be answered any
// more, or ctx's.
func (s *Server) Run(ctx context.Context, l net.Listener) (vmm.Result, error) {
	failed := make(chan error, 1)
	h := s.httpServer()
	go func() { failed <- h.Serve(newLimited(l)) }()
	defer h.Close()
	select {
	case <-s.ended:
		// A request that was about it is answered first.
		shutdown, cancel := context.WithTimeout(context.Background(), shutdownPatience)
		defer cancel()
		_ = h.Shutdown(shutdown) // who does not take an answer in time does not get it
		return s.Result(), nil
	case err := <-failed:
		return vmm.Result{}, err
	case <-ctx.Done():
		return vmm.Result{}, ctx.Err()
	}
}

// Close ends the guest if it still runs, and gives everything back.
func (s *Server) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	close(s.quit)
	if s.poll != nil {
		s.poll()
	}
	var errs []error
	if s.machine != nil {
		_ = s.flushMetrics() // the last
		errs = append(errs, s.machine.Close())
	}
	errs = append(errs, s.closeServices())
	for _, n := range s.resources.nics {
		errs = append(errs, n.close())
	}
	return errors.Join(append(errs, s.meter.out.close(), s.log.out.close())...)
}

// closeServices ends what is before network cards, which nobody may use any more. mu is held.
func (s *Server) closeServices() error {
	var errs []error
	for _, svc := range s.services {
		errs = append(errs, svc.Close())
	}
	s.services = nil
	return errors.Join(errs...)
}

// phase is when an operation is possible.
type phase int

const (
	always phase = iota
	preBoot
	postBoot
)

// allowed says why an operation is not possible now. mu is held.
func (s *Server) allowed(when phase) error {
	switch {
	case s.closed:
		return refuse("The microVM has ended.")
	case when == preBoot && s.machine != nil:
		return errPostBoot
	case when == postBoot && s.machine == nil:
		return errPreBoot
	}
	return nil
}

// do decodes a body and carries out f on it, alone and when it is possible.
func do[T any](s *Server, body []byte, when phase, f func(*T) (any, error)) (any, error) {
	var v T
	if err := decode(body, &v); err != nil {
		return nil, err
	}
	return s.locked(when, func() (any, error) { return f(&v) })
}

func (s *Server) locked(when phase, f func() (any, error)) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.allowed(when); err != nil {
		return nil, err
	}
	return f()
}

// none is the end of an operation that has no answer but that it was done.
func none(err error) (any, error) { return nil, err }

func (s *Server) instanceInfo() (any, error) {
	state := "Not started"
	switch {
	case s.paused:
		state = "Paused"
	case s.machine != nil:
		state = "Running"
	}
	return instanceInfo{ID: s.cfg.ID, State: state, VMMVersion: Version, AppName: appName}, nil
}
