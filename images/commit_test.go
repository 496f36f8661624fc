package images

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// bringing is a layer of a container that is committed.
func bringing(raw []byte) func(context.Context, func(io.Reader) error) error {
	return func(_ context.Context, take func(io.Reader) error) error { return take(bytes.NewReader(raw)) }
}

func TestCommit(t *testing.T) {
	s := newStore(t)
	base, err := s.Import(t.Context(), bytes.NewReader(layerTar(t, "etc/", "etc/old=1", "etc/gone=1", "dir/", "dir/x=1")), ImportOptions{
		Reference: "base", Changes: []string{"ENV A=1"}, Created: when, Message: "base"})
	if err != nil {
		t.Fatal(err)
	}
	top := layerTar(t, "etc/", "etc/.wh.gone=", "etc/new=2", "dir/", "dir/.wh..wh..opq=", "dir/y=2")
	opts := CommitOptions{
		Reference: "new:1", Config: v1.Config{Cmd: []string{"x"}}, Author: "me", Message: "why", CreatedBy: "sh", Created: when, Layer: bringing(top),
	}
	img, err := s.Commit(t.Context(), base, opts)
	if err != nil {
		t.Fatal(err)
	}
	c := img.Config
	if want := []v1.Hash{base.Config.RootFS.DiffIDs[0], hashOf(top)}; !slices.Equal(c.RootFS.DiffIDs, want) {
		t.Errorf("diffIDs %v, want %v", c.RootFS.DiffIDs, want)
	}
	if c.Author != "me" || !c.Created.Equal(when) || c.Config.Cmd[0] != "x" || c.Config.Env != nil || c.OS != "linux" || len(c.History) != 2 ||
		c.History[0].Comment != "base" || c.History[1].Comment != "why" || c.History[1].CreatedBy != "sh" || c.History[1].EmptyLayer {
		t.Errorf("configuration %+v", c)
	}
	if len(img.Disks) != 2 || img.Disks[0] != base.Disks[0] {
		t.Errorf("disks %+v upon %+v", img.Disks, base.Disks)
	}
	checkImage(t, img)
	// The same again is the same image, and upon that one can build.
	again, err := s.Commit(t.Context(), base, opts)
	if err != nil || again.ID != img.ID {
		t.Errorf("again: %v, %v", again, err)
	}
	third, err := s.Commit(t.Context(), img, CommitOptions{Layer: bringing(layerTar(t, "z=3"))})
	if err != nil || len(third.Config.RootFS.DiffIDs) != 3 || len(third.Disks) != 3 || len(third.References) != 0 {
		t.Errorf("upon it: %+v, %v", third, err)
	}
	if g := garbage(t, s); g != nil {
		t.Errorf("left behind: %q", g)
	}
}

// A layer without changes is not a layer.
func TestCommitNothing(t *testing.T) {
	s := newStore(t)
	base, err := s.Import(t.Context(), bytes.NewReader(layerTar(t, "f=1")), ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	img, err := s.Commit(t.Context(), base, CommitOptions{Layer: bringing(layerTar(t))})
	if err != nil || len(img.Config.RootFS.DiffIDs) != 1 || len(img.Disks) != 1 || !img.Config.History[1].EmptyLayer || img.ID == base.ID {
		t.Errorf("%+v, %v", img, err)
	}
}

// The store has no archives of a built-in image: they are brought with the layer.
func TestCommitBuiltin(t *testing.T) {
	s := newStore(t)
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(disk, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	config := v1.ConfigFile{OS: "linux", Architecture: "amd64", RootFS: v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{hashOf([]byte("x"))}}}
	if err := s.SetBuiltin("own", Builtin{Config: config, Layers: []Disk{{DiffID: config.RootFS.DiffIDs[0], Path: disk}}}); err != nil {
		t.Fatal(err)
	}
	base, err := s.Get(t.Context(), "own")
	if err != nil {
		t.Fatal(err)
	}
	lower := layerTar(t, "bin/", "bin/sh=#!")
	img, err := s.Commit(t.Context(), base, CommitOptions{
		Layer: bringing(layerTar(t, "bin/", "bin/.wh.sh=")),
		BaseLayer: func(ctx context.Context, n int, take func(io.Reader) error) error {
			if n != 1 {
				t.Errorf("asked for layer %d", n)
			}
			return bringing(lower)(ctx, take)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(img.Disks) != 2 || img.Builtin || img.Config.RootFS.DiffIDs[0] != hashOf(lower) {
		t.Errorf("%+v, %v", img, img.Config.RootFS)
	}
	checkImage(t, img)
}

func TestCommitRefuses(t *testing.T) {
	s := newStore(t)
	base, err := s.Import(t.Context(), bytes.NewReader(layerTar(t, "f=1")), ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	good := layerTar(t, "g=1", "h=2")
	gone := errors.New("the guest has gone")
	for name, c := range map[string]struct {
		opts CommitOptions
		is   error
	}{
		"cut":          {CommitOptions{Layer: bringing(good[:len(good)-1024])}, ErrArchive},
		"no tar":       {CommitOptions{Layer: bringing(bytes.Repeat([]byte("x"), 2048))}, nil},
		"nothing":      {CommitOptions{Layer: func(context.Context, func(io.Reader) error) error { return nil }}, ErrArchive},
		"source fails": {CommitOptions{Layer: func(context.Context, func(io.Reader) error) error { return gone }}, gone},
		"fails after": {CommitOptions{Layer: func(ctx context.Context, take func(io.Reader) error) error {
			return errors.Join(bringing(good)(ctx, take), gone)
		}}, gone},
		"bad name": {CommitOptions{Reference: "A B", Layer: bringing(good)}, ErrReference},
		"digest":   {CommitOptions{Reference: "a@" + hashOf(good).String(), Layer: bringing(good)}, ErrReference},
	} {
		img, err := s.Commit(t.Context(), base, c.opts)
		if err == nil || c.is != nil && !errors.Is(err, c.is) {
			t.Errorf("%s: %v, %v; want %v", name, img, err, c.is)
		}
	}
	all, err := s.List(t.Context())
	if err != nil || len(all) != 1 {
		t.Errorf("there are %d images, %v", len(all), err)
	}
	if g := garbage(t, s); g != nil {
		t.Errorf("left behind: %q", g)
	}
}
