package fs_test

import (
	"errors"
	"testing"

	"github.com/hullvm/hull/virtio"
	"github.com/hullvm/hull/vmm/share"
)

// TestState: a file system that is mounted cannot be saved, and goes on; one that is not can be.
func TestState(t *testing.T) {
	dir := shared(t)
	dev := device(t, dir, share.Config{})
	g := mount(t, dev)
	if err := g.drv.Dev.Pause(); err != nil {
		t.Fatal(err)
	}
	if _, err := g.drv.Dev.State(); !errors.Is(err, virtio.ErrUnsaved) {
		t.Errorf("State of a device in use = %v", err)
	}
	if err := g.drv.Dev.Resume(); err != nil {
		t.Fatal(err)
	}
	g.lookup(1, "file")
	g.call(request(destroy, 1, nil, ""), 0, 0)
	suite(dir).Move(g.drv)
	g.call(hello, 64, 0)
	g.lookup(1, "file")
}

func FuzzState(f *testing.F) { suite(shared(f)).FuzzState(f) }
