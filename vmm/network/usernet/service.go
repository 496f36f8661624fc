package usernet

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
)

// ServiceConfig is what makes a Service.
type ServiceConfig struct {
	// Guest is the guest's address, by which this host reaches it.
	Guest netip.Addr
	// NameUDP and NameTCP are where the guest asks for names. The service takes them over.
	NameUDP *net.UDPConn
	NameTCP *net.TCPListener
	// Names, DNS, Internal, Publish and Failed are as in UserConfig.
	Names    Names
	DNS      []netip.AddrPort
	Internal bool
	Publish  []Publish
	Failed   func(error)
}

// Service is what a guest on a bridge of this host has instead of a User: this host's kernel is its gateway, and what that lacks is
// here. It is a name server, for this guest alone, and published ports, for those connections to them that the kernel does not
// translate: of this host to its own loopback, and of guests on the same bridge.
type Service struct {
	sockets
	cfg ServiceConfig
}

// maxQuery is the longest query over UDP that is answered, in bytes: what name servers take by custom (RFC 6891, 6.2.5).
const maxQuery = 4096

// NewService serves at once, until Close. All sockets of the configuration are its own, also if it fails.
func NewService(cfg ServiceConfig) (*Service, error) {
	v := &Service{cfg: cfg}
	v.sockets.init(v)
	v.names, v.internal = cfg.Names, cfg.Internal
	v.resolvers.servers = cfg.DNS
	if cfg.Failed != nil {
		v.report = func(err error) { cfg.Failed(fmt.Errorf("network of %s: %w", cfg.Guest, err)) }
	}
	err := v.serve(cfg.NameUDP.Close, func() {
		v.serveUDP(cfg.NameUDP, maxQuery, "the name server at "+cfg.NameUDP.LocalAddr().String(), v.answerDatagrams)
	})
	if err == nil {
		err = v.serve(cfg.NameTCP.Close, func() { v.accept(cfg.NameTCP, v.answerConnection) })
	} else {
		cfg.NameTCP.Close()
	}
	for i, p := range cfg.Publish {
		if err == nil {
			err = v.publish(p)
		}
		if err != nil {
			closePublished(cfg.Publish[i:])
			break
		}
	}
	if err != nil {
		v.Close()
		return nil, err
	}
	return v, nil
}

// Close ends all connections, and returns when nothing of the service is left.
func (v *Service) Close() {
	v.closeAll()
	v.group.Wait()
}

// isGuest tells whether it is the guest that asks: its addresses are known to be its own (package bridge).
func (v *Service) isGuest(from netip.Addr) bool { return from.Unmap() == v.cfg.Guest }

func (v *Service) answerDatagrams(flow *sender) {
	defer flow.Close()
	if v.isGuest(flow.to.Addr()) {
		server, silent, ok := v.upstream()
		v.answerUDP(flow, server, ok, silent)
	}
}

func (v *Service) answerConnection(conn *net.TCPConn) {
	defer conn.Close()
	if from, err := netip.ParseAddrPort(conn.RemoteAddr().String()); err == nil && v.isGuest(from.Addr()) {
		v.answerStream(conn)
	}
}

func (v *Service) dialTCP(ctx context.Context, port uint16) (half, error) {
	conn, err := v.dialer.DialContext(ctx, "tcp", v.address(port))
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

func (v *Service) dialUDP(port uint16) (net.Conn, error) {
	return v.dialer.DialContext(v.ctx, "udp", v.address(port))
}

func (v *Service) address(port uint16) string {
	return net.JoinHostPort(v.cfg.Guest.String(), strconv.Itoa(int(port)))
}
