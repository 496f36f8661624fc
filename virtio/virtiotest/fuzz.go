package virtiotest

import (
	"encoding/binary"
	"slices"
	"testing"
)

// The guest memory of fuzz tests: one small region, rings at the start, buffers behind.
const (
	fuzzRAM     = 0x28000
	fuzzBuffers = 0x10000
)

func fuzzMemory() *Memory {
	return &Memory{next: 0x1000, Regions: []Region{{0, make([]byte, fuzzRAM)}}}
}

// odd are the addresses that a fuzzed descriptor can have besides those of buffers.
var odd = []uint64{0, 0x1000, fuzzRAM - 1, fuzzRAM, deviceBase, 1 << 32, 1 << 63, ^uint64(0), ^uint64(0) - 15, fuzzBuffers + 3}

// A ring script is: queue, features, log2 of the size, the number n of descriptors, then n descriptors of 6 bytes (address,
// length, flags, next), the number m of available entries, m entries of one byte, the distance by which the available
// index moves, and what is left is the buffers' content.
type script struct{ b []byte }

func (s *script) byte() byte {
	if len(s.b) == 0 {
		return 0
	}
	v := s.b[0]
	s.b = s.b[1:]
	return v
}

func (s *script) word() uint16 { return uint16(s.byte()) | uint16(s.byte())<<8 }

// scriptFor writes the script of a valid request.
func scriptFor(req Request, table bool) []byte {
	type desc struct {
		addr, n uint16
		flags   byte
	}
	var descs []desc
	if len(req.Out) > 0 {
		descs = append(descs, desc{0, uint16(len(req.Out)), 0})
	}
	if req.In > 0 {
		descs = append(descs, desc{0x8000, uint16(req.In), WriteTo})
	}
	content := append([]byte(nil), req.Out...)
	if table {
		at := uint16(len(content)+15) &^ 15
		content = append(content, make([]byte, int(at)-len(content))...)
		for i, d := range descs {
			flags := uint16(d.flags)
			if i < len(descs)-1 {
				flags |= Next
			}
			content = binary.LittleEndian.AppendUint64(content, fuzzBuffers+uint64(d.addr))
			content = binary.LittleEndian.AppendUint32(content, uint32(d.n))
			content = binary.LittleEndian.AppendUint16(content, flags)
			content = binary.LittleEndian.AppendUint16(content, uint16(i+1))
		}
		descs = []desc{{at, uint16(16 * len(descs)), Indirect}}
	}
	b := []byte{byte(req.Queue), 0xff, 4, byte(len(descs))}
	for i, d := range descs {
		if i < len(descs)-1 {
			d.flags |= Next
		}
		b = append(b, byte(d.addr), byte(d.addr>>8), byte(d.n), byte(d.n>>8), d.flags, byte(i+1))
	}
	b = append(b, 1, 0, 1)
	return append(b, content...)
}

// FuzzRing runs the device on rings and buffers with random content. Seeds are the suite's requests.
func (s Suite) FuzzRing(f *testing.F) {
	for _, req := range s.Requests {
		if len(req.Out)+req.In < 0x7000 {
			f.Add(scriptFor(req, false))
			f.Add(scriptFor(req, true))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		sc := &script{b}
		d := s.NewDriverIn(t, fuzzMemory())
		offered := all(d)
		q := int(sc.byte()) % len(d.Rings)
		features := offered
		if choice := sc.byte(); choice&1 == 0 {
			features &^= EventIdx
		} else if choice&2 == 0 {
			features &^= IndirectDesc
		}
		if !d.Negotiate(features) {
			t.Fatal("features refused")
		}
		size := uint16(1) << (sc.byte() % 5)
		for i := range d.Rings {
			d.SetUp(i, size)
		}
		r := d.Rings[q]
		sc.play(r)
		d.Write(RegStatus, Acknowledge|DriverBit|FeaturesOK|DriverOK)
		if slices.Contains(s.queues(), q) {
			r.Settle()
		} else {
			r.Kick() // it may not be served at all
		}
		if d.Status()&NeedsReset != 0 && d.Dev.Failure() == nil {
			t.Error("the device gave up without a reason")
		}
		s.recovers(d)
	})
}

// play fills ring and buffers.
func (sc *script) play(r *Ring) {
	for i := range uint16(sc.byte()) % (r.Size + 1) {
		addr, n, flags, next := sc.word(), uint32(sc.word()), uint16(sc.byte()), uint16(sc.byte())
		d := Desc{fuzzBuffers + uint64(addr), n, flags & 7, next}
		if addr >= 0xff00 {
			d.Addr = odd[int(addr)%len(odd)]
		}
		if flags&0x80 != 0 {
			d.Len <<= 16
		}
		r.SetDesc(i, d)
	}
	for i := range uint16(sc.byte()) % (r.Size + 1) {
		r.SetAvailEntry(i, uint16(sc.byte()))
	}
	move := uint16(sc.byte())
	if move >= 0xf0 {
		move <<= 8
	}
	copy(r.d.Mem.Bytes(fuzzBuffers, fuzzRAM-fuzzBuffers), sc.b)
	r.SetAvailIdx(move)
}

// FuzzRegisters lets a driver write anything to the registers, in any width. A script is a sequence of operations of 7
// bytes: kind and width, offset (2), value (4).
func (s Suite) FuzzRegisters(f *testing.F) {
	op := func(kind byte, off uint16, v uint32) []byte {
		b := []byte{kind, byte(off), byte(off >> 8)}
		return binary.LittleEndian.AppendUint32(b, v)
	}
	f.Add(append(op(0, RegStatus, 0), op(0, RegStatus, 0xff)...))
	var setUp []byte
	for _, w := range []struct {
		off uint16
		v   uint32
	}{
		{RegStatus, Acknowledge}, {RegStatus, Acknowledge | DriverBit}, {RegDriverFeaturesSel, 1}, {RegDriverFeatures, 1 | 1<<8},
		{RegDriverFeaturesSel, 0}, {RegDriverFeatures, IndirectDesc | EventIdx}, {RegStatus, Acknowledge | DriverBit | FeaturesOK},
		{RegQueueSel, 0}, {RegQueueNum, 16}, {RegQueueDescLow, 0x1000}, {RegQueueDriverLow, 0x2000}, {RegQueueDeviceLow, 0x3000},
		{RegQueueReady, 1}, {RegStatus, Acknowledge | DriverBit | FeaturesOK | DriverOK}, {RegQueueNotify, 0},
		{RegQueueReset, 1}, {RegQueueNum, 8}, {RegQueueReady, 1}, {RegQueueReady, 0}, {RegInterruptACK, 3}, {RegSHMSel, 0},
	} {
		setUp = append(setUp, op(0, w.off, w.v)...)
	}
	f.Add(setUp)
	f.Fuzz(func(t *testing.T, b []byte) {
		d := s.NewDriverIn(t, fuzzMemory())
		for i := range d.Mem.Regions[0].Bytes {
			d.Mem.Regions[0].Bytes[i] = byte(i * 7 >> 3)
		}
		sc := &script{b}
		for len(sc.b) > 0 {
			kind, off := sc.byte(), uint64(sc.word())
			p := binary.LittleEndian.AppendUint32(nil, uint32(sc.word())|uint32(sc.word())<<16)
			p = append(p, p...)
			if kind&0x0f != 0 {
				p = p[:kind&0x0f%9]
			} else {
				p = p[:4]
			}
			if kind&0x80 != 0 {
				d.Dev.Read(off, p)
			} else {
				d.Dev.Write(off, p)
			}
		}
		s.recovers(d)
	})
}
