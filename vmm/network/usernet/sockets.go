package usernet

import (
	"context"
	"net"
	"sync"
	"time"
)

// sockets is what a network has open on this host: counted and bounded, and closed together.
type sockets struct {
	ctx    context.Context
	cancel context.CancelFunc
	group  sync.WaitGroup
	dialer net.Dialer
	guest  guest

	connections slots
	flows       slots
	resolvers   resolvers
	names       Names
	internal    bool
	report      func(error) // UserConfig.Failed

	mu        sync.Mutex // of what follows
	closed    bool
	closers   map[uint64]func() // sockets to close, by number
	nextClose uint64
}

// guest is the way to a guest's ports.
type guest interface {
	dialTCP(ctx context.Context, port uint16) (half, error)
	dialUDP(port uint16) (net.Conn, error)
}

// dialTimeout is how long a guest's connection may take to be made, as Linux's own six SYNs would at least.
const dialTimeout = 60 * time.Second

func (s *sockets) init(g guest) {
	s.guest = g
	s.dialer = net.Dialer{Timeout: dialTimeout}
	s.connections, s.flows = slots{free: maxConnections}, slots{free: maxFlows}
	s.closers = map[uint64]func(){}
	s.ctx, s.cancel = context.WithCancel(context.Background())
}

// closeAll closes what is open. It is false if that was done before.
func (s *sockets) closeAll() bool {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return false
	}
	s.closed = true
	closers := s.closers
	s.closers = nil
	s.mu.Unlock()
	s.cancel()
	for _, c := range closers {
		c()
	}
	return true
}

// onClose has f called by Close, unless forget, which calls nothing, is called before. ok is false if it is closed
// already.
func (s *sockets) onClose(f func()) (forget func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, false
	}
	s.nextClose++
	n := s.nextClose
	s.closers[n] = f
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.closers, n)
	}, true
}

// run starts a goroutine that Close waits for. It does nothing once the network is closed.
func (s *sockets) run(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.group.Add(1)
	go func() {
		defer s.group.Done()
		f()
	}()
	return true
}

// failed reports what has ended for good.
func (s *sockets) failed(err error) {
	if s.report != nil {
		s.report(err)
	}
}

// slots counts down how many more of something there may be.
type slots struct {
	mu   sync.Mutex
	free int
}

func (s *slots) take() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.free == 0 {
		return false
	}
	s.free--
	return true
}

func (s *slots) give() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free++
}
