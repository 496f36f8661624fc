package engine

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func createTest(t *testing.T, e *Engine, name string) *Container {
	t.Helper()
	c, err := e.Create(t.Context(), name, Config{Image: "test", Args: []string{"true"}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// rest lets go of a container as one that has run to its end.
func rest(t *testing.T, c *Container) {
	t.Helper()
	if err := c.save(func(s *State) { s.Status = StatusExited }); err != nil {
		t.Fatal(err)
	}
	if err := c.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestNames(t *testing.T) {
	e := newTestEngine(t)
	web := createTest(t, e, "web")
	_, err := e.Create(t.Context(), "web", Config{Image: "test"})
	if !errors.Is(err, ErrNameInUse) || !strings.Contains(err.Error(), ShortID(web.ID())) {
		t.Errorf("second web: %v", err)
	}
	if _, err := e.Create(t.Context(), "../web", Config{Image: "test"}); err == nil {
		t.Error("a name with a slash was taken")
	}
	other := createTest(t, e, "")
	if CheckName(other.Name()) != nil {
		t.Errorf("made-up name %q", other.Name())
	}
	for _, ref := range []string{"web", web.ID(), ShortID(web.ID()), web.ID()[:20]} {
		if r, err := e.Get(t.Context(), ref); err != nil || r.ID != web.ID() {
			t.Errorf("Get(%q): %v, %v", ref, r, err)
		}
	}
	for _, ref := range []string{"", "we", "no such", "../" + web.ID(), strings.Repeat("0", 64), "/"} {
		if _, err := e.Get(t.Context(), ref); !errors.Is(err, ErrNoContainer) {
			t.Errorf("Get(%q): %v, want ErrNoContainer", ref, err)
		}
	}
	rest(t, web)
	rest(t, other)
	if err := e.Remove(t.Context(), "web", false); err != nil {
		t.Error(err)
	}
	rest(t, createTest(t, e, "web")) // free again
}

func TestAmbiguousPrefix(t *testing.T) {
	e := newTestEngine(t)
	if err := e.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, end := range []string{"a", "b"} {
		if err := os.Mkdir(e.store.dir("abc"+strings.Repeat("0", 60)+end), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := e.store.find("abc"); !errors.Is(err, ErrAmbiguous) {
		t.Errorf("find(abc): %v", err)
	}
}

// A record that was cut or is garbage shows as dead, can be removed, and does
// not get in the way of the others.
func TestBrokenRecords(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"empty":   func(p string) error { return os.Truncate(p, 0) },
		"cut":     func(p string) error { return os.Truncate(p, 100) },
		"garbage": func(p string) error { return os.WriteFile(p, []byte("\x00\xff{"), 0o600) },
		"newer":   func(p string) error { return os.WriteFile(p, []byte(`{"version":99}`), 0o600) },
		"dir": func(p string) error {
			return errors.Join(os.Remove(p), os.Mkdir(p, 0o700))
		},
		"other": func(p string) error {
			return os.WriteFile(p, []byte(`{"version":1,"id":"x","name":"xx","state":{"status":"exited"}}`), 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := newTestEngine(t)
			good, bad := createTest(t, e, "good"), createTest(t, e, "bad")
			rest(t, good)
			rest(t, bad)
			if err := spoil(filepath.Join(bad.dir(), recordName)); err != nil {
				t.Fatal(err)
			}
			all, err := e.List(t.Context())
			if err != nil || len(all) != 2 {
				t.Fatalf("list: %v, %v", all, err)
			}
			r, err := e.Get(t.Context(), "bad")
			if err != nil || r.State.Status != StatusDead || r.Name != "bad" || r.State.Error == "" {
				t.Errorf("record %+v, %v", r, err)
			}
			for _, name := range []string{"bad", "good"} {
				if err := e.Remove(t.Context(), name, false); err != nil {
					t.Error(err)
				}
			}
			mustBeEmpty(t, e)
		})
	}
}

// What killed processes can leave at any point is gone after the next boot's
// first command.
func TestSweepAll(t *testing.T) {
	e := newTestEngine(t)
	kept := createTest(t, e, "kept")
	rest(t, kept)
	alive := createTest(t, e, "alive")
	defer alive.Release(context.Background())
	if err := e.store.makeRunDir(alive.ID()); err != nil {
		t.Fatal(err)
	}
	id := newID()
	for _, dir := range []string{
		e.store.hidden(newID()),                         // being made or removed
		e.store.dir(newID()),                            // a VM process removes it
		filepath.Join(e.store.dirs.Run, "0123456789ab"), // its owner link has gone already
		e.store.runDir(id),
	} {
		if err := os.MkdirAll(filepath.Join(dir, "sub"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{
		e.store.nameLink("lost"): e.store.dir(newID()),
		e.store.ownerLink(id):    e.store.dir(id),
	} {
		if err := os.Symlink(target, link); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(filepath.Join(e.store.dirs.Run, sweptName)); err != nil {
		t.Fatal(err)
	}
	all, err := e.List(t.Context())
	if err != nil || len(all) != 2 {
		t.Errorf("list: %v, %v", all, err)
	}
	for _, path := range leftovers(t, e) {
		base := filepath.Base(path)
		if base == "kept" || base == "alive" || strings.HasPrefix(alive.ID(), base[:12]) || base == kept.ID() {
			continue
		}
		t.Errorf("left over: %s", path)
	}
}

// Another data directory's living containers are left alone, its dead ones'
// sockets are not.
func TestForeignRunDir(t *testing.T) {
	a, b := newTestEngine(t), newTestEngine(t)
	b.store.dirs.Run = a.store.dirs.Run
	c := createTest(t, a, "web")
	if err := a.store.makeRunDir(c.ID()); err != nil {
		t.Fatal(err)
	}
	if _, err := b.List(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(a.store.runDir(c.ID())); err != nil {
		t.Error(err)
	}
	c.lock.Close() // as if killed
	if _, err := b.List(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(a.store.runDir(c.ID())); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("runtime directory: %v", err)
	}
	if r := only(t, a); r.State.Status != StatusCreated {
		t.Errorf("state %+v", r.State)
	}
}

func TestManyAtOnce(t *testing.T) {
	e := newTestEngine(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 5 {
				got := runTest(t, e, sh("echo x"), Attach{}, nil)
				if got.err != nil || got.stdout != "x\n" {
					t.Errorf("%v: %+v", got.err, got)
				}
			}
		})
	}
	wg.Wait()
	mustBeEmpty(t, e)
}

func TestGateIsHeld(t *testing.T) {
	e := newTestEngine(t)
	if err := e.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	gate, err := e.store.gate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := e.Create(ctx, "web", Config{Image: "test"}); !errors.Is(err, errLocked) {
		t.Errorf("create: %v", err)
	}
	gate.Close()
	rest(t, createTest(t, e, "web"))
}

func TestDirectories(t *testing.T) {
	for _, test := range []struct {
		env  map[string]string
		uid  int
		want Dirs
		fail bool
	}{
		{env: map[string]string{"HOME": "/root"}, want: Dirs{"/var/lib/hull", "/run/hull", "/root/.cache/hull"}},
		{want: Dirs{"/var/lib/hull", "/run/hull", "/var/cache/hull"}},
		{env: map[string]string{"HOME": "/home/u", "XDG_RUNTIME_DIR": "/run/user/7"}, uid: 7, want: Dirs{"/home/u/.local/share/hull", "/run/user/7/hull", "/home/u/.cache/hull"}},
		{env: map[string]string{"HOME": "/home/u", "XDG_DATA_HOME": "/d", "XDG_CACHE_HOME": "/c"}, uid: 7, want: Dirs{"/d/hull", filepath.Join(os.TempDir(), "hull-7"), "/c/hull"}},
		{env: map[string]string{"HULL_DATA_DIR": "/1", "HULL_RUN_DIR": "/2", "HULL_CACHE_DIR": "/3"}, uid: 7, want: Dirs{"/1", "/2", "/3"}},
		{uid: 7, fail: true},
	} {
		got, err := Directories(func(name string) string { return test.env[name] }, test.uid)
		if got != test.want || (err != nil) != test.fail {
			t.Errorf("%v: %+v, %v; want %+v", test.env, got, err, test.want)
		}
	}
}

func TestPrivate(t *testing.T) {
	dir := t.TempDir()
	open := filepath.Join(dir, "open")
	if err := errors.Join(os.Mkdir(open, 0o700), os.Chmod(open, 0o777)); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{open, link} {
		if err := makePrivate(path); !errors.Is(err, ErrForeignDir) {
			t.Errorf("makePrivate(%s): %v", path, err)
		}
	}
	if err := makePrivate(filepath.Join(dir, "a/b")); err != nil {
		t.Error(err)
	}
}

func TestParseStartTime(t *testing.T) {
	line := "42 (a) b (c) S 1 42 42 0 -1 4194560 100 0 0 0 1 2 0 0 20 0 1 0 123456 8192 200 18446744073709551615"
	if got, err := parseStartTime([]byte(line)); got != 123456 || err != nil {
		t.Errorf("start time %d, %v", got, err)
	}
	for _, bad := range []string{"", "1 (x) S", "(", ")"} {
		if _, err := parseStartTime([]byte(bad)); err == nil {
			t.Errorf("%q has a start time", bad)
		}
	}
	self, err := ProcessOf(os.Getpid())
	if err != nil || !self.Alive() {
		t.Errorf("this process: %+v, %v", self, err)
	}
	self.Start++
	if self.Alive() || (ProcessRef{}).Alive() || (ProcessRef{PID: 1}).Alive() {
		t.Error("a process that is not there is alive")
	}
}

func FuzzParseRecord(f *testing.F) {
	f.Add([]byte(`{"version":1,"id":"x","name":"web","state":{"status":"exited"}}`))
	f.Add([]byte(`{"version":1`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parseRecord(data, "x")
		if err == nil && (r.ID != "x" || CheckName(r.Name) != nil) {
			t.Errorf("accepted %+v", r)
		}
	})
}
