package images

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// diskUse is the size of all files of a store but its index and locks.
func diskUse(t testing.TB, s *Store) (total int64) {
	t.Helper()
	for _, name := range files(t, s) {
		if name == "images/index.json" {
			continue
		}
		info, err := os.Stat(filepath.Join(s.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		total += info.Size()
	}
	return total
}

func TestPrune(t *testing.T) {
	reg := newRegistry(t)
	fill := func() (s *Store, byID map[v1.Hash]string) {
		s = newStore(t)
		shared := layerTar(t, "shared="+noise(10_000))
		byID = make(map[v1.Hash]string)
		add := func(name, tag string, layers ...[]byte) {
			img := mustLoad(t, s, dockerArchive(t, tag, makeImage(t, name, layers...)))[0]
			byID[img.ID] = name
		}
		add("tagged", "tagged:1", shared, layerTar(t, "a=1"))
		add("two tags", "two:1", shared)
		mustTag(t, s, "two:1", "two:2")
		add("dangling", "", shared, layerTar(t, "b="+noise(10_000)))
		add("used", "used:1", layerTar(t, "c=1"))
		add("used, dangling", "", layerTar(t, "d=1"))
		pulled := mustPull(t, s, reg.push(t, "app:1", makeImage(t, "by digest", layerTar(t, "e=1"))))
		if _, err := s.Remove(t.Context(), reg.host+"/app:1", RemoveOptions{}); err != nil {
			t.Fatal(err)
		}
		pulled = mustPull(t, s, reg.host+"/app@"+pulled.Manifest.String())
		byID[pulled.ID] = "by digest"
		s.SetInUse(func() (map[v1.Hash][]User, error) {
			users := make(map[v1.Hash][]User)
			for id, name := range byID {
				if name == "used" || name == "used, dangling" {
					users[id] = []User{{Name: "web"}}
				}
			}
			return users, nil
		})
		return s, byID
	}
	for what, c := range map[string]struct {
		opts PruneOptions
		want []string
	}{
		"dangling":      {PruneOptions{}, []string{"by digest", "dangling"}},
		"all":           {PruneOptions{All: true}, []string{"by digest", "dangling", "tagged", "two tags"}},
		"all, old":      {PruneOptions{All: true, Until: when.Add(time.Second)}, []string{"by digest", "dangling", "tagged", "two tags"}},
		"all, older":    {PruneOptions{All: true, Until: when.Add(-time.Second)}, nil},
		"label":         {PruneOptions{All: true, Labels: []string{"nope"}}, nil},
		"without label": {PruneOptions{NotLabels: []string{"nope"}}, []string{"by digest", "dangling"}},
	} {
		s, byID := fill()
		before := diskUse(t, s)
		done, err := s.Prune(t.Context(), c.opts)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, r := range done.Removed {
			if r.Untagged == "" {
				got = append(got, byID[r.Deleted])
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: removed %q; want %q", what, got, c.want)
		}
		if freed := before - diskUse(t, s); freed != done.Reclaimed || (freed > 0) != (len(c.want) > 0) {
			t.Errorf("%s: reclaimed %d, says %d", what, freed, done.Reclaimed)
		}
		if g := garbage(t, s); g != nil {
			t.Errorf("%s: left behind: %q", what, g)
		}
		again, err := s.Prune(t.Context(), c.opts)
		if err != nil || len(again.Removed) > 0 || again.Reclaimed != 0 {
			t.Errorf("%s, again: %+v, %v", what, again, err)
		}
		for _, name := range []string{"used:1"} {
			if img, err := s.Get(t.Context(), name); err != nil {
				t.Errorf("%s: %v", what, err)
			} else {
				checkImage(t, img)
			}
		}
	}
	s, _ := fill()
	broken := errors.New("broken")
	s.SetInUse(func() (map[v1.Hash][]User, error) { return nil, broken })
	before := files(t, s)
	if _, err := s.Prune(t.Context(), PruneOptions{All: true}); !errors.Is(err, broken) || !slices.Equal(files(t, s), before) {
		t.Errorf("error %v", err)
	}
}

func TestPruneLabels(t *testing.T) {
	s := newStore(t)
	id := mustLoad(t, s, dockerArchive(t, "app:1", configured(t)))[0].ID
	for _, c := range []struct {
		labels, not []string
		want        bool
	}{
		{nil, nil, true}, {[]string{"k"}, nil, true}, {[]string{"k=v"}, nil, true}, {[]string{"k=w"}, nil, false},
		{[]string{"k", "other"}, nil, false}, {nil, []string{"k"}, false}, {nil, []string{"k=w"}, true}, {[]string{"k"}, []string{"k=v"}, false},
	} {
		done, err := s.Prune(t.Context(), PruneOptions{All: true, Labels: c.labels, NotLabels: c.not})
		if err != nil || (len(done.Removed) > 0) != c.want {
			t.Errorf("%q, not %q: %+v, %v", c.labels, c.not, done, err)
		}
		if c.want {
			if last := done.Removed[len(done.Removed)-1]; last.Deleted != id || done.Removed[0].Untagged != "app:1" {
				t.Errorf("removed %+v", done.Removed)
			}
			mustLoad(t, s, dockerArchive(t, "app:1", configured(t)))
		}
	}
}
