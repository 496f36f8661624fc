package net

import "encoding/binary"

// Feature bits of the device (5.1.3).
const (
	F_CSUM       = 0  // VIRTIO_NET_F_CSUM: the device computes checksums of what the guest sends
	F_GUEST_CSUM = 1  // VIRTIO_NET_F_GUEST_CSUM: the guest takes packets with partial checksums
	F_MTU        = 3  // VIRTIO_NET_F_MTU
	F_MAC        = 5  // VIRTIO_NET_F_MAC
	F_GUEST_TSO4 = 7  // VIRTIO_NET_F_GUEST_TSO4: the guest takes TCP segments longer than the MTU
	F_GUEST_TSO6 = 8  // VIRTIO_NET_F_GUEST_TSO6
	F_HOST_TSO4  = 11 // VIRTIO_NET_F_HOST_TSO4: the device takes them
	F_HOST_TSO6  = 12 // VIRTIO_NET_F_HOST_TSO6
	F_MRG_RXBUF  = 15 // VIRTIO_NET_F_MRG_RXBUF: a packet may fill several buffers
	F_STATUS     = 16 // VIRTIO_NET_F_STATUS: the link can go up and down
)

// Header is struct virtio_net_hdr (5.1.6): what goes before each frame, both ways.
type Header struct {
	Flags      uint8  // HdrNeedsCSum, HdrDataValid
	GSOType    uint8  // GSONone, GSOTCPv4 or GSOTCPv6
	HdrLen     uint16 // bytes of headers; a hint
	GSOSize    uint16 // bytes of payload in each segment
	CSumStart  uint16 // from where to compute the checksum
	CSumOffset uint16 // where to put it, from CSumStart
	NumBuffers uint16 // receive buffers that the frame fills
}

// HeaderSize is the number of bytes of a Header. It does not depend on features since VERSION_1.
const HeaderSize = 12

// Values of Header.Flags and Header.GSOType (5.1.6).
const (
	HdrNeedsCSum = 1 // VIRTIO_NET_HDR_F_NEEDS_CSUM
	HdrDataValid = 2 // VIRTIO_NET_HDR_F_DATA_VALID

	GSONone  = 0 // VIRTIO_NET_HDR_GSO_NONE
	GSOTCPv4 = 1 // VIRTIO_NET_HDR_GSO_TCPV4
	GSOTCPv6 = 4 // VIRTIO_NET_HDR_GSO_TCPV6
)

// Encode writes h in its form on the wire.
func (h *Header) Encode(b *[HeaderSize]byte) {
	b[0], b[1] = h.Flags, h.GSOType
	binary.LittleEndian.PutUint16(b[2:], h.HdrLen)
	binary.LittleEndian.PutUint16(b[4:], h.GSOSize)
	binary.LittleEndian.PutUint16(b[6:], h.CSumStart)
	binary.LittleEndian.PutUint16(b[8:], h.CSumOffset)
	binary.LittleEndian.PutUint16(b[10:], h.NumBuffers)
}

// Decode reads h from its form on the wire.
func (h *Header) Decode(b *[HeaderSize]byte) {
	*h = Header{
		Flags: b[0], GSOType: b[1],
		HdrLen:     binary.LittleEndian.Uint16(b[2:]),
		GSOSize:    binary.LittleEndian.Uint16(b[4:]),
		CSumStart:  binary.LittleEndian.Uint16(b[6:]),
		CSumOffset: binary.LittleEndian.Uint16(b[8:]),
		NumBuffers: binary.LittleEndian.Uint16(b[10:]),
	}
}

// fromDriver makes the header of a frame of n bytes harmless: fields that belong to features which were not
// negotiated count for nothing, and hdr_len, which is only a hint, is dropped (5.1.6.2.2). ok is false if what is
// left makes no sense for the frame.
func (h *Header) fromDriver(features uint64, n int) (ok bool) {
	has := func(bit uint) bool { return features&(1<<bit) != 0 }
	out := Header{}
	if h.Flags&HdrNeedsCSum != 0 && has(F_CSUM) {
		if int(h.CSumStart)+int(h.CSumOffset)+2 > n {
			return false
		}
		out.Flags, out.CSumStart, out.CSumOffset = HdrNeedsCSum, h.CSumStart, h.CSumOffset
	}
	switch {
	case h.GSOType == GSONone:
	case h.GSOType == GSOTCPv4 && has(F_HOST_TSO4), h.GSOType == GSOTCPv6 && has(F_HOST_TSO6):
		// A segment's checksum cannot be there yet, and a size of 0 would make endlessly many.
		if out.Flags&HdrNeedsCSum == 0 || h.GSOSize == 0 {
			return false
		}
		out.GSOType, out.GSOSize = h.GSOType, h.GSOSize
	default:
		return false
	}
	*h = out
	return true
}

// toDriver is fromDriver the other way: a frame of a Backend may only use what the driver has agreed to
// (5.1.6.4.1).
func (h *Header) toDriver(features uint64, n int) (ok bool) {
	has := func(bit uint) bool { return features&(1<<bit) != 0 }
	if !has(F_GUEST_CSUM) {
		if h.Flags&HdrNeedsCSum != 0 {
			return false
		}
		h.Flags = 0
	}
	switch h.GSOType {
	case GSONone:
		h.GSOSize = 0
	case GSOTCPv4:
		ok = has(F_GUEST_TSO4)
	case GSOTCPv6:
		ok = has(F_GUEST_TSO6)
	}
	return (h.GSOType == GSONone || ok) && int(h.CSumStart)+int(h.CSumOffset) <= n
}
