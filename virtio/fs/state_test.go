package fs_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/hullvm/hull/virtio"
	"github.com/hullvm/hull/virtio/fs"
	"github.com/hullvm/hull/virtio/virtiotest"
	"github.com/hullvm/hull/vmm/share"
)

// TestState: a file system goes on in another device with what is open, in the middle of a directory too, and without a session.
func TestState(t *testing.T) {
	dir := shared(t)
	g := mount(t, device(t, dir, share.Config{}))
	file := g.lookup(1, "file")
	h, list := g.open(open, file, syscall.O_RDWR), g.open(opendir, 1, 0)
	g.call(request(write, file, transfer(h, 7, 4), ", or"), 8, 0)
	first := g.call(request(readdir, 1, transfer(list, 0, 100), ""), 100, 0)
	n, off := 0, uint64(0)
	for e := first; len(e) > 0; n++ {
		off = binary.LittleEndian.Uint64(e[8:])
		e = e[(24+int(binary.LittleEndian.Uint32(e[16:]))+7)&^7:]
	}
	for range 2 {
		suite(dir).Move(g.drv)
		if got := g.call(request(read, file, transfer(h, 0, 100), ""), 100, 0); string(got) != "content, or" {
			t.Errorf("read %q", got)
		}
		rest := g.call(request(readdir, 1, transfer(list, off, 4096), ""), 4096, 0)
		m := 0
		for ; len(rest) > 0; m++ {
			rest = rest[(24+int(binary.LittleEndian.Uint32(rest[16:]))+7)&^7:]
		}
		if n+m != 5 {
			t.Errorf("%d and %d entries", n, m)
		}
		// What was agreed on at the beginning still holds: this is none of the oldest protocol.
		g.call(request(rename2, 1, []uint32{1, 0, 0, 0}, "file\x00file\x00"), 0, 0)
	}
	g.call(request(release, file, []uint32{h, 0, 0, 0, 0, 0}, ""), 0, 0)
	g.call(request(destroy, 1, nil, ""), 0, 0)
	suite(dir).Move(g.drv)
	g.call(request(getattr, 1, make([]uint32, 4), ""), 104, syscall.EIO)
	g.call(hello, 64, 0)
	g.lookup(1, "file")
}

// TestStateWithARemovedFile: it cannot be saved while somebody has that open, and goes on.
func TestStateWithARemovedFile(t *testing.T) {
	dir := shared(t)
	g := mount(t, device(t, dir, share.Config{}))
	file := g.lookup(1, "file")
	h := g.open(open, file, syscall.O_RDONLY)
	if err := os.Remove(filepath.Join(dir, "file")); err != nil {
		t.Fatal(err)
	}
	if err := g.drv.Dev.Pause(); err != nil {
		t.Fatal(err)
	}
	if _, err := g.drv.Dev.State(); !errors.Is(err, virtio.ErrUnsaved) {
		t.Errorf("State = %v", err)
	} else {
		t.Log(err)
	}
	if err := g.drv.Dev.Resume(); err != nil {
		t.Fatal(err)
	}
	if got := g.call(request(read, file, transfer(h, 0, 100), ""), 100, 0); string(got) != "content" {
		t.Errorf("read %q", got)
	}
	g.call(request(release, file, []uint32{h, 0, 0, 0, 0, 0}, ""), 0, 0)
	suite(dir).Move(g.drv)
	g.call(request(open, file, []uint32{0, 0}, ""), 16, syscall.ESTALE)
}

// FuzzState restores any bytes: they are refused, or what is saved then can be restored, as the same.
func FuzzState(f *testing.F) {
	dir := shared(f)
	add := func(dev *fs.Device) {
		p, err := dev.SaveState()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(p)
		f.Add(append(bytes.Clone(p), 0))
		f.Add(bytes.Repeat([]byte{0xff}, len(p)))
	}
	dev := device(f, dir, share.Config{})
	add(dev)
	g := mount(f, dev)
	g.open(open, g.lookup(1, "file"), syscall.O_RDWR)
	g.open(opendir, g.lookup(1, "sub"), 0)
	if err := g.drv.Dev.Pause(); err != nil {
		f.Fatal(err)
	}
	add(dev)
	f.Add([]byte(`{"init":"","files":{"last":3}}`))
	f.Fuzz(func(t *testing.T, p []byte) {
		d := device(t, dir, share.Config{})
		if err := d.RestoreState(p); err != nil {
			if !errors.Is(err, virtio.ErrState) {
				t.Errorf("RestoreState(%q) = %v, want %v", p, err, virtio.ErrState)
			}
			return
		}
		again, err := d.SaveState()
		if err != nil {
			t.Fatalf("%q was restored, and %v saved", p, err)
		}
		other := device(t, dir, share.Config{})
		if err := other.RestoreState(again); err != nil {
			t.Fatalf("%q became %q: %v", p, again, err)
		}
		if third, err := other.SaveState(); err != nil || !bytes.Equal(third, again) {
			t.Errorf("%q became %q, and then %q, %v", p, again, third, err)
		}
		mountRestored(t, d)
	})
}

// mountRestored lets a driver begin with the device.
func mountRestored(t *testing.T, d virtio.Device) {
	s := suite("")
	s.New = func(testing.TB) virtio.Device { return d }
	g := &guest{t: t, drv: s.NewDriver(t)}
	g.start()
	g.drv.Rings[requests].Exchange(virtiotest.Request{Name: "request", Queue: requests, Out: hello, In: 80, Check: checkHello}, virtiotest.Layout{Table: true})
	g.lookup(1, "file")
}
