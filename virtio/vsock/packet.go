package vsock

import "encoding/binary"

// Addresses (5.10.4). 0 and 1 are reserved, and so are 0xffffffff and everything above 32 bits.
const (
	hostCID     = 2
	minGuestCID = 3
	maxGuestCID = 1<<32 - 2
)

// typeStream is VIRTIO_VSOCK_TYPE_STREAM (5.10.6).
const typeStream = 1

// Operations, VIRTIO_VSOCK_OP_* (5.10.6).
const (
	opRequest       = 1
	opResponse      = 2
	opRST           = 3
	opShutdown      = 4
	opRW            = 5
	opCreditUpdate  = 6
	opCreditRequest = 7
)

// Flags of VIRTIO_VSOCK_OP_SHUTDOWN (5.10.6.5).
const (
	shutdownRecv = 1 // no more will be received
	shutdownSend = 2 // no more will be sent
	shutdownBoth = shutdownRecv | shutdownSend
)

// eventTransportReset is VIRTIO_VSOCK_EVENT_TRANSPORT_RESET, the only event there is (5.10.6.7).
const eventTransportReset = 0

// headerSize is the size of struct virtio_vsock_hdr in bytes.
const headerSize = 44

// header is struct virtio_vsock_hdr (5.10.6), little-endian in memory.
type header struct {
	srcCID, dstCID   uint64
	srcPort, dstPort uint32
	len              uint32
	typ, op          uint16
	flags            uint32
	bufAlloc, fwdCnt uint32 // credit (5.10.6.3)
}

func (h *header) decode(p *[headerSize]byte) {
	le := binary.LittleEndian
	h.srcCID, h.dstCID = le.Uint64(p[0:]), le.Uint64(p[8:])
	h.srcPort, h.dstPort = le.Uint32(p[16:]), le.Uint32(p[20:])
	h.len = le.Uint32(p[24:])
	h.typ, h.op = le.Uint16(p[28:]), le.Uint16(p[30:])
	h.flags = le.Uint32(p[32:])
	h.bufAlloc, h.fwdCnt = le.Uint32(p[36:]), le.Uint32(p[40:])
}

func (h *header) encode(p *[headerSize]byte) {
	le := binary.LittleEndian
	le.PutUint64(p[0:], h.srcCID)
	le.PutUint64(p[8:], h.dstCID)
	le.PutUint32(p[16:], h.srcPort)
	le.PutUint32(p[20:], h.dstPort)
	le.PutUint32(p[24:], h.len)
	le.PutUint16(p[28:], h.typ)
	le.PutUint16(p[30:], h.op)
	le.PutUint32(p[32:], h.flags)
	le.PutUint32(p[36:], h.bufAlloc)
	le.PutUint32(p[40:], h.fwdCnt)
}
