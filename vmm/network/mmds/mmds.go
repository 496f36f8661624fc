// Package mmds puts a web server between a network card and its backend: what the guest sends to one address goes to the server,
// all else to the backend. It is how a guest reaches a metadata service at 169.254.169.254 whatever its network is, with no
// address of the host's and nothing on the wire.
//
// Frames are intercepted as Firecracker's are: ARP packets about the address, and TCP segments to it, whatever their link
// addresses say. A TCP/IP stack of its own (gVisor's netstack) takes them; it knows one address and one port, and sends to nobody but
// the guest. Whatever the guest can have it keep is bounded: connections, their buffers, the time they may be idle.
package mmds

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/netutil"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

const (
	nic = 1
	// port is where the server listens.
	port = 80
	// mtu of what is sent to the guest, in bytes: what every network card takes.
	mtu = 1500
	// linkAddress is the server's, locally administered.
	linkAddress = tcpip.LinkAddress("\x52\x55\xa9\xfe\xa9\xfe")

	// headerSize is the number of bytes of virtio-net's header before each frame (VIRTIO 1.2, 5.1.6).
	headerSize = 12

	// Bounds on what the guest can have this process keep.
	maxQueued      = 64 // frames on their way to the guest
	maxConnections = 32
	bufferSize     = 64 << 10 // of a connection, each way
	maxHeader      = 8 << 10
	maxFrame       = 65535 + 18
	patience       = 10 * time.Second // for a request, an answer, and the next request
)

// Backend is the host's end of a queue pair of a virtio network card, and has what virtio-net's Backend has.
type Backend interface {
	Offloads() uint64
	Start(features uint64) error
	FD() int
	Send(header *[headerSize]byte, frame [][]byte)
	Receive(header *[headerSize]byte, frame [][]byte) (n int, err error)
	Drop()
}

// Config says how to make a Service.
type Config struct {
	Backend Backend
	// Address is what the guest reaches the service by, an IPv4 address.
	Address netip.Addr
	// Handler answers requests to port 80 of it. Their senders are hostile.
	Handler http.Handler
}

// Service is a Backend with a web server before it. Close must be called, when the card is not used any more.
type Service struct {
	backend Backend
	address [4]byte

	stack  *stack.Stack
	link   *channel.Endpoint
	server *http.Server
	done   chan struct{} // closed when the server has ended

	epoll int // of the backend's descriptor, and of event
	event int // an eventfd: there is a frame of the server's
	// rung is whether event may be readable.
	rung atomic.Bool

	// For Receive and Drop only.
	next *stack.PacketBuffer // a frame of the server's that was looked at
	last bool                // what was looked at last is next
	gone bool                // the backend has nobody at its other end

	closing sync.Once
}

// New puts a service before a backend.
func New(cfg Config) (_ *Service, err error) {
	if !cfg.Address.Is4() {
		return nil, fmt.Errorf("metadata service: %v is not an IPv4 address", cfg.Address)
	}
	s := &Service{
		backend: cfg.Backend, address: cfg.Address.As4(), link: channel.New(maxQueued, mtu+header.EthernetMinimumSize, linkAddress),
		epoll: -1, event: -1, done: make(chan struct{}),
	}
	defer func() {
		if err != nil {
			s.closeFiles()
		}
	}()
	if err := s.openFiles(); err != nil {
		return nil, fmt.Errorf("metadata service: %w", err)
	}
	// The guest leaves checksums to its device, and nothing between it and here can damage a frame.
	s.link.LinkEPCapabilities = stack.CapabilityRXChecksumOffload
	s.link.AddNotify(s)
	s.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol},
	})
	if err := s.setUp(); err != nil {
		s.stack.Destroy()
		return nil, fmt.Errorf("metadata service: %s", err)
	}
	listener, err := gonet.ListenTCP(s.stack, tcpip.FullAddress{NIC: nic, Addr: tcpip.AddrFrom4(s.address), Port: port}, ipv4.ProtocolNumber)
	if err != nil {
		s.stack.Destroy()
		return nil, fmt.Errorf("metadata service: %w", err)
	}
	s.server = &http.Server{
		Handler: cfg.Handler, MaxHeaderBytes: maxHeader, ReadTimeout: patience, WriteTimeout: patience, IdleTimeout: patience,
		ErrorLog: log.New(io.Discard, "", 0), // what guests do wrong is theirs to know
	}
	go func() {
		defer close(s.done)
		_ = s.server.Serve(netutil.LimitListener(listener, maxConnections))
	}()
	return s, nil
}

func (s *Service) openFiles() (err error) {
	if s.event, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return err
	}
	if s.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return err
	}
	for _, fd := range []int{s.event, s.backend.FD()} {
		if err := unix.EpollCtl(s.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) closeFiles() {
	for _, fd := range []int{s.epoll, s.event} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

func (s *Service) setUp() error {
	check := func(what string, err tcpip.Error) error {
		if err == nil {
			return nil
		}
		return fmt.Errorf("%s: %s", what, err)
	}
	address := tcpip.ProtocolAddress{
		Protocol:          ipv4.ProtocolNumber,
		AddressWithPrefix: tcpip.AddressWithPrefix{Address: tcpip.AddrFrom4(s.address), PrefixLen: 32},
	}
	sizes := tcpip.TCPReceiveBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: bufferSize, Max: bufferSize}
	sends := tcpip.TCPSendBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: bufferSize, Max: bufferSize}
	err := errors.Join(
		check("making its interface", s.stack.CreateNIC(nic, ethernet.New(s.link))),
		check("giving it an address", s.stack.AddProtocolAddress(nic, address, stack.AddressProperties{})),
		// The guest may take it for something behind its gateway.
		check("taking all frames", s.stack.SetPromiscuousMode(nic, true)),
		check("TCP options", s.stack.SetTransportProtocolOption(tcp.ProtocolNumber, &sizes)),
		check("TCP options", s.stack.SetTransportProtocolOption(tcp.ProtocolNumber, &sends)),
	)
	s.stack.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: nic}})
	return err
}

// Close ends the server and all connections. The backend stays as it is.
func (s *Service) Close() error {
	var err error
	s.closing.Do(func() {
		err = s.server.Close()
		<-s.done
		s.stack.Destroy()
		if s.next != nil {
			s.next.DecRef()
			s.next = nil
		}
		s.link.Drain()
		s.closeFiles()
	})
	return err
}

// WriteNotify implements channel.Notification: there is a frame for the guest.
func (s *Service) WriteNotify() {
	s.rung.Store(true)
	_, _ = unix.Write(s.event, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // full, it is readable all the same
}

// Offloads implements virtio-net's Backend.
func (s *Service) Offloads() uint64 { return s.backend.Offloads() }

// Start implements virtio-net's Backend.
func (s *Service) Start(features uint64) error { return s.backend.Start(features) }

// Attach implements virtio-net's Switched, for a backend that does.
func (s *Service) Attach(on bool) error {
	if b, ok := s.backend.(interface{ Attach(on bool) error }); ok {
		return b.Attach(on)
	}
	return nil
}

// FD implements virtio-net's Backend.
func (s *Service) FD() int { return s.epoll }

// Places in a frame: the type after two link addresses; ARP's address that is asked for; IPv4's protocol and destination.
const (
	typeAt      = 12
	arpTargetAt = 14 + 24
	protocolAt  = 14 + 9
	ipTargetAt  = 14 + 16
	peekSize    = arpTargetAt + 4
)

// ours tells whether a frame, of which b is the beginning, is for the server.
func (s *Service) ours(b []byte) bool {
	if len(b) < peekSize {
		return false // shorter than ARP, and than any segment of TCP
	}
	switch binary.BigEndian.Uint16(b[typeAt:]) {
	case uint16(header.ARPProtocolNumber):
		return [4]byte(b[arpTargetAt:]) == s.address
	case uint16(header.IPv4ProtocolNumber):
		return b[protocolAt] == byte(header.TCPProtocolNumber) && [4]byte(b[ipTargetAt:]) == s.address
	}
	return false
}

// Send implements virtio-net's Backend.
func (s *Service) Send(h *[headerSize]byte, frame [][]byte) {
	var first [peekSize]byte
	if !s.ours(gather(first[:], frame)) {
		s.backend.Send(h, frame)
		return
	}
	n := 0
	for _, p := range frame {
		n += len(p)
	}
	if n > maxFrame {
		return
	}
	// Guest memory can change at any time: what follows looks at a copy.
	b := buffer.NewViewSize(n)
	if !s.ours(gather(b.AsSlice(), frame)) {
		b.Release()
		return
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithView(b)})
	s.link.InjectInbound(0, pkt)
	pkt.DecRef()
}

// gather fills b from the front of the pieces, and returns as much of it as there was.
func gather(b []byte, pieces [][]byte) []byte {
	n := 0
	for _, p := range pieces {
		if n += copy(b[n:], p); n == len(b) {
			break
		}
	}
	return b[:n]
}

// Receive implements virtio-net's Backend. The server's frames go first: they are few.
func (s *Service) Receive(h *[headerSize]byte, frame [][]byte) (int, error) {
	if s.last = s.look(); s.last {
		n, room := s.next.Size(), 0
		for _, p := range frame {
			room += len(p)
		}
		if n > room {
			return n, nil
		}
		*h = [headerSize]byte{}
		for _, b := range s.next.AsSlices() {
			for len(b) > 0 {
				k := copy(frame[0], b)
				b = b[k:]
				if frame[0] = frame[0][k:]; len(frame[0]) == 0 {
					frame = frame[1:]
				}
			}
		}
		s.drop()
		return n, nil
	}
	if s.gone {
		return 0, nil
	}
	n, err := s.backend.Receive(h, frame)
	if err == io.EOF {
		// It would be readable for ever, and the server is there still.
		s.gone = true
		_ = unix.EpollCtl(s.epoll, unix.EPOLL_CTL_DEL, s.backend.FD(), nil)
		return 0, nil
	}
	return n, err
}

// look tells whether the server has a frame, which is next then.
func (s *Service) look() bool {
	if s.next == nil && s.rung.Load() {
		if s.next = s.link.Read(); s.next == nil {
			s.rung.Store(false)
			var b [8]byte
			_, _ = unix.Read(s.event, b[:]) // nothing is there to read if somebody rings only now
			s.next = s.link.Read()
		}
	}
	return s.next != nil
}

func (s *Service) drop() {
	s.next.DecRef()
	s.next = nil
}

// Drop implements virtio-net's Backend.
func (s *Service) Drop() {
	if !s.last {
		s.backend.Drop()
	} else if s.next != nil {
		s.drop()
	}
}
