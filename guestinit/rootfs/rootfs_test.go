package rootfs

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/hullvm/hull/guestinit/proto"
)

func TestPartition(t *testing.T) {
	for disk, want := range map[string]string{"vda": "vda3", "nvme0n1": "nvme0n1p3", "": "3"} {
		if got := Partition(disk, 3); got != want {
			t.Errorf("%q: %q, want %q", disk, got, want)
		}
	}
}

func TestValidDevice(t *testing.T) {
	for name, want := range map[string]bool{
		"vda": true, "nvme0n1p1": true, "": false, "../sda": false, "a/b": false, ".": false, "vda\x00": false,
		"abcdefghijklmnopqrstuvwxyzabcdefgh": false,
	} {
		if got := ValidDevice(name); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
}

func TestProbe(t *testing.T) {
	for _, s := range signatures() {
		path := filepath.Join(t.TempDir(), "disk")
		image := make([]byte, s.offset+len(s.magic))
		copy(image[s.offset:], s.magic)
		if err := os.WriteFile(path, image, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := probe(path); err != nil || got != s.kind {
			t.Errorf("%s: %q, %v", s.kind, got, err)
		}
		if err := os.WriteFile(path, image[:len(image)-1], 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := probe(path); !errors.Is(err, ErrUnknownFilesystem) {
			t.Errorf("%s cut: %q, %v", s.kind, got, err)
		}
	}
}

func TestMountRefuses(t *testing.T) {
	dir := t.TempDir()
	for name, cfg := range map[string]proto.RootFS{
		"too many layers": {Disk: "vda", Layers: MaxLayers + 1},
		"negative layers": {Disk: "vda", Layers: -1},
		"path as a disk":  {Disk: "../etc/passwd"},
		"no disk":         {},
	} {
		_, err := Mount(cfg, dir, dir)
		var e *proto.Error
		if !errors.As(err, &e) || e.Code != proto.CodeInvalid {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "vda"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Mount(proto.RootFS{Disk: "vda"}, dir, dir); err == nil {
		t.Error("mounted a file that is no device")
	}
}
