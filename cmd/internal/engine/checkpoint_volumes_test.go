package engine

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hullvm/hull/guestinit/proto"
)

// TestVolumesOfACheckpoint: a container goes on with a disk that is as it left it, and with no other.
func TestVolumesOfACheckpoint(t *testing.T) {
	e := &Engine{}
	e.store.dirs.Data = t.TempDir()
	disk := func(name string) string { return filepath.Join(e.store.volumeRoot(name), volumeDiskName) }
	for _, name := range []string{"data", "other"} {
		if err := errors.Join(os.MkdirAll(e.store.volumeRoot(name), 0o700), os.WriteFile(disk(name), diskOf("saved"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	r := &run{
		Container: &Container{engine: e},
		record: &Record{Config: Config{Mounts: []Mount{
			{Source: "/host", Target: "/host"}, {Volume: true, Source: "files", Target: "/files"}, {Volume: true, Source: "data", Target: "/data"},
		}}},
		volumes: []proto.Volume{{Destination: "/data"}},
	}
	volumes, err := r.saveVolumes()
	if err != nil || len(volumes) != 1 || volumes[0].Name != "data" {
		t.Fatalf("%+v, %v", volumes, err)
	}
	r.checkpoint = &checkpoint{Volumes: volumes}
	// open is what a life does that goes on from the checkpoint.
	open := func(name string) error {
		table := &fileTable{}
		defer table.close()
		d, err := r.openDiskVolume(&Mount{Volume: true, Source: name, Target: "/data"}, table)
		if err == nil && d == nil {
			return errors.New("no disk")
		}
		return err
	}
	if err := open("data"); err != nil {
		t.Errorf("as it was: %v", err)
	}
	if err := open("other"); err == nil || !strings.Contains(err.Error(), "without this disk") {
		t.Errorf("one that it did not have: %v", err)
	}
	info, err := os.Stat(disk("data"))
	if err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func() error{
		"it has been written to": func() error {
			// Clocks of file systems are coarse: until it is another time.
			for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
				err := errors.Join(os.WriteFile(disk("data"), diskOf("later"), 0o600), os.Chtimes(disk("data"), info.ModTime(), info.ModTime()))
				if v, _ := r.saveVolumes(); err != nil || !slices.Equal(v, volumes) {
					return err
				}
			}
			return errors.New("the time of change stays the same")
		},
		"this is another disk": func() error {
			return errors.Join(os.WriteFile(disk("data")+".new", diskOf("saved"), 0o600), os.Rename(disk("data")+".new", disk("data")))
		},
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
		if err := open("data"); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%v, want %q", err, what)
		}
		if r.checkpoint.Volumes, err = r.saveVolumes(); err != nil {
			t.Fatal(err)
		}
		if err := open("data"); err != nil {
			t.Errorf("as it is now: %v", err)
		}
		volumes = r.checkpoint.Volumes
	}
}

func TestSavableVolumes(t *testing.T) {
	writes, reads := proto.Volume{Destination: "/data"}, proto.Volume{Destination: "/ro", ReadOnly: true}
	for _, tt := range []struct {
		volumes []proto.Volume
		stop    bool
		want    string
	}{
		{nil, false, ""},
		{[]proto.Volume{writes, reads}, true, ""},
		{[]proto.Volume{reads}, false, ""},
		{[]proto.Volume{reads, writes}, false, "what is mounted at /data is a volume on a disk"},
	} {
		err := checkSavableVolumes(tt.volumes, tt.stop)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v, stop %v: %v, want %q", tt.volumes, tt.stop, err, tt.want)
		}
	}
}
