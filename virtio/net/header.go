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
	F_GUEST_ECN  = 9  // VIRTIO_NET_F_GUEST_ECN: such with congestion marks too
	F_HOST_TSO4  = 11 // VIRTIO_NET_F_HOST_TSO4: the device takes them
	F_HOST_TSO6  = 12 // VIRTIO_NET_F_HOST_TSO6
	F_HOST_ECN   = 13 // VIRTIO_NET_F_HOST_ECN
	F_MRG_RXBUF  = 15 // VIRTIO_NET_F_MRG_RXBUF: a packet may fill several buffers
	F_STATUS     = 16 // VIRTIO_NET_F_STATUS: the link can go up and down
	F_CTRL_VQ    = 17 // VIRTIO_NET_F_CTRL_VQ: there is a control queue
	F_MQ         = 22 // VIRTIO_NET_F_MQ: there may be several pairs of queues

	// Of VIRTIO 1.3: datagrams of UDP longer than the MTU, sent as several.
	F_GUEST_USO4 = 54 // VIRTIO_NET_F_GUEST_USO4
	F_GUEST_USO6 = 55 // VIRTIO_NET_F_GUEST_USO6
	F_HOST_USO   = 56 // VIRTIO_NET_F_HOST_USO
)

// Header is struct virtio_net_hdr (5.1.6): what goes before each frame, both ways.
type Header struct {
	Flags      uint8  // HdrNeedsCSum, HdrDataValid
	GSOType    uint8  // GSONone, GSOTCPv4, GSOTCPv6 or GSOUDP; the TCP ones perhaps with GSOECN
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
	GSOUDP   = 5 // VIRTIO_NET_HDR_GSO_UDP_L4 (VIRTIO 1.3)

	GSOECN = 0x80 // VIRTIO_NET_HDR_GSO_ECN: a bit beside the type
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
	if h.GSOType != GSONone {
		// A segment's checksum cannot be there yet, and a size of 0 would make endlessly many.
		if out.Flags&HdrNeedsCSum == 0 || h.GSOSize == 0 || !takes(h.GSOType, features, &hostGSO) {
			return false
		}
		out.GSOType, out.GSOSize = h.GSOType, h.GSOSize
	}
	*h = out
	return true
}

// toDriver is fromDriver the other way: a frame of a Backend may only use what the driver has agreed to
// (5.1.6.4.1).
func (h *Header) toDriver(features uint64, n int) (ok bool) {
	h.Flags &= HdrNeedsCSum | HdrDataValid
	if features&(1<<F_GUEST_CSUM) == 0 {
		if h.Flags&HdrNeedsCSum != 0 {
			return false
		}
		h.Flags = 0
	}
	if h.GSOType == GSONone {
		h.GSOSize = 0
	} else if !takes(h.GSOType, features, &guestGSO) {
		return false
	}
	return int(h.CSumStart)+int(h.CSumOffset) <= n
}

// gsoFeatures are the feature bits of one side that go with GSO types, as masks.
type gsoFeatures struct{ tcp4, tcp6, ecn, udp uint64 }

var (
	hostGSO  = gsoFeatures{1 << F_HOST_TSO4, 1 << F_HOST_TSO6, 1 << F_HOST_ECN, 1 << F_HOST_USO}
	guestGSO = gsoFeatures{1 << F_GUEST_TSO4, 1 << F_GUEST_TSO6, 1 << F_GUEST_ECN, 1<<F_GUEST_USO4 | 1<<F_GUEST_USO6}
)

// takes tells whether the side of f has agreed to segments of a type.
func takes(gso uint8, features uint64, f *gsoFeatures) bool {
	need := uint64(0)
	if gso&GSOECN != 0 {
		need = f.ecn
	}
	switch gso {
	case GSOTCPv4, GSOTCPv4 | GSOECN:
		need |= f.tcp4
	case GSOTCPv6, GSOTCPv6 | GSOECN:
		need |= f.tcp6
	case GSOUDP:
		need |= f.udp
	default:
		return false
	}
	return features&need == need
}
