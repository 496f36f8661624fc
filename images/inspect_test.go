package images

import (
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

// configured is testImage with a configuration that has something of everything.
func configured(t testing.TB) v1.Image {
	t.Helper()
	img := testImage(t)
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c = c.DeepCopy()
	c.Author = "me"
	c.Config = v1.Config{
		User: "1:2", Env: []string{"A=1"}, Cmd: []string{"x"}, Entrypoint: []string{"e"}, WorkingDir: "/w", StopSignal: "SIGINT",
		Labels: map[string]string{"k": "v"}, Volumes: map[string]struct{}{"/v": {}}, ExposedPorts: map[string]struct{}{"80/tcp": {}},
	}
	c.History = []v1.History{
		{CreatedBy: "one", Created: v1.Time{Time: when}},
		{CreatedBy: "ENV A=1", EmptyLayer: true},
		{CreatedBy: "two", Comment: "the second"},
	}
	if img, err = mutate.ConfigFile(img, c); err != nil {
		t.Fatal(err)
	}
	return img
}

func TestInspect(t *testing.T) {
	reg := newRegistry(t)
	img := configured(t)
	s := newStore(t)
	pulled := mustPull(t, s, reg.push(t, "app:1", img))
	mustTag(t, s, pulled.ID.Hex, "short")
	d, err := s.Inspect(t.Context(), "short")
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	at := func(path string) any {
		var v any = got
		for _, key := range strings.Split(path, ".") {
			m, ok := v.(map[string]any)
			if !ok {
				return nil
			}
			v = m[key]
		}
		return v
	}
	digest, _ := img.Digest()
	var diffIDs []any
	for _, l := range pulled.Config.RootFS.DiffIDs {
		diffIDs = append(diffIDs, l.String())
	}
	for path, want := range map[string]any{
		"Id": pulled.ID.String(), "Author": "me", "Comment": "the second", "Created": "2023-11-14T22:13:20Z",
		"Os": "linux", "Architecture": "amd64", "Size": float64(pulled.Size), "Parent": "",
		"RepoTags":    []any{reg.host + "/app:1", "short:latest"},
		"RepoDigests": []any{reg.host + "/app@" + digest.String()},
		"RootFS.Type": "layers", "RootFS.Layers": diffIDs,
		"Config.User": "1:2", "Config.WorkingDir": "/w", "Config.StopSignal": "SIGINT", "Config.Env": []any{"A=1"},
		"Config.Cmd": []any{"x"}, "Config.Entrypoint": []any{"e"}, "Config.Labels.k": "v", "Config.Volumes": map[string]any{"/v": map[string]any{}},
		"Config.ExposedPorts": map[string]any{"80/tcp": map[string]any{}}, "Config.OnBuild": nil, "Config.Hostname": "", "Config.Tty": false,
		"GraphDriver.Name": "hull", "Descriptor.digest": digest.String(),
	} {
		if gotJSON, wantJSON := toJSON(t, at(path)), toJSON(t, want); string(gotJSON) != string(wantJSON) {
			t.Errorf("%s: %s; want %s", path, gotJSON, wantJSON)
		}
	}
	if disks := strings.Split(d.GraphDriver.Data["Disks"], ":"); len(disks) != 3 || disks[0] != pulled.Disks[0].Path {
		t.Errorf("disks %q", disks)
	}
	if _, err := s.Inspect(t.Context(), "nothing"); !errors.Is(err, ErrNotFound) {
		t.Errorf("error %v", err)
	}
	// What has lost a layer can be looked at.
	damage(t, s, checkOriginal(t, s, pulled).manifest.Layers[0].Digest, true)
	if d, err := s.Inspect(t.Context(), "short"); err != nil || d.Descriptor != nil || d.Id != pulled.ID.String() {
		t.Errorf("%+v, %v", d, err)
	}
}

// TestInspectBuiltin: the image that hull carries has neither digest nor manifest.
func TestInspectBuiltin(t *testing.T) {
	s := newStore(t)
	builtin := Builtin{Config: v1.ConfigFile{OS: "linux", RootFS: v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{hashOf(nil)}}}, Layers: []Disk{{DiffID: hashOf(nil), Path: "x", Size: 8192}}}
	if err := s.SetBuiltin("uroot", builtin); err != nil {
		t.Fatal(err)
	}
	d, err := s.Inspect(t.Context(), "uroot")
	if err != nil || d.Descriptor != nil || !slices.Equal(d.RepoTags, []string{"uroot:latest"}) || d.Size != 8192 || len(d.RepoDigests) != 0 {
		t.Errorf("%+v, %v", d, err)
	}
	steps, err := s.History(t.Context(), "uroot")
	if err != nil || len(steps) != 1 || steps[0].Size != 8192 || steps[0].ID.String() != d.Id {
		t.Errorf("%+v, %v", steps, err)
	}
}

// TestHistory: the last step first, with sizes of those that have a layer; layers
// that the history leaves out come last in the making.
func TestHistory(t *testing.T) {
	s := newStore(t)
	img := mustLoad(t, s, dockerArchive(t, "app:1", configured(t)))[0]
	steps, err := s.History(t.Context(), "app:1")
	if err != nil || len(steps) != 4 {
		t.Fatalf("%+v, %v", steps, err)
	}
	for i, want := range []Step{
		{ID: img.ID, Tags: []string{"app:1"}, Created: when.UTC(), Size: img.Disks[2].Size},
		{CreatedBy: "two", Comment: "the second", Size: img.Disks[1].Size},
		{CreatedBy: "ENV A=1"},
		{CreatedBy: "one", Created: when.UTC(), Size: img.Disks[0].Size},
	} {
		if got := steps[i]; string(toJSON(t, got)) != string(toJSON(t, want)) {
			t.Errorf("step %d: %+v; want %+v", i, got, want)
		}
	}
	// More steps with layers than there are layers.
	c := img.Config.DeepCopy()
	c.History = slices.Repeat([]v1.History{{CreatedBy: "x"}}, 5)
	long, err := mutate.ConfigFile(configured(t), c)
	if err != nil {
		t.Fatal(err)
	}
	mustLoad(t, s, dockerArchive(t, "long:1", long))
	steps, err = s.History(t.Context(), "long:1")
	if err != nil || len(steps) != 5 || steps[0].Size != 0 || steps[2].Size != img.Disks[2].Size {
		t.Errorf("%+v, %v", steps, err)
	}
	if _, err := s.History(t.Context(), "nothing"); !errors.Is(err, ErrNotFound) {
		t.Errorf("error %v", err)
	}
	if err := os.Remove(s.blobPath(img.ID)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.History(t.Context(), "app:1"); !errors.Is(err, ErrMissing) {
		t.Errorf("error %v", err)
	}
}
