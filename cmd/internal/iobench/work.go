package main

import (
	_ "embed"
	"encoding/binary"
)

//go:generate ./generate.sh

// guest is the program that drives the queues, a PVH kernel; its source is
// guest.S.
//
//go:embed guest.elf
var guest []byte

// guestMemory is what every monitor gives the guest, in bytes. The same number
// stands in guest.S.
const guestMemory = 128 << 20

// work is what the guest is told, as its initial ram disk. The same fields stand
// in guest.S.
type work struct {
	Base, Stride, Slots uint64 // the virtio-mmio slots to look through
	Device              uint64 // the device ID to look for
	Kind                uint64 // one of the kinds
	Features            uint64 // to negotiate
	Depth               uint64 // requests in flight
	Size                uint64 // bytes of a request, a multiple of 8 for disks
	Count               uint64 // requests to measure
	Warmup              uint64 // requests before them
	Units               uint64 // disks: places of Size bytes, a power of two
	Sequential          uint64 // disks: 1 for one place after the other
	Write               uint64 // disks: 1 for writes
	Seed                uint64 // disks and vsock: what data is made of
	Step                uint64 // disks: bytes from one word that is looked at to the next
	Interrupts          uint64 // 1 to take an interrupt for what is done
}

// Kinds of work.
const (
	kindBlk = iota
	kindNetOut
	kindNetIn
	kindVsockOut
	kindVsockIn
	kindRegister
)

// Device IDs (VIRTIO 1.2, section 5).
const (
	idNet   = 1
	idBlock = 2
	idVsock = 19
)

// Features (5.2.3, 6). What Linux negotiates wherever it is offered. Without FLUSH a
// device may take itself for a write-through cache, which QEMU does.
const (
	featureFlush    = 1 << 9  // VIRTIO_BLK_F_FLUSH
	featureMerge    = 1 << 15 // VIRTIO_NET_F_MRG_RXBUF
	featureIndirect = 1 << 28 // VIRTIO_F_INDIRECT_DESC
	featureEventIdx = 1 << 29 // VIRTIO_F_EVENT_IDX
	featureVersion1 = 1 << 32 // VIRTIO_F_VERSION_1
)

// seed is what disks and streams are made of: each word is its place xor this.
const seed = 0x5a5a_c3c3_0f0f_9669

// window is where a monitor has its virtio-mmio devices.
type window struct{ base, stride, slots uint64 }

// bytes is w as the guest reads it, for a monitor with that window.
func (w work) bytes(at window) []byte {
	w.Base, w.Stride, w.Slots = at.base, at.stride, at.slots
	w.Count, w.Warmup = w.Count*w.unit(), w.Warmup*w.unit()
	b, err := binary.Append(nil, binary.LittleEndian, &w)
	if err != nil {
		panic(err) // all fields are integers
	}
	return b
}

// unit is what the guest counts for a request: 1, or the bytes of a stream that
// comes in, which fills buffers as far as there are some.
func (w work) unit() uint64 {
	if w.Kind == kindVsockIn {
		return w.Size
	}
	return 1
}

// Those of each device.
const (
	blockFeatures = featureFlush | featureIndirect | featureEventIdx | featureVersion1
	netFeatures   = featureMerge | featureIndirect | featureEventIdx | featureVersion1
	vsockFeatures = featureIndirect | featureEventIdx | featureVersion1
)

// pattern fills p, which belongs at off of a disk or stream.
func pattern(p []byte, off uint64) {
	for i := 0; i+8 <= len(p); i += 8 {
		binary.LittleEndian.PutUint64(p[i:], off+uint64(i)^seed)
	}
}
