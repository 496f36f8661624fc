package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hullvm/hull/cmd/internal/engine"
)

func TestParseVolume(t *testing.T) {
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for given, want := range map[string]engine.Mount{
		"/a:/b":                  {Source: "/a", Target: "/b", Create: true},
		"/a/../c:/b:ro":          {Source: "/c", Target: "/b", Create: true, ReadOnly: true},
		"/a:/b:rw,z":             {Source: "/a", Target: "/b", Create: true},
		"/a:/b:ro,cached":        {Source: "/a", Target: "/b", Create: true, ReadOnly: true, Cache: true},
		"/a:/b:consistent":       {Source: "/a", Target: "/b", Create: true},
		".:/b":                   {Source: here, Target: "/b", Create: true},
		"./x:/b":                 {Source: filepath.Join(here, "x"), Target: "/b", Create: true},
		"../x:/b":                {Source: filepath.Join(here, "../x"), Target: "/b", Create: true},
		"name:/b":                {Source: "name", Volume: true, Target: "/b"},
		"name:/b:ro,nocopy":      {Source: "name", Volume: true, Target: "/b", ReadOnly: true, NoCopy: true},
		"name/sub:relative":      {Source: "name/sub", Volume: true, Target: "relative"}, // refused by the engine
		"/b":                     {Volume: true, Anonymous: true, Target: "/b"},
		"b":                      {},
		"/a:/b:nocopy":           {},
		"":                       {},
		"/a:/b:ro:more":          {},
		"/a::ro":                 {},
		":/b":                    {},
		"/a:/b:":                 {},
		"/a:/b:rshared":          {},
		"/a:/b:frobnicate":       {},
		"/a:/b:ro,":              {},
		"C:\\Windows:/mnt:ro:rw": {},
	} {
		got, err := parseVolume(given)
		if got.Anonymous {
			if len(got.Source) != engine.IDLength {
				t.Errorf("%q: the volume's name is %q", given, got.Source)
			}
			got.Source = ""
		}
		if (err == nil) != !cmp.Equal(want, engine.Mount{}) {
			t.Errorf("%q: %v", given, err)
		} else if diff := cmp.Diff(want, got); err == nil && diff != "" {
			t.Errorf("%q: %s", given, diff)
		}
	}
}

func TestAddMount(t *testing.T) {
	dir := t.TempDir()
	for given, want := range map[string]*engine.Config{
		"type=bind,source=" + dir + ",target=/b":                               {Mounts: []engine.Mount{{Source: dir, Target: "/b"}}},
		"type=bind,src=" + dir + ",dst=/b,readonly":                            {Mounts: []engine.Mount{{Source: dir, Target: "/b", ReadOnly: true}}},
		"type=bind,src=" + dir + ",destination=/b,ro=false,consistency=cached": {Mounts: []engine.Mount{{Source: dir, Target: "/b", Cache: true}}},
		"type=bind,src=" + dir + ",destination=/b,bind-propagation=rprivate":   {Mounts: []engine.Mount{{Source: dir, Target: "/b"}}},
		`"type=volume","source=name","target=/with,comma"`:                     {Mounts: []engine.Mount{{Source: "name", Volume: true, Target: "/with,comma"}}},
		"source=name,target=/b,volume-nocopy":                                  {Mounts: []engine.Mount{{Source: "name", Volume: true, Target: "/b", NoCopy: true}}},
		"source=name,target=/b,volume-nocopy=false,volume-driver=local":        {Mounts: []engine.Mount{{Source: "name", Volume: true, Target: "/b"}}},
		"source=name,target=/b,volume-opt=type=disk,volume-opt=size=1g":        {Mounts: []engine.Mount{{Source: "name", Volume: true, Target: "/b", Options: map[string]string{"type": "disk", "size": "1g"}}}},
		"source=name,target=/b,volume-label=a=b":                               {Mounts: []engine.Mount{{Source: "name", Volume: true, Target: "/b", Labels: map[string]string{"a": "b"}}}},
		"source=name,target=/b,volume-opt==x":                                  nil,
		"source=name,target=/b,volume-driver=nfs":                              nil,
		"source=name,target=/b,volume-nocopy=perhaps":                          nil,
		"type=bind,source=" + dir + ",target=/b,volume-opt=a=b":                nil,
		"type=tmpfs,target=/t":                                                 {Tmpfs: map[string]string{"/t": ""}},
		"type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1770,readonly":          {Tmpfs: map[string]string{"/t": "size=1048576,mode=1770,ro"}},
		"type=bind,source=" + dir + "/none,target=/b":                          nil,
		"type=bind,source=" + dir:                                              nil,
		"type=bind,target=/b":                                                  nil,
		"type=npipe,source=x,target=/b":                                        nil,
		"type=tmpfs,source=x,target=/b":                                        nil,
		"type=tmpfs,target=/b,tmpfs-size=many":                                 nil,
		"type=tmpfs,target=/b,tmpfs-mode=9":                                    nil,
		"type=volume,target=/b":                                                {Mounts: []engine.Mount{{Volume: true, Anonymous: true, Target: "/b"}}},
		"source=name,target=/b,tmpfs-size=1m":                                  nil,
		"source=name,target=/b,readonly=maybe":                                 nil,
		"source=name,target=/b,frobnicate=1":                                   nil,
		"source=name,target=/b,bind-propagation=shared":                        nil,
		`"unbalanced`: nil,
		"":            nil,
	} {
		got := &engine.Config{}
		err := addMount(got, given)
		if len(got.Mounts) == 1 && got.Mounts[0].Anonymous {
			got.Mounts[0].Source = ""
		}
		if (err == nil) != (want != nil) {
			t.Errorf("%q: %v", given, err)
		} else if diff := cmp.Diff(want, got); err == nil && diff != "" {
			t.Errorf("%q: %s", given, diff)
		}
	}
	twice := &engine.Config{Tmpfs: map[string]string{"/t": ""}}
	if err := addMount(twice, "type=tmpfs,target=/t"); err == nil {
		t.Error("two tmpfs at one place")
	}
}

func TestParseShare(t *testing.T) {
	for given, want := range map[string]engine.BootShare{
		"dir:tag":         {Path: "dir", Tag: "tag"},
		"/a:b/c:tag:ro":   {Path: "/a:b/c", Tag: "tag", ReadOnly: true},
		"dir:tag:rw":      {Path: "dir", Tag: "tag"},
		"dir":             {},
		"dir:":            {},
		":tag":            {},
		"dir:ro":          {},
		"":                {},
		"dir:tag:ro:more": {Path: "dir:tag:ro", Tag: "more"},
	} {
		got, err := parseShare(given)
		if (err == nil) != (want != engine.BootShare{}) || err == nil && got != want {
			t.Errorf("%q: %+v, %v; want %+v", given, got, err, want)
		}
	}
}
