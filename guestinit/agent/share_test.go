package agent

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hullvm/hull/guestinit/proto"
)

// shareGuest is a guest with two shares, and an image whose links lead out of it.
func shareGuest(t *testing.T) *guest {
	g := newGuest(t, func(dir string) {
		for link, target := range map[string]string{"out": "/../../../../tmp", "relative": "../../../../../../var/tmp"} {
			if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
				t.Fatal(err)
			}
		}
	})
	for _, name := range []string{"one", "two"} {
		if err := os.Mkdir(filepath.Join(g.dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(g.dir, name, "file"), []byte("in "+name+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return g
}

func bind(destination string) specs.Mount {
	return specs.Mount{Destination: destination, Type: "bind", Source: "/path/on/the/host", Options: []string{"rbind", "nodev"}}
}

func TestShares(t *testing.T) {
	spec := testSpec("/bin/sh", "-c", `
		cat /made/up/file /made/up/tmp/single /out/in/file /relative/in/file
		ls -A /made/up/tmp
		echo new >/made/up/new
		echo more >>/made/up/tmp/single
		touch /out/in/no 2>/dev/null || echo refused`)
	spec.Mounts = append(spec.Mounts, bind("/made/up"),
		specs.Mount{Destination: "/made/up/tmp", Type: "tmpfs", Source: "tmpfs"}, bind("/made/up/tmp/single"), bind("/out/in"), bind("/relative/in"))
	g := shareGuest(t)
	if err := os.Mkdir(filepath.Join(g.dir, "one/tmp"), 0o755); err != nil {
		t.Fatal(err)
	}
	r, err := g.run(&proto.Start{Spec: spec, Shares: []proto.Share{
		{Tag: "one", Destination: "/made/up"}, {Tag: "two", Destination: "/made/up/tmp/single", File: "file"},
		{Tag: "two", Destination: "/out/in", ReadOnly: true}, {Tag: "one", Destination: "/relative/in", ReadOnly: true},
	}}, "")
	if err != nil {
		t.Fatal(err)
	}
	if want := "in one\nin two\nin two\nin one\nsingle\nrefused\n"; r.stdout != want || r.exit.Code() != 0 {
		t.Errorf("%q, stderr %q, status %d; want %q", r.stdout, r.stderr, r.exit.Code(), want)
	}
	for _, outside := range []string{"/tmp/in", "/var/tmp/in"} {
		if _, err := os.Lstat(outside); err == nil {
			t.Errorf("a mount point was made outside of the container: %s", outside)
		}
	}
	for name, want := range map[string]string{"one/new": "new\n", "two/file": "in two\nmore\n"} {
		if got, err := os.ReadFile(filepath.Join(g.dir, name)); string(got) != want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, want)
		}
	}
}

func TestSharesThatMakeNoSense(t *testing.T) {
	for name, share := range map[string]proto.Share{
		"no mount":          {Tag: "one", Destination: "/elsewhere"},
		"not a bind mount":  {Tag: "one", Destination: "/proc"},
		"file in a path":    {Tag: "one", Destination: "/data", File: "a/b"},
		"file above":        {Tag: "one", Destination: "/data", File: ".."},
		"file of no name":   {Tag: "one", Destination: "/data", File: "."},
		"file from the top": {Tag: "one", Destination: "/data", File: "/etc"},
	} {
		spec := testSpec("/bin/true")
		spec.Mounts = append(spec.Mounts, bind("/data"))
		_, err := shareGuest(t).run(&proto.Start{Spec: spec, Shares: []proto.Share{share}}, "")
		wantCode(t, name, err, proto.CodeInvalid)
	}
}
