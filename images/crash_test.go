package images

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// helperEnv makes the test binary a process that works on a store, to be killed.
const helperEnv = "HULL_IMAGES_TEST_HELPER"

func TestMain(m *testing.M) {
	if job := os.Getenv(helperEnv); job != "" {
		if err := help(job, os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// help does one thing to the store in args[0] and writes a line for each step
// of progress. It goes on only when the line was read.
func help(job string, args []string) error {
	s, err := Open(args[0])
	if err != nil {
		return err
	}
	ctx := context.Background()
	progress := ProgressFunc(func(e Event) { fmt.Println(e.Phase, e.ID) })
	switch job {
	case "load":
		_, err = s.LoadPath(ctx, args[1], LoadOptions{Progress: progress})
	case "pull":
		opts := nobody
		opts.Progress = progress
		_, _, err = s.Pull(ctx, args[1], opts)
	case "remove":
		fmt.Println("start")
		_, err = s.Remove(ctx, args[1], RemoveOptions{})
	}
	fmt.Println("end")
	return err
}

// killAfter runs a helper and kills it once it has written n lines. It tells
// whether the helper got to its end before.
func killAfter(t *testing.T, n int, job string, args ...string) (finished bool) {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), helperEnv+"="+job)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for range n {
		if !lines.Scan() || lines.Text() == "end" {
			finished = true
			break
		}
	}
	if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Error(err)
	}
	io.Copy(io.Discard, out)
	cmd.Wait()
	return finished
}

// crashArchive has layers that can be converted alone, that depend on others, and a flat one.
func crashArchive(t *testing.T) string {
	t.Helper()
	b := dockerArchive(t, "app", makeImage(t, "x",
		layerTar(t, "bin/", "bin/sh="+noise(100_000)), layerTar(t, "etc/x/f=1", "bin/.wh.sh="), layerTar(t, "lib="+noise(200_000)), layerTar(t, "link=>lib"), layerTar(t, "more=1")))
	name := filepath.Join(t.TempDir(), "app.tar")
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestKilledLoad: a process is killed at every step of a load. The next one
// finds the store as it was, or with the whole image, and can load it.
func TestKilledLoad(t *testing.T) {
	archive := crashArchive(t)
	step := 1
	if raceEnabled {
		step = 5
	}
	for n := 0; ; n += step {
		dir := t.TempDir()
		before := loadAs(t, openStore(t, dir), "before", "1")
		finished := killAfter(t, n, "load", dir, archive)
		s := openStore(t, dir)
		if g := garbage(t, s); g != nil {
			t.Errorf("killed after %d steps: left behind: %q", n, g)
		}
		checkImage(t, before)
		if img, err := s.Get(t.Context(), "app"); err == nil {
			checkImage(t, img)
		} else if !errors.Is(err, ErrNotFound) {
			t.Errorf("killed after %d steps: %v", n, err)
		}
		if got := names(t, s); !slices.Equal(got, []string{"app:latest", "before:latest"}) && !slices.Equal(got, []string{"before:latest"}) {
			t.Errorf("killed after %d steps: images %q", n, got)
		}
		images, err := s.LoadPath(t.Context(), archive, LoadOptions{})
		if err != nil {
			t.Fatalf("killed after %d steps: %v", n, err)
		}
		checkImage(t, images[0])
		if finished {
			if n < 8 {
				t.Errorf("the load took only %d steps", n)
			}
			return
		}
	}
}

// TestKilledPull: the same with pulls; only images/partial may hold something then.
func TestKilledPull(t *testing.T) {
	reg := newRegistry(t)
	ref := reg.push(t, "app", makeImage(t, "x", layerTar(t, "bin/", "bin/sh="+noise(100_000)), layerTar(t, "etc/x/f=1"), layerTar(t, "lib="+noise(200_000))))
	step := 1
	if raceEnabled {
		step = 4
	}
	for n := 0; ; n += step {
		dir := t.TempDir()
		finished := killAfter(t, n, "pull", dir, ref)
		s := openStore(t, dir)
		for _, f := range garbage(t, s) {
			if !strings.HasPrefix(f, "images/partial/") {
				t.Errorf("killed after %d steps: left behind: %q", n, f)
			}
		}
		checkImage(t, mustPull(t, s, ref))
		if g := garbage(t, s); g != nil {
			t.Errorf("killed after %d steps: left behind: %q", n, g)
		}
		if finished {
			return
		}
	}
}

// TestKilledRemove: the image is there whole, or not at all.
func TestKilledRemove(t *testing.T) {
	for n := range 3 {
		dir := t.TempDir()
		loadAs(t, openStore(t, dir), "app", "1")
		killAfter(t, n, "remove", dir, "app")
		s := openStore(t, dir)
		if g := garbage(t, s); g != nil {
			t.Errorf("left behind: %q", g)
		}
		if img, err := s.Get(t.Context(), "app"); err == nil {
			checkImage(t, img)
		} else if !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
	}
}

// TestLeftovers: what the dead leave is removed, what the living hold is not.
func TestLeftovers(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	loadAs(t, s, "app", "1")
	old := filepath.Join(s.partialDir(), strings.Repeat("a", 64)+partialSuffix)
	recent := filepath.Join(s.partialDir(), strings.Repeat("b", 64)+partialSuffix)
	dead := []string{
		filepath.Join(s.tempDir(), "layer-123"), filepath.Join(s.layerTempDir(), "sha256-x.ext4"), filepath.Join(s.tempDir(), markPrefix+"9"),
		filepath.Join(s.blobDir(), strings.Repeat("c", 64)), filepath.Join(s.layerDir(), "sha256-y.ext4"), old,
	}
	for _, name := range append(dead, recent) {
		if err := os.WriteFile(name, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ago := time.Now().Add(-2 * partialAge)
	if err := os.Chtimes(old, ago, ago); err != nil {
		t.Fatal(err)
	}
	living, err := newTemp(s.tempDir(), "layer-")
	if err != nil {
		t.Fatal(err)
	}
	openStore(t, dir)
	for _, name := range dead {
		if _, err := os.Stat(name); err == nil {
			t.Errorf("%s is still there", name)
		}
	}
	for _, name := range []string{recent, living.path} {
		if _, err := os.Stat(name); err != nil {
			t.Error(err)
		}
	}
	living.discard()
	// While an operation runs, nothing is swept; its mark stays locked.
	o, err := s.begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.addBlob([]byte("being written")); err != nil {
		t.Fatal(err)
	}
	before := files(t, s)
	openStore(t, dir)
	if after := files(t, s); !slices.Equal(before, after) {
		t.Errorf("files\n%q\nbecame\n%q", before, after)
	}
	if err := o.end(errors.New("failed")); err == nil {
		t.Error("end lost the error")
	}
	if g := garbage(t, s); !slices.Equal(g, []string{strings.TrimPrefix(recent, dir+"/")}) {
		t.Errorf("left behind: %q", g)
	}
}

// TestFullDisk: the disk is full at one moment or another of a load, an import
// and a pull. The store stays as it was, and works when there is room again.
func TestFullDisk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("a small file system is mounted, which needs root")
	}
	reg := newRegistry(t)
	img := makeImage(t, "x", layerTar(t, "bin/", "bin/sh="+noise(60_000)), layerTar(t, "etc/x/f=1"), layerTar(t, "lib="+noise(150_000)))
	ref := reg.push(t, "app", img)
	archive := dockerArchive(t, "app", img)
	root := layerTar(t, "lib="+noise(250_000))
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Skipf("cannot mount a tmpfs here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	s := openStore(t, dir)
	loadAs(t, s, "before", "1")
	jobs := map[string]func() error{
		"load": func() error { _, err := s.Load(t.Context(), bytes.NewReader(archive), LoadOptions{}); return err },
		"load gzip": func() error {
			_, err := s.Load(t.Context(), bytes.NewReader(gzipped(t, archive)), LoadOptions{})
			return err
		},
		"import": func() error {
			_, err := s.Import(t.Context(), bytes.NewReader(root), ImportOptions{Reference: "app"})
			return err
		},
		"pull":        func() error { _, _, err := s.Pull(t.Context(), ref, nobody); return err },
		"pull, again": func() error { _, _, err := s.Pull(t.Context(), ref, nobody); return err },
	}
	before := files(t, s)
	for name, job := range jobs {
		full, step := 0, 12 // pages
		if raceEnabled {
			step = 60
		}
		for room := 1; ; room += step {
			filler := filepath.Join(dir, "filler")
			fill(t, dir, filler, room)
			err := job()
			if rerr := os.Remove(filler); rerr != nil {
				t.Fatal(rerr)
			}
			if err == nil {
				break
			}
			full++
			if !errors.Is(err, unix.ENOSPC) {
				t.Fatalf("%s with room for %d pages: %v", name, room, err)
			}
			if after := slices.DeleteFunc(files(t, s), func(f string) bool { return f == "filler" }); !slices.Equal(before, after) {
				t.Fatalf("%s with room for %d pages: files\n%q\nbecame\n%q", name, room, before, after)
			}
		}
		got, err := s.Get(t.Context(), map[bool]string{true: ref, false: "app"}[strings.HasPrefix(name, "pull")])
		if err != nil {
			t.Fatal(err)
		}
		checkImage(t, got)
		if _, err := s.Remove(t.Context(), got.ID.Hex, RemoveOptions{Force: true}); err != nil {
			t.Fatal(err)
		}
		if full < 2 {
			t.Errorf("%s met a full disk only %d times", name, full)
		}
	}
}

// fill leaves room for so many pages in the file system of dir.
func fill(t *testing.T, dir, filler string, room int) {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	n := (int64(st.Bfree) - int64(room)) * st.Bsize
	if err := os.WriteFile(filler, make([]byte, max(n, 0)), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestTogether: many loads, removals and listings at once, by stores of one
// directory as separate processes would have them.
func TestTogether(t *testing.T) {
	dir := t.TempDir()
	base := layerTar(t, "base="+noise(50_000))
	var wg sync.WaitGroup
	for i := range 4 {
		s := openStore(t, dir)
		wg.Go(func() {
			for j := range 4 {
				name := fmt.Sprintf("app%d:%d", i, j)
				if _, err := s.Load(t.Context(), bytes.NewReader(dockerArchive(t, name, makeImage(t, name, base, layerTar(t, "f="+name)))), LoadOptions{}); err != nil {
					t.Error(err)
					return
				}
				img, release, err := s.Acquire(t.Context(), name)
				if err != nil {
					t.Error(err)
					return
				}
				checkImage(t, img)
				release()
				if _, err := s.List(t.Context()); err != nil {
					t.Error(err)
				}
				if j%2 == 0 {
					if _, err := s.Remove(t.Context(), name, RemoveOptions{}); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	s := openStore(t, dir)
	if got := names(t, s); len(got) != 8 {
		t.Errorf("images %q", got)
	}
	if g := garbage(t, s); g != nil {
		t.Errorf("left behind: %q", g)
	}
}
