package images

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// loadAs loads an image of one layer under a name.
func loadAs(t testing.TB, s *Store, name, content string) *Image {
	t.Helper()
	return mustLoad(t, s, dockerArchive(t, name, makeImage(t, "x", layerTar(t, "f="+content))))[0]
}

func names(t testing.TB, s *Store) []string {
	t.Helper()
	all, err := s.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, img := range all {
		if len(img.References) == 0 {
			out = append(out, "<none>")
		}
		for _, ref := range img.References {
			out = append(out, ref.Familiar())
		}
	}
	slices.Sort(out)
	return out
}

func TestGet(t *testing.T) {
	s := newStore(t)
	img := loadAs(t, s, "debian:12", "1")
	for _, ref := range []string{"debian:12", "docker.io/library/debian:12", "library/debian:12", img.ID.String(), img.ID.Hex, img.ID.Hex[:12], "sha256:" + img.ID.Hex[:4]} {
		if got, err := s.Get(t.Context(), ref); err != nil || got.ID != img.ID {
			t.Errorf("%s: %v", ref, err)
		}
	}
	for ref, want := range map[string]error{
		"debian": ErrNotFound, "debian:13": ErrNotFound, "ghcr.io/library/debian:12": ErrNotFound, "debian@" + someDigest: ErrNotFound,
		"A B": ErrReference, "": ErrReference, "sha256:": ErrReference, strings.Repeat("0", 64): ErrNotFound, "ffffffffffff": ErrNotFound,
	} {
		if _, err := s.Get(t.Context(), ref); !errors.Is(err, want) {
			t.Errorf("%q: %v; want %v", ref, err, want)
		}
	}
	// A name that looks like an identifier is a name first.
	other := loadAs(t, s, img.ID.Hex[:12], "2")
	if got, err := s.Get(t.Context(), img.ID.Hex[:12]); err != nil || got.ID != other.ID {
		t.Errorf("%v", err)
	}
}

func TestGetAmbiguous(t *testing.T) {
	s := newStore(t)
	seen := make(map[byte]bool)
	for i := 0; ; i++ {
		img := loadAs(t, s, "", strings.Repeat("x", i))
		first := img.ID.Hex[0]
		if seen[first] {
			if _, err := s.Get(t.Context(), string(first)); !errors.Is(err, ErrAmbiguous) {
				t.Errorf("error %v", err)
			}
			return
		}
		seen[first] = true
	}
}

// TestGetMissing: somebody has deleted a layer; loading again mends it.
func TestGetMissing(t *testing.T) {
	s := newStore(t)
	img := loadAs(t, s, "app", "1")
	for _, damage := range []func(string) error{os.Remove, func(name string) error {
		if err := os.Chmod(name, 0o600); err != nil {
			return err
		}
		return os.Truncate(name, 4096)
	}} {
		if err := damage(img.Disks[0].Path); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Get(t.Context(), "app"); !errors.Is(err, ErrMissing) {
			t.Errorf("error %v", err)
		}
		loadAs(t, s, "app", "1")
		got, err := s.Get(t.Context(), "app")
		if err != nil {
			t.Fatal(err)
		}
		checkImage(t, got)
	}
}

func TestBuiltin(t *testing.T) {
	s := newStore(t)
	disk := filepath.Join(t.TempDir(), "uroot.ext4")
	if err := os.WriteFile(disk, make([]byte, 8192), 0o600); err != nil {
		t.Fatal(err)
	}
	b := Builtin{Config: v1.ConfigFile{OS: "linux", Config: v1.Config{Cmd: []string{"/bin/sh"}}}, Layers: []Disk{{DiffID: hashOf(nil), Path: disk}}}
	for range 2 {
		if err := s.SetBuiltin("uroot", b); err != nil {
			t.Fatal(err)
		}
	}
	img, err := s.Get(t.Context(), "uroot")
	if err != nil || !img.Builtin || img.Disks[0].Path != disk || img.Size != 8192 || img.Config.Config.Cmd[0] != "/bin/sh" {
		t.Fatalf("%+v, %v", img, err)
	}
	if byID, err := s.Get(t.Context(), img.ID.Hex[:8]); err != nil || byID != img {
		t.Errorf("by ID: %v", err)
	}
	if got := names(t, s); !slices.Equal(got, []string{"uroot:latest"}) {
		t.Errorf("names %q", got)
	}
	if _, err := s.Remove(t.Context(), "uroot", RemoveOptions{Force: true}); !errors.Is(err, ErrBuiltin) {
		t.Errorf("remove: %v", err)
	}
	if err := s.Tag(t.Context(), "uroot", "x"); !errors.Is(err, ErrBuiltin) {
		t.Errorf("tag: %v", err)
	}
	// A user's own image of that name comes first, and can be removed.
	loadAs(t, s, "uroot", "1")
	if img, err := s.Get(t.Context(), "uroot"); err != nil || img.Builtin {
		t.Errorf("%+v, %v", img, err)
	}
	if _, err := s.Remove(t.Context(), "uroot", RemoveOptions{}); err != nil {
		t.Error(err)
	}
	if img, err := s.Get(t.Context(), "uroot"); err != nil || !img.Builtin {
		t.Errorf("%+v, %v", img, err)
	}
	for name, b := range map[string]Builtin{"A B": b, "x": {}, "y": {Layers: []Disk{{Path: "/nonexistent"}}}} {
		if err := s.SetBuiltin(name, b); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// remove removes and writes down what was done, as docker prints it.
func remove(t testing.TB, s *Store, ref string, opts RemoveOptions) (string, error) {
	t.Helper()
	done, err := s.Remove(t.Context(), ref, opts)
	var out []string
	for _, d := range done {
		if d.Untagged != "" {
			out = append(out, "Untagged: "+d.Untagged)
		} else {
			out = append(out, "Deleted")
		}
	}
	if g := garbage(t, s); g != nil {
		t.Errorf("left behind: %q", g)
	}
	return strings.Join(out, ", "), err
}

func TestRemove(t *testing.T) {
	s := newStore(t)
	img := loadAs(t, s, "app:1", "1")
	tag := func(name string) {
		if err := s.Tag(t.Context(), img.ID.String(), name); err != nil {
			t.Fatal(err)
		}
	}
	step := func(ref string, opts RemoveOptions, want string, wantErr error) {
		t.Helper()
		if got, err := remove(t, s, ref, opts); got != want || !errors.Is(err, wantErr) {
			t.Errorf("remove %s: %q, %v; want %q, %v", ref, got, err, want, wantErr)
		}
	}
	step("nothing", RemoveOptions{}, "", ErrNotFound)
	tag("app:2")
	step("app:1", RemoveOptions{}, "Untagged: app:1", nil)
	step("app:1", RemoveOptions{}, "", ErrNotFound)
	step("app:2", RemoveOptions{}, "Untagged: app:2, Deleted", nil)
	// By ID: its only name.
	loadAs(t, s, "app:1", "1")
	step(img.ID.Hex[:12], RemoveOptions{}, "Untagged: app:1, Deleted", nil)
	// Several names need force.
	loadAs(t, s, "app:1", "1")
	tag("app:2")
	step(img.ID.Hex[:12], RemoveOptions{}, "", ErrConflict)
	step(img.ID.Hex[:12], RemoveOptions{Force: true}, "Untagged: app:1, Untagged: app:2, Deleted", nil)
	loadAs(t, s, "app:1", "1")
	tag("other:2")
	step(img.ID.Hex, RemoveOptions{}, "", ErrConflict)
	step(img.ID.Hex, RemoveOptions{Force: true}, "Untagged: app:1, Untagged: other:2, Deleted", nil)
	// In use.
	loadAs(t, s, "app:1", "1")
	s.SetInUse(func() (map[v1.Hash][]User, error) {
		return map[v1.Hash][]User{img.ID: {{Name: "web"}, {Name: "db", Running: true}}}, nil
	})
	step("app:1", RemoveOptions{}, "", ErrInUse)
	step(img.ID.Hex, RemoveOptions{}, "", ErrInUse)
	step(img.ID.Hex, RemoveOptions{Force: true}, "", ErrInUse) // db runs
	tag("app:2")
	step("app:2", RemoveOptions{}, "Untagged: app:2", nil) // it keeps a name
	step("app:1", RemoveOptions{Force: true}, "Untagged: app:1", nil)
	if got := names(t, s); !slices.Equal(got, []string{"<none>"}) {
		t.Errorf("names %q", got)
	}
	s.SetInUse(nil)
	step(img.ID.Hex, RemoveOptions{}, "Deleted", nil)
	broken := errors.New("broken")
	loadAs(t, s, "app:1", "1")
	s.SetInUse(func() (map[v1.Hash][]User, error) { return nil, broken })
	step("app:1", RemoveOptions{Force: true}, "", broken)
}

// TestRemovePulled: the digest of a repository goes with its last tag.
func TestRemovePulled(t *testing.T) {
	reg := newRegistry(t)
	img := testImage(t)
	ref := reg.push(t, "app:1", img)
	digest, _ := img.Digest()
	byDigest := reg.host + "/app@" + digest.String()
	s := newStore(t)
	mustPull(t, s, ref)
	if got, err := remove(t, s, ref, RemoveOptions{}); got != "Untagged: "+ref+", Untagged: "+byDigest+", Deleted" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	mustPull(t, s, ref)
	if err := s.Tag(t.Context(), ref, "mine"); err != nil {
		t.Fatal(err)
	}
	if got, err := remove(t, s, ref, RemoveOptions{}); got != "Untagged: "+ref+", Untagged: "+byDigest || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := remove(t, s, "mine", RemoveOptions{}); got != "Untagged: mine:latest, Deleted" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	// By its digest, which leaves the tag.
	mustPull(t, s, ref)
	if got, err := remove(t, s, byDigest, RemoveOptions{}); got != "Untagged: "+byDigest || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := s.Get(t.Context(), ref); err != nil {
		t.Error(err)
	}
}

func TestTag(t *testing.T) {
	s := newStore(t)
	one, two := loadAs(t, s, "one", "1"), loadAs(t, s, "two", "2")
	if err := s.Tag(t.Context(), "one", "two"); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Get(t.Context(), "two"); err != nil || got.ID != one.ID || len(got.References) != 2 {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := s.Get(t.Context(), two.ID.Hex); err != nil || len(got.References) != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	for _, name := range []string{"A B", "x@" + someDigest} {
		if err := s.Tag(t.Context(), "one", name); !errors.Is(err, ErrReference) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := s.Tag(t.Context(), "three", "x"); !errors.Is(err, ErrNotFound) {
		t.Errorf("error %v", err)
	}
}

// TestAcquire: while somebody creates a container, the image is in use, also for other
// processes; once it is not, the next removal deletes it.
func TestAcquire(t *testing.T) {
	dir := t.TempDir()
	s, other := openStore(t, dir), openStore(t, dir)
	loadAs(t, s, "app", "1")
	img, release, err := s.Acquire(t.Context(), "app")
	if err != nil {
		t.Fatal(err)
	}
	again, releaseAgain, err := other.Acquire(t.Context(), img.ID.Hex)
	if err != nil || again.ID != img.ID {
		t.Fatal(err)
	}
	releaseAgain()
	for _, ref := range []string{"app", img.ID.Hex} {
		if _, err := other.Remove(t.Context(), ref, RemoveOptions{}); !errors.Is(err, ErrInUse) {
			t.Errorf("%s: error %v", ref, err)
		}
	}
	if done, err := other.Prune(t.Context(), PruneOptions{All: true}); err != nil || len(done.Removed) > 0 {
		t.Errorf("pruned %+v, %v", done, err)
	}
	if done, err := other.Remove(t.Context(), "app", RemoveOptions{Force: true}); err != nil || len(done) != 1 || done[0].Untagged != "app:latest" {
		t.Errorf("%+v, %v", done, err)
	}
	openStore(t, dir) // removes what dead processes have left
	if done, err := other.Prune(t.Context(), PruneOptions{}); err != nil || len(done.Removed) > 0 {
		t.Errorf("pruned %+v, %v", done, err)
	}
	checkImage(t, img)
	release()
	release()
	if _, err := other.Remove(t.Context(), img.ID.Hex, RemoveOptions{}); err != nil {
		t.Error(err)
	}
	if left := files(t, s); !slices.Equal(left, []string{"images/index.json"}) {
		t.Errorf("left behind: %q", left)
	}
	if _, _, err := s.Acquire(t.Context(), "app"); !errors.Is(err, ErrNotFound) {
		t.Errorf("error %v", err)
	}
	if _, _, err := s.Acquire(canceled(t), "app"); err == nil {
		t.Error("a canceled context was not noticed")
	}
}

// TestAcquireKilled: somebody who died while creating a container uses nothing.
func TestAcquireKilled(t *testing.T) {
	s := newStore(t)
	img := loadAs(t, s, "app", "1")
	if err := os.WriteFile(filepath.Join(s.tempDir(), usePrefix+img.ID.Hex+"-1"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if done, err := s.Remove(t.Context(), "app", RemoveOptions{}); err != nil || done[len(done)-1].Deleted != img.ID {
		t.Errorf("%+v, %v", done, err)
	}
}

// TestAcquireOrRemove: whoever acquires an image while others remove it has it whole, or not at all.
func TestAcquireOrRemove(t *testing.T) {
	dir := t.TempDir()
	archive := dockerArchive(t, "app", makeImage(t, "x", layerTar(t, "f=1")))
	for range 20 {
		mustLoad(t, openStore(t, dir), archive)
		var wg sync.WaitGroup
		for range 2 {
			s, other := openStore(t, dir), openStore(t, dir)
			wg.Go(func() {
				img, release, err := s.Acquire(t.Context(), "app")
				if errors.Is(err, ErrNotFound) {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
				defer release()
				openStore(t, dir)
				if _, err := s.Get(t.Context(), img.ID.String()); err != nil {
					t.Error(err)
				}
			})
			wg.Go(func() {
				if _, err := other.Remove(t.Context(), "app", RemoveOptions{}); err != nil && !errors.Is(err, ErrInUse) && !errors.Is(err, ErrNotFound) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
}

// TestForeignIndex: an index of another version, or a damaged one, is left alone.
func TestForeignIndex(t *testing.T) {
	for _, content := range []string{
		`{"version":2,"images":[]}`, `{"version":1`, `rubbish`, ``, `{"version":1,"images":[{"id":"x"}]}`,
		`{"version":1,"images":[{"id":"` + someDigest + `","manifest":"` + someDigest + `","layers":[{"diffID":"` + someDigest + `","chainID":"` + someDigest + `","blob":"` + someDigest + `","disk":"../../x"}]}]}`,
	} {
		dir := t.TempDir()
		s := openStore(t, dir)
		loadAs(t, s, "app", "1")
		if err := os.WriteFile(s.indexPath(), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		before := files(t, s)
		if _, err := Open(dir); err == nil {
			t.Errorf("opened with the index %q", content)
		}
		if _, err := s.Load(t.Context(), bytes.NewReader(dockerArchive(t, "x", testImage(t))), LoadOptions{}); err == nil {
			t.Errorf("loaded with the index %q", content)
		}
		if after := files(t, s); len(after) < len(before) {
			t.Errorf("files\n%q\nbecame\n%q", before, after)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(file); err == nil {
		t.Error("a file was opened as a store")
	}
}
