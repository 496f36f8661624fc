package devices

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
)

// Errors of Bus.Insert and Bus.Remove, wrapped with the range they are about.
var (
	ErrOverlap  = errors.New("range overlaps another device")
	ErrRange    = errors.New("range is empty or runs past the end of the address space")
	ErrNoDevice = errors.New("no device starts there")
)

// Bus maps addresses (ports, or guest physical addresses) to devices.
//
// Lookups are what a vCPU does on each exit: a binary search in an immutable sorted slice behind an
// atomic pointer, with no lock and no allocation. Insert and Remove are rare; they replace the slice.
// The zero Bus is empty and ready.
type Bus struct {
	mu     sync.Mutex // serialises Insert and Remove; never taken by lookups
	ranges atomic.Pointer[[]busRange]
}

type busRange struct {
	base, last uint64 // inclusive, so that a range may end at the top of the address space
	dev        Device
}

// Insert puts dev at [base, base+size). It refuses an empty range, one that wraps around and one that
// overlaps a range already there.
func (b *Bus) Insert(base, size uint64, dev Device) error {
	last := base + size - 1
	if size == 0 || last < base {
		return fmt.Errorf("insert device at %#x, %#x long: %w", base, size, ErrRange)
	}
	if dev == nil {
		return fmt.Errorf("insert device at %#x, %#x long: no device given", base, size)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	old := b.load()
	i, _ := slices.BinarySearchFunc(old, base, func(r busRange, a uint64) int {
		if r.last < a {
			return -1
		}
		return 1
	})
	if i < len(old) && old[i].base <= last {
		return fmt.Errorf("insert device at %#x-%#x: %w at %#x-%#x", base, last, ErrOverlap, old[i].base, old[i].last)
	}
	next := make([]busRange, 0, len(old)+1)
	next = append(next, old[:i]...)
	next = append(next, busRange{base, last, dev})
	next = append(next, old[i:]...)
	b.ranges.Store(&next)
	return nil
}

// Remove takes away the device that starts at base. An access under way on another vCPU may still reach
// the device after Remove has returned.
func (b *Bus) Remove(base uint64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	old := b.load()
	i := slices.IndexFunc(old, func(r busRange) bool { return r.base == base })
	if i < 0 {
		return fmt.Errorf("remove device at %#x: %w", base, ErrNoDevice)
	}
	next := slices.Delete(slices.Clone(old), i, i+1)
	b.ranges.Store(&next)
	return nil
}

// Read fills p from the device at addr and reports whether there is one. What no device answers reads as
// all ones, as on a PC bus.
func (b *Bus) Read(addr uint64, p []byte) bool {
	if r := b.find(addr); r != nil && fits(r, addr, p) {
		r.dev.Read(addr-r.base, p)
		return true
	}
	return b.readBytes(addr, p)
}

// Write hands p to the device at addr and reports whether there is one.
func (b *Bus) Write(addr uint64, p []byte) bool {
	if r := b.find(addr); r != nil && fits(r, addr, p) {
		r.dev.Write(addr-r.base, p)
		return true
	}
	return b.writeBytes(addr, p)
}

// fits reports whether p at addr, which lies in r, ends in r as well.
func fits(r *busRange, addr uint64, p []byte) bool {
	return len(p) > 0 && uint64(len(p)-1) <= r.last-addr
}

// readBytes is the access that begins outside of any device or runs over the end of one: a PC bus breaks
// it into bytes.
func (b *Bus) readBytes(addr uint64, p []byte) (found bool) {
	for i := range p {
		p[i] = 0xff
		a := addr + uint64(i)
		if r := b.find(a); r != nil && a >= addr {
			r.dev.Read(a-r.base, p[i:i+1])
			found = true
		}
	}
	return found
}

func (b *Bus) writeBytes(addr uint64, p []byte) (found bool) {
	for i := range p {
		a := addr + uint64(i)
		if r := b.find(a); r != nil && a >= addr {
			r.dev.Write(a-r.base, p[i:i+1])
			found = true
		}
	}
	return found
}

// find returns the range that addr lies in, or nil.
func (b *Bus) find(addr uint64) *busRange {
	s := b.load()
	lo, hi := 0, len(s)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if s[mid].last < addr {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo < len(s) && s[lo].base <= addr {
		return &s[lo]
	}
	return nil
}

func (b *Bus) load() []busRange {
	if p := b.ranges.Load(); p != nil {
		return *p
	}
	return nil
}
