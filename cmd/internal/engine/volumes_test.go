package engine

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/hullvm/hull/vmm"
)

func createVolume(t testing.TB, e *Engine, v Volume) *Volume {
	t.Helper()
	made, err := e.CreateVolume(t.Context(), v)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func volumeNames(t testing.TB, e *Engine) []string {
	t.Helper()
	all, err := e.Volumes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, v := range all {
		names = append(names, v.Name)
	}
	return names
}

func TestVolumes(t *testing.T) {
	e := newTestEngine(t)
	data := createVolume(t, e, Volume{Name: "data", Labels: map[string]string{"a": "b"}})
	if info, err := os.Stat(e.VolumePath("data")); err != nil || !info.IsDir() || info.Mode().Perm() != 0o755 {
		t.Errorf("%v, %v", info, err)
	}
	if again := createVolume(t, e, Volume{Name: "data"}); !again.Created.Equal(data.Created) || again.Labels["a"] != "b" {
		t.Errorf("%+v, want the one that is there, %+v", again, data)
	}
	if anonymous := createVolume(t, e, Volume{}); len(anonymous.Name) != IDLength || !anonymous.Anonymous {
		t.Errorf("%+v", anonymous)
	}
	// One that an older hull has made.
	if err := os.MkdirAll(e.VolumePath("older"), 0o755); err != nil {
		t.Fatal(err)
	}
	if v, err := e.GetVolume(t.Context(), "older"); err != nil || v.Created.IsZero() {
		t.Errorf("%+v, %v", v, err)
	}
	if names := volumeNames(t, e); len(names) != 3 {
		t.Errorf("%q", names)
	}
	for _, ref := range []string{"none", "../x", "", "."} {
		if _, err := e.GetVolume(t.Context(), ref); !errors.Is(err, ErrNoVolume) {
			t.Errorf("%q: %v", ref, err)
		}
		if _, err := e.RemoveVolume(t.Context(), ref); !errors.Is(err, ErrNoVolume) {
			t.Errorf("%q: %v", ref, err)
		}
	}
	if err := os.WriteFile(filepath.Join(e.VolumePath("data"), "file"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	removed, freed, err := e.PruneVolumes(t.Context(), func(v *Volume) bool { return v.Name == "data" })
	if err != nil || freed < 1<<20 || !cmp.Equal(removed, []string{"data"}) {
		t.Errorf("%q, %d bytes, %v", removed, freed, err)
	}
	// A record that cannot be read can be seen and removed.
	if err := os.WriteFile(filepath.Join(e.store.volumeRoot("older"), volumeName), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if names := volumeNames(t, e); len(names) != 2 || names[1] != "older" {
		t.Errorf("%q", names)
	}
	if _, err := e.RemoveVolume(t.Context(), "older"); err != nil {
		t.Error(err)
	}
}

func TestVolumeOptions(t *testing.T) {
	for name, tt := range map[string]struct {
		options map[string]string
		want    kind
		err     string
	}{
		"none":         {nil, kind{}, ""},
		"disk":         {map[string]string{"type": "disk"}, kind{true, 10 << 30}, ""},
		"size":         {map[string]string{"type": "disk", "size": "1g"}, kind{true, 1 << 30}, ""},
		"size alone":   {map[string]string{"size": "1g"}, kind{}, "type=disk"},
		"small":        {map[string]string{"type": "disk", "size": "1m"}, kind{}, "must be 256m"},
		"huge":         {map[string]string{"type": "disk", "size": "100t"}, kind{}, "must be 256m"},
		"no size":      {map[string]string{"type": "disk", "size": "many"}, kind{}, "must be 256m"},
		"another type": {map[string]string{"type": "nfs"}, kind{}, "only type=disk"},
		"another":      {map[string]string{"o": "bind"}, kind{}, `option "o"`},
	} {
		got, err := volumeKind(tt.options)
		if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) || err == nil && got != tt.want {
			t.Errorf("%s: %+v, %v; want %+v, %q", name, got, err, tt.want, tt.err)
		}
	}
}

// heldContainer is a container with mounts that has not run.
func heldContainer(t testing.TB, e *Engine, name string, c Config) *Container {
	t.Helper()
	c.Image = "test"
	if c.Args == nil {
		c.Args = []string{"true"}
	}
	container, err := e.Create(t.Context(), name, c)
	if err != nil {
		t.Fatal(err)
	}
	return container
}

func TestVolumesOfContainers(t *testing.T) {
	e := newTestEngine(t)
	images := &testImages{layer: filepath.Join(filepath.Dir(e.store.dirs.Data), "layer")}
	images.config = v1.Config{Cmd: []string{"true"}, Volumes: map[string]struct{}{"/var/data/": {}, "/taken": {}}}
	e.acquire = images.Acquire
	one := heldContainer(t, e, "one", Config{Mounts: []Mount{
		{Volume: true, Source: "named", Target: "/taken", Labels: map[string]string{"x": "y"}}, AnonymousMount("/anon"), {Source: "/", Target: "/bind"},
	}})
	if err := one.Leave(); err != nil {
		t.Fatal(err)
	}
	var targets []string
	for _, m := range one.latest().Config.Mounts {
		targets = append(targets, m.Target)
	}
	if diff := cmp.Diff([]string{"/taken", "/anon", "/bind", "/var/data"}, targets); diff != "" {
		t.Error(diff)
	}
	if v, err := e.GetVolume(t.Context(), "named"); err != nil || v.Labels["x"] != "y" || v.Anonymous {
		t.Errorf("%+v, %v", v, err)
	}
	if names := volumeNames(t, e); len(names) != 3 {
		t.Errorf("volumes %q, want three", names)
	}
	if _, err := e.RemoveVolume(t.Context(), "named"); !errors.Is(err, ErrVolumeInUse) || !strings.Contains(err.Error(), "remove named: volume is in use - ["+one.ID()+"]") {
		t.Errorf("a volume in use: %v", err)
	}
	if removed, _, err := e.PruneVolumes(t.Context(), func(*Volume) bool { return true }); err != nil || len(removed) > 0 {
		t.Errorf("pruned %q, %v", removed, err)
	}

	// Another one has the same, and its own where it says so; they are not its own to remove.
	two := heldContainer(t, e, "two", Config{VolumesFrom: []string{"one:ro"}, Tmpfs: map[string]string{"/anon": ""}, AutoRemove: true})
	got := make(map[string]Mount)
	for _, m := range two.latest().Config.Mounts {
		got[m.Target] = m
	}
	if len(got) != 3 || !got["/taken"].ReadOnly || got["/taken"].Source != "named" || got["/var/data"].Anonymous || got["/bind"].Source != "/" {
		t.Errorf("%+v", got)
	}
	if err := two.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	if names := volumeNames(t, e); len(names) != 3 {
		t.Errorf("volumes %q, want those of the first", names)
	}
	if _, err := e.Create(t.Context(), "", Config{Image: "test", VolumesFrom: []string{"nobody"}}); !errors.Is(err, ErrNoContainer) {
		t.Error(err)
	}
	if err := e.Remove(t.Context(), "one", false); err != nil {
		t.Fatal(err)
	}
	if names := volumeNames(t, e); len(names) != 3 {
		t.Errorf("volumes %q after rm, want them all", names)
	}
	if err := e.RemoveAnonymous(t.Context(), one.latest()); err != nil {
		t.Fatal(err)
	}
	if names := volumeNames(t, e); !cmp.Equal(names, []string{"named"}) {
		t.Errorf("volumes %q after rm -v", names)
	}
	// One that goes when it ends takes its own along; a name that is taken leaves none.
	three := heldContainer(t, e, "three", Config{AutoRemove: true})
	if _, err := e.Create(t.Context(), "three", Config{Image: "test"}); !errors.Is(err, ErrNameInUse) {
		t.Error(err)
	}
	if names := volumeNames(t, e); len(names) != 3 {
		t.Errorf("volumes %q, want those of one container more", names)
	}
	if err := three.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	if names := volumeNames(t, e); !cmp.Equal(names, []string{"named"}) {
		t.Errorf("volumes %q after --rm", names)
	}
}

// Whoever is killed takes the volumes along that are its own.
func TestAnonymousVolumesOfTheKilled(t *testing.T) {
	e := newTestEngine(t)
	c := heldContainer(t, e, "gone", Config{AutoRemove: true, Mounts: []Mount{AnonymousMount("/anon")}})
	if list := (&run{Container: c, record: c.latest()}).orphans(); !strings.Contains(strings.Join(list, " "), e.store.volumeRoot(c.latest().Config.Mounts[0].Source)) {
		t.Errorf("a VM process that is alone removes %q", list)
	}
	c.lock.Close() // and nothing else is done
	if _, err := e.List(t.Context()); err != nil {
		t.Fatal(err)
	}
	if names := volumeNames(t, e); len(names) != 0 {
		t.Errorf("volumes %q are left", names)
	}
}

func TestDiskVolumes(t *testing.T) {
	e := newTestEngine(t)
	options := map[string]string{"type": "disk", "size": "300m"}
	createVolume(t, e, Volume{Name: "db", Options: options})
	if info, err := os.Stat(e.VolumePath("db")); err != nil || info.Size() != 300<<20 {
		t.Errorf("%+v, %v", info, err)
	}
	if _, err := e.CreateVolume(t.Context(), Volume{Name: "db", Options: map[string]string{"type": "disk"}}); err == nil || !strings.Contains(err.Error(), "other options") {
		t.Error(err)
	}
	mounts := []Mount{{Volume: true, Source: "db", Target: "/db", Options: options}, {Volume: true, Source: "dir", Target: "/dir", NoCopy: true}}
	open := func(name string, readOnly bool) (*run, *vmm.Config, *fileTable, error) {
		mounts := append([]Mount(nil), mounts...)
		mounts[0].ReadOnly = readOnly
		c := heldContainer(t, e, name, Config{Mounts: mounts, AutoRemove: true})
		t.Cleanup(func() { _ = c.Release(context.Background()) })
		r, config, table := &run{Container: c, record: c.latest()}, &vmm.Config{Disks: make([]vmm.Disk, 2)}, &fileTable{}
		t.Cleanup(table.close)
		var err error
		config.Shares, err = r.share(config, table)
		return r, config, table, err
	}
	r, config, table, err := open("one", false)
	if err != nil {
		t.Fatal(err)
	}
	if len(config.Disks) != 3 || len(config.Shares) != 1 || len(r.volumes) != 1 || r.volumes[0].Disk != "vdc" || !r.volumes[0].Copy || r.shares[0].Copy {
		t.Errorf("%+v, %+v, %+v", config, r.volumes, r.shares)
	}
	for _, readOnly := range []bool{false, true} {
		if _, _, _, err := open("", readOnly); err == nil || !strings.Contains(err.Error(), "in use by another container") {
			t.Errorf("a disk for two VMs, read-only %v: %v", readOnly, err)
		}
	}
	table.close()
	for range 2 { // all of them only read
		if _, _, _, err := open("", true); err != nil {
			t.Error(err)
		}
	}
	many := &vmm.Config{Disks: make([]vmm.Disk, maxGuestDisks)}
	if _, err := r.share(many, &fileTable{}); err == nil {
		t.Error("more disks than there are letters")
	}
}

func FuzzParseVolume(f *testing.F) {
	f.Add([]byte(`{"version":1,"name":"data","options":{"type":"disk","size":"1g"}}`))
	f.Add([]byte(`{"version":9}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		v, err := parseVolumeRecord(data, "data")
		if err == nil && v.Name != "data" {
			t.Errorf("%+v", v)
		}
	})
}
