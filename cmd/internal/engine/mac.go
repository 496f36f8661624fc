package engine

import (
	"crypto/rand"
	"fmt"
	"net"
)

// MAC is a link address.
type MAC [6]byte

func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// MarshalText implements encoding.TextMarshaler.
func (m MAC) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (m *MAC) UnmarshalText(b []byte) (err error) {
	*m, err = ParseMAC(string(b))
	return err
}

// ParseMAC reads the address of one device.
func ParseMAC(s string) (MAC, error) {
	b, err := net.ParseMAC(s)
	if err != nil || len(b) != 6 {
		return MAC{}, fmt.Errorf("%q is not a MAC address such as 02:42:ac:11:00:02", s)
	}
	if b[0]&1 != 0 {
		return MAC{}, fmt.Errorf("MAC address %s is that of a group", s)
	}
	return MAC(b), nil
}

// randomMAC is a locally administered address.
func randomMAC() MAC {
	var m MAC
	rand.Read(m[:]) // never fails
	m[0] = m[0]&^1 | 2
	return m
}

func orRandom(m MAC) MAC {
	if m == (MAC{}) {
		return randomMAC()
	}
	return m
}
