package memory

import (
	"bytes"
	"errors"
	"io"
	"math"
	"testing"

	"pgregory.net/rapid"
)

var (
	_ io.ReaderAt = (*Memory)(nil)
	_ io.WriterAt = (*Memory)(nil)
)

func newMemory(t testing.TB, size uint64, opts Options) *Memory {
	t.Helper()
	m, err := New(size, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func TestNewSizes(t *testing.T) {
	host, err := hostMemory()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		size uint64
		opts Options
		want error
	}{
		{"nothing", 0, Options{}, ErrSize},
		{"one byte", 1, Options{}, ErrSize},
		{"not a page", PageSize + 1, Options{}, ErrSize},
		{"half a huge page", HugePageSize / 2, Options{HugePages: true}, ErrSize},
		{"more than the host", host/PageSize*PageSize + PageSize, Options{}, ErrHostMemory},
		{"2^64 less a page", math.MaxUint64 - PageSize + 1, Options{}, ErrHostMemory},
		{"2^63", 1 << 63, Options{}, ErrHostMemory},
		{"more huge pages than the host", host &^ (HugePageSize - 1), Options{HugePages: true}, ErrHostMemory},
		{"a page", PageSize, Options{}, nil},
		{"no multiple of 2 MiB", HugePageSize + PageSize, Options{Transparent: THPAlways}, nil},
		{"without transparent huge pages", 64 << 20, Options{Transparent: THPNever}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, err := New(tt.size, tt.opts)
			if !errors.Is(err, tt.want) {
				t.Fatalf("error %v, want %v", err, tt.want)
			}
			if err != nil {
				t.Log(err)
				return
			}
			if got := m.Size(); got != tt.size {
				t.Errorf("Size() = %d, want %d", got, tt.size)
			}
			if err := m.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestRegions(t *testing.T) {
	host, err := hostMemory()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		size uint64
		want []Region
	}{
		{PageSize, []Region{{GPA: 0, Size: PageSize}}},
		{LowEnd, []Region{{GPA: 0, Size: LowEnd}}},
		{LowEnd + PageSize, []Region{{GPA: 0, Size: LowEnd}, {GPA: HighStart, Size: PageSize}}},
		{5 << 30, []Region{{GPA: 0, Size: LowEnd}, {GPA: HighStart, Size: 2 << 30}}},
	} {
		if tt.size > host {
			t.Logf("skipping %d MiB: the host has %d", tt.size>>20, host>>20)
			continue
		}
		m := newMemory(t, tt.size, Options{})
		got := m.Regions()
		if len(got) != len(tt.want) {
			t.Fatalf("%#x bytes: %d regions, want %d", tt.size, len(got), len(tt.want))
		}
		for i, r := range got {
			if r.GPA != tt.want[i].GPA || r.Size != tt.want[i].Size || uint64(len(r.Bytes)) != r.Size || uint64(cap(r.Bytes)) != r.Size {
				t.Errorf("%#x bytes: region %d is %#x+%#x (%#x bytes)", tt.size, i, r.GPA, r.Size, len(r.Bytes))
			}
			if uint64(r.HostAddress())%HugePageSize != r.GPA%HugePageSize {
				t.Errorf("region %d: host address %#x cannot use huge pages", i, r.HostAddress())
			}
			if r.End() != r.GPA+r.Size {
				t.Errorf("region %d ends at %#x", i, r.End())
			}
		}
		got[0].GPA = 42 // a copy: the memory itself does not change
		if m.Regions()[0].GPA != 0 {
			t.Error("Regions hands out its own table")
		}
	}
}

// highMemory returns RAM on both sides of the hole without the size it would
// take: the tables are made by hand.
func highMemory(t testing.TB, low, high int) *Memory {
	t.Helper()
	b := make([]byte, low+high)
	return &Memory{size: uint64(len(b)), regions: []Region{
		{GPA: 0, Size: uint64(low), Bytes: b[:low:low]},
		{GPA: HighStart, Size: uint64(high), Bytes: b[low:]},
	}}
}

func TestSlice(t *testing.T) {
	m := highMemory(t, 4*PageSize, 2*PageSize)
	const low, high = 4 * PageSize, HighStart + 2*PageSize
	for _, tt := range []struct {
		name string
		gpa  uint64
		n    int
		ok   bool
	}{
		{"all of low RAM", 0, low, true},
		{"one byte more", 0, low + 1, false},
		{"the last byte", low - 1, 1, true},
		{"the last two and one more", low - 2, 3, false},
		{"no byte, inside", 17, 0, true},
		{"no byte, at the end", low, 0, false},
		{"the hole", low, 1, false},
		{"no byte in the hole", 0xd000_0000, 0, false},
		{"just before high RAM", HighStart - 1, 2, false},
		{"all of high RAM", HighStart, 2 * PageSize, true},
		{"from low RAM to high RAM", 0, low + 1, false},
		{"past high RAM", high, 1, false},
		{"end of high RAM", high - 1, 1, true},
		{"wraps", math.MaxUint64, 1, false},
		{"wraps to low RAM", math.MaxUint64 - 10, 20, false},
		{"longest", 0, math.MaxInt, false},
		{"longest from the end", low - 1, math.MaxInt, false},
		{"negative", 0, -1, false},
		{"most negative", PageSize, math.MinInt, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, err := m.Slice(tt.gpa, tt.n)
			if ok := err == nil; ok != tt.ok {
				t.Fatalf("Slice(%#x, %#x): %v", tt.gpa, tt.n, err)
			}
			if err == nil {
				if len(b) != tt.n || cap(b) != tt.n {
					t.Errorf("%d bytes, capacity %d, want %d", len(b), cap(b), tt.n)
				}
				return
			}
			var re *RangeError
			if !errors.As(err, &re) || !errors.Is(err, ErrRange) || re.GPA != tt.gpa {
				t.Errorf("error %#v is no *RangeError for %#x", err, tt.gpa)
			}
		})
	}
}

func TestReadWriteAt(t *testing.T) {
	m := highMemory(t, PageSize, PageSize)
	want := []byte("guest")
	for _, gpa := range []int64{0, PageSize - 5, HighStart + 7} {
		if n, err := m.WriteAt(want, gpa); n != 5 || err != nil {
			t.Fatalf("WriteAt %#x: %d, %v", gpa, n, err)
		}
		got := make([]byte, 5)
		if n, err := m.ReadAt(got, gpa); n != 5 || err != nil || !bytes.Equal(got, want) {
			t.Fatalf("ReadAt %#x: %d, %v, %q", gpa, n, err, got)
		}
	}
	for _, gpa := range []int64{-1, math.MinInt64, PageSize - 4, HighStart - 1, math.MaxInt64} {
		if n, err := m.WriteAt(want, gpa); n != 0 || !errors.Is(err, ErrRange) {
			t.Errorf("WriteAt %#x: %d, %v", gpa, n, err)
		}
		if n, err := m.ReadAt(want, gpa); n != 0 || !errors.Is(err, ErrRange) {
			t.Errorf("ReadAt %#x: %d, %v", gpa, n, err)
		}
	}
}

func TestClose(t *testing.T) {
	m, err := New(PageSize, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := m.Slice(0, 1); !errors.Is(err, ErrClosed) {
		t.Errorf("Slice after Close: %v", err)
	}
	if _, err := m.WriteAt([]byte{1}, 0); !errors.Is(err, ErrClosed) {
		t.Errorf("WriteAt after Close: %v", err)
	}
	if err := m.CopyFrom(0, bytes.NewReader([]byte{1}), "it", 0, 1); !errors.Is(err, ErrClosed) {
		t.Errorf("CopyFrom after Close: %v", err)
	}
}

// inRAM says, in arithmetic that cannot wrap, whether all bytes are in one of
// the regions of highMemory(low, high).
func inRAM(gpa uint64, n int, low, high int) bool {
	inside := func(start, size uint64) bool {
		if gpa < start || gpa-start >= size || n < 0 {
			return false
		}
		return uint64(n) <= size-(gpa-start)
	}
	return inside(0, uint64(low)) || inside(HighStart, uint64(high))
}

func TestSliceProperties(t *testing.T) {
	const low, high = 8 * PageSize, 4 * PageSize
	m := highMemory(t, low, high)
	addresses := rapid.OneOf(
		rapid.Uint64(),
		rapid.Uint64Range(0, low+PageSize),
		rapid.Uint64Range(HighStart-PageSize, HighStart+high+PageSize),
		rapid.Uint64Range(math.MaxUint64-PageSize, math.MaxUint64),
	)
	lengths := rapid.OneOf(rapid.Int(), rapid.IntRange(-1, low+1))
	rapid.Check(t, func(t *rapid.T) {
		gpa, n := addresses.Draw(t, "gpa"), lengths.Draw(t, "n")
		b, err := m.Slice(gpa, n)
		if want := inRAM(gpa, n, low, high); (err == nil) != want {
			t.Fatalf("Slice(%#x, %#x) = %v, want inside: %v", gpa, n, err, want)
		}
		if err == nil && (len(b) != n || cap(b) != n) {
			t.Fatalf("Slice(%#x, %#x) has %d bytes, capacity %d", gpa, n, len(b), cap(b))
		}
	})
}

// FuzzSlice looks for a panic and for bytes that are not RAM.
func FuzzSlice(f *testing.F) {
	f.Add(uint64(0), 1)
	f.Add(uint64(math.MaxUint64), math.MaxInt)
	f.Add(uint64(HighStart-1), 2)
	f.Add(uint64(LowEnd), 0)
	f.Add(uint64(1<<63), math.MinInt)
	const low, high = 2 * PageSize, PageSize
	m := highMemory(f, low, high)
	f.Fuzz(func(t *testing.T, gpa uint64, n int) {
		b, err := m.Slice(gpa, n)
		if (err == nil) != inRAM(gpa, n, low, high) {
			t.Fatalf("Slice(%#x, %#x): %v", gpa, n, err)
		}
		for i := range b {
			b[i]++
		}
	})
}

func BenchmarkNew(b *testing.B) {
	for b.Loop() {
		m, err := New(512<<20, Options{})
		if err != nil {
			b.Fatal(err)
		}
		if err := m.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSlice(b *testing.B) {
	m := highMemory(b, PageSize, PageSize)
	for b.Loop() {
		if _, err := m.Slice(HighStart+64, 16); err != nil {
			b.Fatal(err)
		}
	}
}

// TestDiscard gives pages back: they read as zero, their neighbours stay, and the host has the memory.
func TestDiscard(t *testing.T) {
	m := newMemory(t, 16*PageSize, Options{Transparent: THPNever})
	all, err := m.Slice(0, 16*PageSize)
	if err != nil {
		t.Fatal(err)
	}
	for i := range all {
		all[i] = 1
	}
	// From the middle of page 3 to the middle of page 7: three whole pages.
	if err := m.Discard(all[3*PageSize+100 : 7*PageSize+100]); err != nil {
		t.Fatal(err)
	}
	resident, err := mincore(all)
	if err != nil {
		t.Fatal(err)
	}
	for page := range 16 {
		gone := page >= 4 && page < 7
		if resident[page] == gone {
			t.Errorf("page %d: in memory %v, want %v", page, resident[page], !gone)
		}
	}
	for page := range 16 {
		want := byte(1)
		if page >= 4 && page < 7 {
			want = 0
		}
		if got := all[page*PageSize+200]; got != want {
			t.Errorf("page %d holds %d, want %d", page, got, want)
		}
	}
	for _, none := range [][]byte{nil, all[:0], all[1:2], all[1 : PageSize+1], all[PageSize-1 : 2*PageSize-1]} {
		if err := m.Discard(none); err != nil {
			t.Errorf("%d bytes without a whole page: %v", len(none), err)
		}
	}
}
