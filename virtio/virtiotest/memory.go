package virtiotest

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
)

// ErrNotRAM is what Memory answers for addresses that are not guest RAM.
var ErrNotRAM = errors.New("not guest RAM")

// The memory that drivers get: two regions side by side, which no buffer may straddle, a hole, and one high up.
const (
	lowBase  = 0x0
	lowSize  = 0x200000
	midBase  = lowBase + lowSize
	midSize  = 0x100000
	highBase = 1 << 32
	highSize = 0x200000
	// deviceBase is in the hole: where device registers would be.
	deviceBase = 0xd0000000
)

// Region is a piece of guest RAM.
type Region struct {
	Base  uint64
	Bytes []byte // page-aligned in the host
}

// Memory is guest memory made of regions. It implements virtio.Memory.
type Memory struct {
	Regions []Region
	next    uint64 // for Alloc
}

// NewMemory makes guest memory on the Go heap, where the race detector watches it.
func NewMemory() *Memory {
	return &Memory{next: 0x1000, Regions: []Region{
		{lowBase, make([]byte, lowSize)},
		{midBase, make([]byte, midSize)},
		{highBase, make([]byte, highSize)},
	}}
}

// NewMappedMemory makes guest memory outside of the heap, as a machine has it. The race detector does not see it, so
// it may be written while the device reads.
func NewMappedMemory(t testing.TB) *Memory {
	m := &Memory{next: 0x1000}
	for _, r := range []struct{ base, size uint64 }{{lowBase, lowSize}, {midBase, midSize}, {highBase, highSize}} {
		p, err := unix.Mmap(-1, 0, int(r.size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			t.Fatalf("map guest memory: %v", err)
		}
		m.Regions = append(m.Regions, Region{r.base, p})
		t.Cleanup(func() { unix.Munmap(p) })
	}
	return m
}

// Slice implements virtio.Memory.
func (m *Memory) Slice(gpa uint64, n int) ([]byte, error) {
	for _, r := range m.Regions {
		if gpa < r.Base || gpa-r.Base > uint64(len(r.Bytes)) {
			continue
		}
		off := gpa - r.Base
		if n >= 0 && uint64(n) <= uint64(len(r.Bytes))-off && off < uint64(len(r.Bytes)) {
			return r.Bytes[off : off+uint64(n) : off+uint64(n)], nil
		}
	}
	return nil, fmt.Errorf("%#x, %#x long: %w", gpa, n, ErrNotRAM)
}

// Bytes is Slice for addresses that are known to be good.
func (m *Memory) Bytes(gpa uint64, n int) []byte {
	p, err := m.Slice(gpa, n)
	if err != nil {
		panic(err)
	}
	return p
}

// Mark returns where Alloc is, and Rewind gives back what it has taken since: a test that goes on for long does so for
// each request.
func (m *Memory) Mark() uint64       { return m.next }
func (m *Memory) Rewind(mark uint64) { m.next = mark }

// Alloc takes n bytes out of the low region. There is no free: a test has its own memory.
func (m *Memory) Alloc(n int, align uint64) uint64 {
	a := (m.next + align - 1) &^ (align - 1)
	m.next = a + uint64(n)
	if m.next > uint64(len(m.Regions[0].Bytes)) {
		panic("virtiotest: guest memory is used up")
	}
	return a
}

// Snapshot returns a copy of all memory, and Changed where memory differs from such a copy.
func (m *Memory) Snapshot() [][]byte {
	var s [][]byte
	for _, r := range m.Regions {
		s = append(s, bytes.Clone(r.Bytes))
	}
	return s
}

// Changed returns the address of the first byte that is not as in the snapshot.
func (m *Memory) Changed(s [][]byte) (gpa uint64, changed bool) {
	for i, r := range m.Regions {
		if bytes.Equal(r.Bytes, s[i]) {
			continue
		}
		for j := range r.Bytes {
			if r.Bytes[j] != s[i][j] {
				return r.Base + uint64(j), true
			}
		}
	}
	return 0, false
}
