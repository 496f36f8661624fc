package devices

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"sync"
	"testing"
)

// recorder notes what reaches it and answers reads with the offset.
type recorder struct {
	log []string
}

func (r *recorder) Read(off uint64, p []byte) {
	r.log = append(r.log, fmt.Sprintf("r%#x/%d", off, len(p)))
	for i := range p {
		p[i] = byte(off) + byte(i)
	}
}

func (r *recorder) Write(off uint64, p []byte) {
	r.log = append(r.log, fmt.Sprintf("w%#x=%x", off, p))
}

func TestBusInsert(t *testing.T) {
	const top = math.MaxUint64
	tests := []struct {
		name       string
		base, size uint64
		want       error
	}{
		{"below", 0x0f, 1, nil},
		{"above", 0x20, 1, nil},
		{"same", 0x10, 0x10, ErrOverlap},
		{"inside", 0x18, 1, ErrOverlap},
		{"around", 0, 0x100, ErrOverlap},
		{"over the start", 0x0f, 2, ErrOverlap},
		{"over the end", 0x1f, 2, ErrOverlap},
		{"empty", 0x40, 0, ErrRange},
		{"empty at 0", 0, 0, ErrRange},
		{"wraps", top, 2, ErrRange},
		{"wraps by far", 0x40, top, ErrRange},
		{"ends at the top", top - 3, 4, nil},
		{"everything", 0, top, ErrOverlap},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var b Bus
			if err := b.Insert(0x10, 0x10, &recorder{}); err != nil {
				t.Fatal(err)
			}
			err := b.Insert(tt.base, tt.size, &recorder{})
			if !errors.Is(err, tt.want) {
				t.Errorf("Insert(%#x, %#x) = %v, want %v", tt.base, tt.size, err, tt.want)
			}
		})
	}
	var b Bus
	if b.Insert(0, 1, nil) == nil {
		t.Error("Insert of no device worked")
	}
}

func TestBusLookup(t *testing.T) {
	var b Bus
	devs := map[uint64]*recorder{}
	// Every second block of 8, inserted in an order of no merit, and one at the very top.
	for _, i := range []uint64{5, 0, 3, 9, 1, 7, 8, 2, 6, 4} {
		d := &recorder{}
		devs[i*16] = d
		if err := b.Insert(i*16, 8, d); err != nil {
			t.Fatal(err)
		}
	}
	topDev := &recorder{}
	if err := b.Insert(math.MaxUint64-7, 8, topDev); err != nil {
		t.Fatal(err)
	}
	for addr := range uint64(170) {
		p := []byte{0xaa}
		want := addr < 160 && addr%16 < 8
		if got := b.Read(addr, p); got != want {
			t.Fatalf("Read(%#x) found %v, want %v", addr, got, want)
		}
		if wantByte := byte(addr % 16); want && p[0] != wantByte || !want && p[0] != 0xff {
			t.Fatalf("Read(%#x) = %#x", addr, p[0])
		}
	}
	p := make([]byte, 8)
	if !b.Read(math.MaxUint64-7, p) || !bytes.Equal(p, []byte{0, 1, 2, 3, 4, 5, 6, 7}) {
		t.Errorf("read at the top = %v", p)
	}
	if err := b.Remove(16); err != nil {
		t.Fatal(err)
	}
	if b.Write(16, p) {
		t.Error("a removed device was written to")
	}
	if err := b.Remove(16); !errors.Is(err, ErrNoDevice) {
		t.Errorf("second Remove = %v, want %v", err, ErrNoDevice)
	}
}

// An access over the border of a device is broken into bytes, and one over the top of the address space does not
// come back at address 0.
func TestBusSplitAccess(t *testing.T) {
	var b Bus
	low, mid, top := &recorder{}, &recorder{}, &recorder{}
	for _, in := range []struct {
		base, size uint64
		d          *recorder
	}{{0, 1, low}, {0x10, 4, mid}, {math.MaxUint64 - 1, 2, top}} {
		if err := b.Insert(in.base, in.size, in.d); err != nil {
			t.Fatal(err)
		}
	}
	p := make([]byte, 4)
	if !b.Read(0x0e, p) || !bytes.Equal(p, []byte{0xff, 0xff, 0, 1}) {
		t.Errorf("read into the start = %x", p)
	}
	if !b.Write(0x12, []byte{1, 2, 3, 4}) {
		t.Error("write over the end reached nobody")
	}
	if want := "[r0x0/1 r0x1/1 w0x2=01 w0x3=02]"; fmt.Sprint(mid.log) != want {
		t.Errorf("accesses = %v, want %v", mid.log, want)
	}
	if !b.Read(math.MaxUint64, p) || !bytes.Equal(p, []byte{1, 0xff, 0xff, 0xff}) {
		t.Errorf("read over the top = %x", p)
	}
	if len(low.log) != 0 {
		t.Errorf("access over the top wrapped to address 0: %v", low.log)
	}
	if b.Read(0x10, nil) || b.Write(0x10, nil) {
		t.Error("an access of no bytes found a device")
	}
}

func TestBusConcurrent(t *testing.T) {
	var b Bus
	fixed := &recorder{}
	if err := b.Insert(0x100, 16, fixed); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for range 500 {
			if err := b.Insert(0, 16, &recorder{}); err != nil {
				t.Error(err)
			}
			if err := b.Remove(0); err != nil {
				t.Error(err)
			}
		}
	})
	p := make([]byte, 1)
	for range 5000 {
		if !b.Read(0x100, p) {
			t.Error("the device that stays was not found")
			break
		}
	}
	wg.Wait()
}

func TestBusDoesNotAllocate(t *testing.T) {
	var b Bus
	if err := b.Insert(0x10, 4, null{}); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 4)
	if n := testing.AllocsPerRun(100, func() { b.Read(0x10, p); b.Write(0x10, p); b.Read(0x12, p); b.Read(0x99, p) }); n != 0 {
		t.Errorf("%v allocations per access, want 0", n)
	}
}

type null struct{}

func (null) Read(uint64, []byte)  {}
func (null) Write(uint64, []byte) {}

func BenchmarkBus(b *testing.B) {
	var bus Bus
	for i := range uint64(16) {
		if err := bus.Insert(i*0x1000, 0x1000, null{}); err != nil {
			b.Fatal(err)
		}
	}
	p := make([]byte, 4)
	b.ReportAllocs()
	for i := range b.N {
		bus.Read(uint64(i%16)*0x1000+8, p)
	}
}
