package engine

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFillMounts(t *testing.T) {
	for name, tt := range map[string]struct {
		mounts []Mount
		tmpfs  map[string]string
		want   string // in the error
	}{
		"good":                  {mounts: []Mount{{Source: "/a", Target: "/b"}, {Source: "v1", Volume: true, Target: "/b/c"}}, tmpfs: map[string]string{"/t": ""}},
		"the same place":        {mounts: []Mount{{Source: "/a", Target: "/b"}, {Source: "/c", Target: "/x/../b/"}}, want: "duplicate mount point: /b"},
		"the place of a tmpfs":  {mounts: []Mount{{Source: "/a", Target: "/t"}}, tmpfs: map[string]string{"/t/": ""}, want: "duplicate mount point: /t"},
		"the root":              {mounts: []Mount{{Source: "/a", Target: "/x/.."}}, want: "cannot be /"},
		"relative target":       {mounts: []Mount{{Source: "/a", Target: "b"}}, want: "absolute"},
		"relative source":       {mounts: []Mount{{Source: "a", Target: "/b"}}, want: "absolute"},
		"zero byte":             {mounts: []Mount{{Source: "/a", Target: "/b\x00"}}, want: "zero byte"},
		"volume out of its dir": {mounts: []Mount{{Source: "../x", Volume: true, Target: "/b"}}, want: "volume name"},
		"volume with a slash":   {mounts: []Mount{{Source: "a/b", Volume: true, Target: "/b"}}, want: "volume name"},
		"volume of one letter":  {mounts: []Mount{{Source: "a", Volume: true, Target: "/b"}}, want: "volume name"},
		"volume like a flag":    {mounts: []Mount{{Source: "-rf", Volume: true, Target: "/b"}}, want: "volume name"},
		"volume of two dots":    {mounts: []Mount{{Source: "..", Volume: true, Target: "/b"}}, want: "volume name"},
		"volume without a name": {mounts: []Mount{{Volume: true, Target: "/b"}}, want: "volume name"},
		"volume of a long name": {mounts: []Mount{{Source: strings.Repeat("x", 256), Volume: true, Target: "/b"}}, want: "volume name"},
	} {
		c := Config{Mounts: tt.mounts, Tmpfs: tt.tmpfs}
		if err := c.fillMounts(); (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

// A mount inside another comes after it, whatever they are and however they were given.
func TestMountOrder(t *testing.T) {
	c := Config{
		Mounts: []Mount{{Source: "/1", Target: "/a/b/c", ReadOnly: true}, {Source: "v2", Volume: true, Target: "/a"}, {Source: "/3", Target: "/a-b"}},
		Tmpfs:  map[string]string{"/a/b": ""},
	}
	mounts, err := c.mounts()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range mounts[len(defaultMounts(&Config{})):] {
		got = append(got, m.Type+" "+m.Destination+" "+strings.Join(m.Options, ","))
	}
	want := []string{"bind /a-b rbind,rprivate,nodev", "bind /a rbind,rprivate,nodev", "tmpfs /a/b noexec,nosuid,nodev", "bind /a/b/c rbind,rprivate,nodev,ro"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestOpenMount(t *testing.T) {
	s := &store{dirs: Dirs{Data: t.TempDir()}}
	for _, m := range []Mount{
		{Source: "vol", Volume: true, Target: "/v"},
		{Source: filepath.Join(s.dirs.Data, "made/here"), Create: true, Target: "/m"},
	} {
		for range 2 { // made the first time, there the second
			f, err := s.openMount(&m)
			if err != nil {
				t.Fatal(err)
			}
			if info, err := f.Stat(); err != nil || !info.IsDir() {
				t.Errorf("%s: %v, %v", m.Source, info, err)
			}
			f.Close()
		}
	}
	if info, err := os.Stat(filepath.Join(s.dirs.Data, "volumes/vol/_data")); err != nil || !info.IsDir() {
		t.Errorf("the volume: %v", err)
	}
	if err := checkPrivate(filepath.Join(s.dirs.Data, "volumes")); err != nil {
		t.Errorf("the volumes are open to others: %v", err)
	}
	if _, err := s.openMount(&Mount{Source: filepath.Join(s.dirs.Data, "none"), Target: "/m"}); err == nil || !strings.Contains(err.Error(), "bind source path does not exist") {
		t.Error(err)
	}
}

// A volume whose VM was killed cannot be had for reading only before its journal was replayed.
func TestNeedsRecovery(t *testing.T) {
	at := func(magic, incompat uint32) string {
		b := make([]byte, 2048)
		binary.LittleEndian.PutUint16(b[1024+0x38:], uint16(magic))
		binary.LittleEndian.PutUint32(b[1024+0x60:], incompat)
		return string(b)
	}
	for name, tt := range map[string]struct {
		disk string
		want bool
	}{
		"clean": {at(0xef53, 0x2c2), false}, "not unmounted": {at(0xef53, 0x2c6), true}, "no ext4": {at(0xef54, 0x2c6), false}, "short": {"x", false},
	} {
		if got := needsRecovery(strings.NewReader(tt.disk)); got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}
