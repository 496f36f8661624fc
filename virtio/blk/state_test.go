package blk

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/hullvm/hull/virtio"
	"github.com/hullvm/hull/virtio/virtiotest"
)

// TestState: the driver's choice of a write cache goes along, and a disk that has grown meanwhile is announced.
func TestState(t *testing.T) {
	for _, writeBack := range []byte{0, 1} {
		size := int64(diskSectors * SectorSize)
		s := suite
		s.New = func(t testing.TB) virtio.Device {
			f := disk(t)
			if err := f.Truncate(size); err != nil {
				t.Fatal(err)
			}
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
		d.Start(d.Offered())
		d.Dev.Write(virtiotest.RegConfig+offWriteback, []byte{writeBack})
		generation := d.Read(virtiotest.RegConfigGeneration)
		s.Move(d)
		if got := d.Config(offWriteback, 1); got[0] != writeBack {
			t.Errorf("writeback = %d, was %d", got[0], writeBack)
		}
		if d.Read(virtiotest.RegInterruptStatus) != 0 || d.Read(virtiotest.RegConfigGeneration) != generation {
			t.Error("the driver is told of a new configuration, which is the old one")
		}
		edges := d.Line.Edges()
		size *= 2
		s.Move(d)
		if got := binary.LittleEndian.Uint64(d.Config(0, 8)); got != 2*diskSectors {
			t.Errorf("capacity = %d", got)
		}
		if d.Read(virtiotest.RegInterruptStatus) != 2 || d.Read(virtiotest.RegConfigGeneration) == generation || d.Line.Edges() == edges {
			t.Error("the driver is not told of the new capacity")
		}
		d.Rings[0].Exchange(virtiotest.Request{
			Name: "read where there was nothing", Out: ask(tIn, 2*diskSectors-1), In: SectorSize + 1, Check: answers(sOK, bytes.Repeat([]byte{0}, SectorSize)),
		}, virtiotest.Layout{})
	}
}

func FuzzState(f *testing.F) { suite.FuzzState(f) }
