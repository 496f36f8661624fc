package blk

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/hullvm/hull/virtio"
	"github.com/hullvm/hull/virtio/mmio"
	"github.com/hullvm/hull/virtio/virtiotest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func connect(dev virtio.Device, mem virtio.Memory, irq virtiotest.IRQ) (virtiotest.Transport, error) {
	return mmio.New(dev, mem, irq, mmio.Options{})
}

const diskSectors = 64

// disk makes a file whose sector n is full of the byte n+1.
func disk(t testing.TB) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	for i := range diskSectors {
		if _, err := f.Write(bytes.Repeat([]byte{byte(i + 1)}, SectorSize)); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func device(t testing.TB, readOnly bool) virtio.Device {
	t.Helper()
	b, err := OpenFile(disk(t))
	if err != nil {
		t.Fatal(err)
	}
	d, err := New(Config{Backend: b, ReadOnly: readOnly, ID: "hull-disk"})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// ask is the readable part of a request: header and data.
func ask(typ uint32, sector uint64, data ...byte) []byte {
	h := make([]byte, headerSize)
	binary.LittleEndian.PutUint32(h, typ)
	binary.LittleEndian.PutUint64(h[8:], sector)
	return append(h, data...)
}

func ranges(list ...[3]uint64) (out []byte) {
	for _, r := range list {
		out = binary.LittleEndian.AppendUint64(out, r[0])
		out = binary.LittleEndian.AppendUint32(out, uint32(r[1]))
		out = binary.LittleEndian.AppendUint32(out, uint32(r[2]))
	}
	return out
}

// answers checks the status, and the data where it is given.
func answers(status byte, data []byte) func(testing.TB, []byte, int) {
	return func(t testing.TB, in []byte, written int) {
		t.Helper()
		if written != len(in) {
			t.Errorf("%d of %d bytes written", written, len(in))
		}
		if got := in[len(in)-1]; got != status {
			t.Errorf("status %d, want %d", got, status)
		}
		if data != nil && !bytes.Equal(in[:len(in)-1], data) {
			t.Errorf("data % x…, want % x…", in[:8], data[:8])
		}
	}
}

// two is what sectors 1 and 2 hold. No request of the suite changes them.
var two = append(bytes.Repeat([]byte{2}, SectorSize), bytes.Repeat([]byte{3}, SectorSize)...)

var suite = virtiotest.Suite{
	New:       func(t testing.TB) virtio.Device { return device(t, false) },
	Connect:   connect,
	ConfigLen: configSize,
	Requests: []virtiotest.Request{
		{Name: "read", Out: ask(tIn, 1), In: len(two) + 1, Check: answers(sOK, two)},
		{Name: "write", Out: ask(tOut, 8, two...), In: 1, Check: answers(sOK, nil)},
		{Name: "flush", Out: ask(tFlush, 0), In: 1, Check: answers(sOK, nil)},
		{Name: "id", Out: ask(tGetID, 0), In: IDSize + 1, Check: answers(sOK, append([]byte("hull-disk"), make([]byte, 11)...))},
		{Name: "write zeroes", Needs: 1 << fWriteZeroes, Out: ask(tWriteZeroes, 0, ranges([3]uint64{16, 8, 0}, [3]uint64{24, 8, 1})...), In: 1, Check: answers(sOK, nil)},
		{Name: "discard", Needs: 1 << fDiscard, Out: ask(tDiscard, 0, ranges([3]uint64{32, 8, 0})...), In: 1, Check: answers(sOK, nil)},
		{Name: "unknown type", Out: ask(4711, 0), In: 1, Check: answers(sUnsupp, nil)},
	},
}

func TestSuite(t *testing.T)     { virtiotest.Run(t, suite) }
func FuzzRing(f *testing.F)      { suite.FuzzRing(f) }
func FuzzRegisters(f *testing.F) { suite.FuzzRegisters(f) }

// TestRequestsThatMustFail are cases 17 and 18 of what a guest may try, and
// the promises of 5.2.6.2.
func TestRequestsThatMustFail(t *testing.T) {
	for name, c := range map[string]struct {
		out    []byte
		in     int
		status byte
	}{
		"read past the end":              {ask(tIn, diskSectors-1), 2*SectorSize + 1, sIOErr},
		"read at the end":                {ask(tIn, diskSectors), SectorSize + 1, sIOErr},
		"sector times 512 overflows":     {ask(tIn, 1<<55), SectorSize + 1, sIOErr},
		"sector of all ones":             {ask(tIn, 1<<64-1), SectorSize + 1, sIOErr},
		"read of part of a sector":       {ask(tIn, 0), 100 + 1, sIOErr},
		"read of nothing":                {ask(tIn, 0), 1, sIOErr},
		"write past the end":             {ask(tOut, diskSectors, make([]byte, SectorSize)...), 1, sIOErr},
		"write of part of a sector":      {ask(tOut, 0, 1, 2, 3), 1, sIOErr},
		"id into too little":             {ask(tGetID, 0), 10 + 1, sIOErr},
		"short header":                   {make([]byte, 15), 1, sIOErr},
		"unknown type":                   {ask(2, 0), 1, sUnsupp},
		"legacy type with barrier":       {ask(1<<31, 0), SectorSize + 1, sUnsupp},
		"discard past the end":           {ask(tDiscard, 0, ranges([3]uint64{diskSectors, 1, 0})...), 1, sIOErr},
		"discard, second range bad":      {ask(tDiscard, 0, ranges([3]uint64{0, 8, 0}, [3]uint64{1 << 60, 8, 0})...), 1, sIOErr},
		"discard of nothing":             {ask(tDiscard, 0, ranges([3]uint64{0, 0, 0})...), 1, sIOErr},
		"discard, no ranges":             {ask(tDiscard, 0), 1, sIOErr},
		"discard, part of a range":       {ask(tDiscard, 0, 1, 2, 3), 1, sIOErr},
		"discard, too many ranges":       {ask(tDiscard, 0, make([]byte, (maxRanges+1)*rangeSize)...), 1, sIOErr},
		"discard, unmap flag":            {ask(tDiscard, 0, ranges([3]uint64{0, 8, 1})...), 1, sUnsupp},
		"write zeroes, unknown flag":     {ask(tWriteZeroes, 0, ranges([3]uint64{0, 8, 2})...), 1, sUnsupp},
		"write zeroes, range overflows":  {ask(tWriteZeroes, 0, ranges([3]uint64{1<<64 - 1, 1<<32 - 1, 0})...), 1, sIOErr},
		"write zeroes, longer than told": {ask(tWriteZeroes, 0, ranges([3]uint64{0, maxRangeSectors + 1, 0})...), 1, sIOErr},
	} {
		t.Run(name, func(t *testing.T) {
			var f *os.File
			s := suite
			s.New = func(t testing.TB) virtio.Device {
				f = disk(t)
				b, err := OpenFile(f)
				if err != nil {
					t.Fatal(err)
				}
				d, err := New(Config{Backend: b})
				if err != nil {
					t.Fatal(err)
				}
				return d
			}
			d := s.NewDriver(t)
			before, err := os.ReadFile(f.Name())
			if err != nil {
				t.Fatal(err)
			}
			d.Start(d.Offered())
			d.Rings[0].Exchange(virtiotest.Request{Out: c.out, In: c.in, Check: func(t testing.TB, in []byte, written int) {
				answers(c.status, make([]byte, c.in-1))(t, in, written) // no data comes with an error
			}}, virtiotest.Layout{})
			after, err := os.ReadFile(f.Name())
			if err != nil || !bytes.Equal(before, after) {
				t.Errorf("the disk has changed, %v", err)
			}
		})
	}
}

// TestReadOnly is case 28: nothing that changes a read-only disk succeeds.
func TestReadOnly(t *testing.T) {
	s := suite
	s.New = func(t testing.TB) virtio.Device { return device(t, true) }
	d := s.NewDriver(t)
	d.Start(d.Offered())
	if d.Offered()&(1<<fRO) == 0 || d.Offered()&(1<<fDiscard|1<<fWriteZeroes) != 0 {
		t.Errorf("features %#x of a read-only disk", d.Offered())
	}
	for name, out := range map[string][]byte{
		"write":        ask(tOut, 0, make([]byte, SectorSize)...),
		"discard":      ask(tDiscard, 0, ranges([3]uint64{0, 8, 0})...),
		"write zeroes": ask(tWriteZeroes, 0, ranges([3]uint64{0, 8, 0})...),
	} {
		t.Run(name, func(t *testing.T) {
			d.Rings[0].Exchange(virtiotest.Request{Out: out, In: 1, Check: answers(sIOErr, nil)}, virtiotest.Layout{})
		})
	}
	d.Rings[0].Exchange(virtiotest.Request{Out: ask(tIn, 1), In: len(two) + 1, Check: answers(sOK, two)}, virtiotest.Layout{})
}

// TestRawStaysRaw is case 19: a header of another format that the guest writes
// is data.
func TestRawStaysRaw(t *testing.T) {
	d := suite.NewDriver(t)
	d.Start(d.Offered())
	qcow := append([]byte("QFI\xfb\x00\x00\x00\x03"), make([]byte, SectorSize-8)...)
	d.Rings[0].Exchange(virtiotest.Request{Out: ask(tOut, 0, qcow...), In: 1, Check: answers(sOK, nil)}, virtiotest.Layout{})
	d.Rings[0].Exchange(virtiotest.Request{Out: ask(tIn, 0), In: SectorSize + 1, Check: answers(sOK, qcow)}, virtiotest.Layout{})
}

func TestFilesThatAreNoDisks(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, empty, os.DevNull} {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := OpenFile(f); err == nil {
			t.Errorf("%s became a disk", path)
		} else {
			t.Log(err)
		}
	}
}

func TestConfigurations(t *testing.T) {
	b, err := OpenFile(disk(t))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]Config{
		"no backend":     {},
		"block size 100": {Backend: b, BlockSize: 100},
		"block size 8k":  {Backend: b, BlockSize: 8192},
		"long ID":        {Backend: b, ID: "twenty-one characters"},
	} {
		if _, err := New(c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
