package balloon

import (
	"encoding/binary"
	"testing"

	"github.com/hullvm/hull/virtio"
	"github.com/hullvm/hull/virtio/virtiotest"
)

// FuzzPages inflates the balloon by any list of pages: only the guest's own memory is given back, page by whole page, or the
// device gives up.
func FuzzPages(f *testing.F) {
	f.Add(pages(3, 4, 5, 9, 8, 7))
	f.Add(pages(3, 3, 3, 2, 3))
	f.Add(pages(0x1ff, 0x200, 0x2ff, 0x300)) // over the border of two regions, and into the hole
	f.Add(pages(0xffffffff, 0, 0xfffffffe))
	f.Add(append(pages(7), 1, 2, 3))
	f.Fuzz(func(t *testing.T, list []byte) {
		if len(list) == 0 || len(list) > 1<<16 {
			return
		}
		mem := virtiotest.NewMemory()
		given, outside := 0, 0
		dev, err := New(Config{Discard: func(p []byte) error {
			given += len(p) / PageSize
			if !wholePages(mem, p) {
				outside++
			}
			return nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		s := suite
		s.New = func(testing.TB) virtio.Device { return dev }
		d := s.NewDriverIn(t, mem)
		d.Start(d0())
		r := d.Rings[inflateQueue]
		sent := r.Place(virtiotest.Request{Out: list, Check: nothing}, virtiotest.Layout{Piece: 1000})
		r.Offer(sent.Head())
		r.Quiesce()
		failed := d.Status()&virtiotest.NeedsReset != 0
		if err := d.Dev.Pause(); err != nil { // what the worker has counted is seen
			t.Fatal(err)
		}
		if outside > 0 {
			t.Errorf("%d times memory given back that is not the guest's", outside)
		}
		if !failed && given != len(list)/4 {
			t.Errorf("%d pages given back, want %d", given, len(list)/4)
		}
	})
}

// FuzzStats takes any report: it keeps the last value of each known tag, and nothing else.
func FuzzStats(f *testing.F) {
	f.Add(report(4, 1000, 5, 2000, 99, 1, 5, 3000))
	f.Add(append(report(6, 500), 1, 2, 3))
	f.Add(report(0xffff, 1, 15, 1<<64-1))
	f.Add(make([]byte, 2*maxStats))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == 0 || len(b) > 1<<16 {
			return
		}
		dev := device(t, &host{})
		s := suite
		s.New = func(testing.TB) virtio.Device { return dev }
		d := s.NewDriver(t)
		d.Start(d0())
		r := d.Rings[statsQueue]
		r.Offer(r.Place(virtiotest.Request{Out: b, Check: nothing}, virtiotest.Layout{}).Head())
		r.Quiesce()
		want := map[Tag]uint64{}
		for p := b[:min(len(b), maxStats)]; len(p) >= entryLen; p = p[entryLen:] {
			if tag := Tag(binary.LittleEndian.Uint16(p)); tag < tagLimit {
				want[tag] = binary.LittleEndian.Uint64(p[2:])
			}
		}
		got := dev.Stats()
		if got.Serial != 1 || len(got.Values) != len(want) {
			t.Errorf("report %d with %v, want %v", got.Serial, got.Values, want)
		}
		for tag, value := range want {
			if got.Values[tag] != value {
				t.Errorf("%v is %d, want %d", tag, got.Values[tag], value)
			}
		}
	})
}
