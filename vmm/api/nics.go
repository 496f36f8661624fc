package api

import (
	"crypto/rand"
	"net"
	"slices"

	"github.com/hullvm/hull/vmm"
)

// nic is a network card with the tap interface that it leads to.
type nic struct {
	networkInterface
	mac [6]byte
	tap *vmm.Tap
}

func (n *nic) close() error { return n.tap.Close() }

// Limits of an MTU (VIRTIO 1.2, 5.1.4.1).
const minMTU = 68

// putNIC adds a network card, or replaces the one of the same name.
func (s *Server) putNIC(c *networkInterface) (any, error) {
	s.resources.touched = true
	n := &nic{networkInterface: *c}
	if c.GuestMAC == nil {
		_, _ = rand.Read(n.mac[:]) // it cannot fail
		n.mac[0] = n.mac[0]&^1 | 2 // of one device, locally administered
	} else if err := n.setMAC(*c.GuestMAC); err != nil {
		return nil, err
	}
	if c.MTU != nil && *c.MTU < minMTU {
		return nil, refuse("Network config error: The MTU %d must be %d to 65535.", *c.MTU, minMTU)
	}
	at := -1
	for i, o := range s.resources.nics {
		switch {
		case o.IfaceID == c.IfaceID:
			at = i
		case c.GuestMAC != nil && o.mac == n.mac:
			return nil, refuse("Network config error: The MAC address is already in use: %s", *c.GuestMAC)
		}
	}
	if at >= 0 && s.resources.nics[at].HostDevName == c.HostDevName {
		n.tap = s.resources.nics[at].tap
		s.resources.nics[at] = n
		return nil, nil
	}
	var err error
	if n.tap, err = vmm.OpenTap(c.HostDevName, 1); err != nil {
		return nil, refuse("Network config error: Could not create the network device: Open tap device failed: %v", err)
	}
	if at < 0 {
		s.resources.nics = append(s.resources.nics, n)
		return nil, nil
	}
	old := s.resources.nics[at]
	s.resources.nics[at] = n
	return none(old.close())
}

// setMAC takes an address as six bytes in hexadecimal with colons between.
func (n *nic) setMAC(text string) error {
	mac, err := net.ParseMAC(text)
	if err != nil || len(mac) != len(n.mac) || len(text) != len("00:00:00:00:00:00") || text[2] != ':' {
		return &jsonError{message: "Invalid MAC address: " + text}
	}
	n.mac = [6]byte(mac)
	if n.mac[0]&1 != 0 || n.mac == [6]byte{} {
		return refuse("Network config error: The MAC address %s belongs to no single device.", text)
	}
	return nil
}

// config is the card as package vmm has it.
func (n *nic) config(lent *loans) (vmm.NIC, error) {
	c := vmm.NIC{MAC: n.mac, RX: n.RXRateLimiter.nic(), TX: n.TXRateLimiter.nic()}
	if n.MTU != nil {
		c.MTU = int(*n.MTU)
	}
	for _, f := range n.tap.Queues {
		file, err := lent.share(f)
		if err != nil {
			return c, err
		}
		c.Tap = append(c.Tap, file)
	}
	return c, nil
}

// patchNIC changes the limits of a card while the guest runs.
func (s *Server) patchNIC(p *networkInterfacePatch) (any, error) {
	at := slices.IndexFunc(s.resources.nics, func(n *nic) bool { return n.IfaceID == p.IfaceID })
	if at < 0 {
		return nil, refuse("Network config error: Error during network device update (patch): there is no interface %q", p.IfaceID)
	}
	n := s.resources.nics[at]
	rx, tx := n.RXRateLimiter.patched(p.RXRateLimiter), n.TXRateLimiter.patched(p.TXRateLimiter)
	if err := s.machine.SetNICLimits(at, rx.nic(), tx.nic()); err != nil {
		return nil, refuse("Network config error: Error during network device update (patch): %v", err)
	}
	n.RXRateLimiter, n.TXRateLimiter = rx, tx
	return nil, nil
}
