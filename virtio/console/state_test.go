package console

import (
	"bytes"
	"testing"

	"github.com/hullvm/hull/virtio"
)

// TestState: what was typed and has not been read comes first in the restored guest, in order, and before what is typed there.
func TestState(t *testing.T) {
	old := device(t, nil)
	old.Feed(typed(0, inputLimit))
	drv := start(t, old)
	s := offer(drv, 100)
	s.Finish(drv.Rings[rxQueue].AwaitUsed())
	old.Feed(typed(inputLimit, 50)) // and with that the ring goes round
	if err := drv.Dev.Pause(); err != nil {
		t.Fatal(err)
	}
	state, err := drv.Dev.State()
	if err != nil {
		t.Fatal(err)
	}
	if err := drv.Dev.Close(); err != nil {
		t.Fatal(err)
	}

	d := device(t, nil)
	d.Feed([]byte("typed at the new host"))
	tr, err := connect(d, drv.Mem, drv.Line)
	if err != nil {
		t.Fatal(err)
	}
	drv.Dev = tr
	t.Cleanup(func() { tr.Close() })
	if err := tr.Restore(state); err != nil {
		t.Fatal(err)
	}
	if err := tr.Resume(); err != nil {
		t.Fatal(err)
	}
	var got []byte
	for _, want := range []int{inputLimit - 50, len("typed at the new host")} {
		s := offer(drv, 2*inputLimit)
		id, n := drv.Rings[rxQueue].AwaitUsed()
		s.Finish(id, n)
		if int(n) != want {
			t.Errorf("a buffer of %d bytes, want %d", n, want)
		}
		got = append(got, s.Answer()[:n]...)
		s.Free()
	}
	if want := append(typed(100, inputLimit-50), "typed at the new host"...); !bytes.Equal(got, want) {
		t.Errorf("read %d bytes that are not the %d that were typed", len(got), len(want))
	}
}

func FuzzState(f *testing.F) {
	s := suite
	s.New = func(t testing.TB) virtio.Device { return device(t, nil) }
	f.Add([]byte{stateVersion, 1, 'a', 'b'})
	f.Add(make([]byte, stateHeader+restoredLimit+1))
	s.FuzzState(f)
}
