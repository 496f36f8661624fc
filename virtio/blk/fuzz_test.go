package blk

import (
	"bytes"
	"os"
	"testing"

	"github.com/hullvm/hull/virtio"
	"github.com/hullvm/hull/virtio/virtiotest"
)

// FuzzRequest sends one request in a ring without fault: whatever header and data say, there is one answer, the disk keeps its
// size, and what is beside the disk stays as it is.
func FuzzRequest(f *testing.F) {
	for _, r := range suite.Requests {
		f.Add(r.Out, uint16(r.In), false)
	}
	f.Add(ask(tIn, 1<<55), uint16(SectorSize+1), false)
	f.Add(ask(tOut, diskSectors-1, make([]byte, 2*SectorSize)...), uint16(1), true)
	f.Add(ask(tDiscard, 0, ranges([3]uint64{1<<64 - 1, 1<<32 - 1, 0}, [3]uint64{0, 8, 1})...), uint16(1), false)
	f.Add(ask(tWriteZeroes, 0, ranges([3]uint64{0, diskSectors + 1, 1})...), uint16(1), true)
	f.Fuzz(func(t *testing.T, out []byte, in uint16, readOnly bool) {
		if len(out) > 1<<16 || len(out)+int(in) == 0 {
			return
		}
		file := disk(t)
		b, err := OpenFile(file)
		if err != nil {
			t.Fatal(err)
		}
		dev, err := New(Config{Backend: b, ReadOnly: readOnly, ID: "fuzz"})
		if err != nil {
			t.Fatal(err)
		}
		before, err := os.ReadFile(file.Name())
		if err != nil {
			t.Fatal(err)
		}
		s := suite
		s.New = func(testing.TB) virtio.Device { return dev }
		d := s.NewDriver(t)
		d.Start(d.Offered())
		status := byte(sOK)
		d.Rings[0].Exchange(virtiotest.Request{Name: "fuzz", Out: out, In: int(in), Check: func(t testing.TB, in []byte, written int) {
			if len(in) == 0 {
				return
			}
			if status = in[len(in)-1]; written != len(in) || status > sUnsupp {
				t.Errorf("status %d, %d of %d bytes written", status, written, len(in))
			}
		}}, virtiotest.Layout{})
		after, err := os.ReadFile(file.Name())
		if err != nil {
			t.Fatal(err)
		}
		if len(after) != len(before) {
			t.Errorf("the disk has %d bytes, had %d", len(after), len(before))
		}
		if readOnly && !bytes.Equal(before, after) {
			t.Error("a read-only disk has changed")
		}
	})
}
