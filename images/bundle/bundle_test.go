package bundle

import (
	"archive/zip"
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// write makes a bundle whose members are their own names, repeated, and returns its path.
func write(t *testing.T, program string) string {
	t.Helper()
	dir := t.TempDir()
	files := map[string]string{}
	for _, name := range Members() {
		files[name] = filepath.Join(dir, name)
		if err := os.WriteFile(files[name], []byte(content(name)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var buf bytes.Buffer
	if err := Write(&buf, strings.NewReader(program), files); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "hull")
	if err := os.WriteFile(path, buf.Bytes(), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func content(name string) string { return strings.Repeat(name, 1000) }

func open(t *testing.T, path string) *Bundle {
	t.Helper()
	b, err := OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func checkFiles(t *testing.T, f *Files) {
	t.Helper()
	for name, path := range map[string]string{
		NameKernel: f.Kernel, NameInitramfs: f.Initramfs, NameVMM: f.VMM,
		NameUroot: f.Uroot, NameUrootConfig: f.UrootConfig, NameScratch: f.Scratch, NameVolume: f.Volume,
	} {
		got, err := os.ReadFile(path)
		if err != nil {
			t.Error(err)
		} else if string(got) != content(name) {
			t.Errorf("%s: wrong content", name)
		}
	}
}

func TestExtract(t *testing.T) {
	for _, program := range []string{"", "\x7fELF program"} {
		b := open(t, write(t, program))
		cache := filepath.Join(t.TempDir(), "a", "b")
		for range 2 {
			f, err := b.Extract(cache)
			if err != nil {
				t.Fatal(err)
			}
			checkFiles(t, f)
			if st, err := os.Stat(f.VMM); err != nil || st.Mode().Perm() != 0o500 {
				t.Errorf("hull-vmm: %v, %v", st.Mode(), err)
			}
		}
	}
}

func TestWriteIsReproducible(t *testing.T) {
	a, err := os.ReadFile(write(t, "p"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(write(t, "p"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a, b) {
		t.Error("the same input gave different bytes")
	}
}

func TestWriteWantsAllMembers(t *testing.T) {
	if err := Write(new(bytes.Buffer), strings.NewReader(""), nil); err == nil {
		t.Error("wrote an empty archive")
	}
}

func TestOpenEnvironment(t *testing.T) {
	t.Setenv(EnvBundle, write(t, "p"))
	b, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	b.Close()
	t.Setenv(EnvBundle, "")
	if _, err := Open(); !errors.Is(err, ErrNone) {
		t.Errorf("test program: %v, want %v", err, ErrNone)
	}
}

// Whatever has happened to the unpacked files: they are right after the next Extract.
func TestExtractRepairs(t *testing.T) {
	for name, damage := range map[string]func(f *Files) error{
		"file missing":    func(f *Files) error { return os.Remove(f.Scratch) },
		"file cut":        func(f *Files) error { return replace(f.Kernel, "x", 0o400) },
		"file writable":   func(f *Files) error { return os.Chmod(f.VMM, 0o700) },
		"directory open":  func(f *Files) error { return os.Chmod(f.Dir, 0o755) },
		"symbolic link":   func(f *Files) error { return relink(f.Kernel) },
		"directory gone":  func(f *Files) error { return os.RemoveAll(f.Dir) },
		"directory empty": func(f *Files) error { return errors.Join(os.RemoveAll(f.Dir), os.Mkdir(f.Dir, 0o700)) },
		"file in its way": func(f *Files) error { return errors.Join(os.RemoveAll(f.Dir), os.WriteFile(f.Dir, nil, 0o600)) },
	} {
		b := open(t, write(t, "p"))
		cache := t.TempDir()
		f, err := b.Extract(cache)
		if err != nil {
			t.Fatal(err)
		}
		if err := damage(f); err != nil {
			t.Fatal(err)
		}
		if f, err = b.Extract(cache); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		checkFiles(t, f)
		if !b.good(f.Dir) {
			t.Errorf("%s: not mended", name)
		}
		if left, _ := filepath.Glob(filepath.Join(cache, tempPrefix+"*")); len(left) != 0 {
			t.Errorf("%s: left behind: %v", name, left)
		}
	}
}

func replace(path, content string, mode fs.FileMode) error {
	return errors.Join(os.Remove(path), os.WriteFile(path, []byte(content), mode))
}

func relink(path string) error {
	return errors.Join(os.Rename(path, path+".real"), os.Symlink(path+".real", path))
}

func TestExtractAtOnce(t *testing.T) {
	path := write(t, "p")
	cache := t.TempDir()
	if err := os.Mkdir(filepath.Join(cache, tempPrefix+"killed"), 0o700); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			b, err := OpenFile(path)
			if err != nil {
				t.Error(err)
				return
			}
			defer b.Close()
			f, err := b.Extract(cache)
			if err != nil {
				t.Error(err)
				return
			}
			checkFiles(t, f)
		})
	}
	wg.Wait()
	if left, _ := filepath.Glob(filepath.Join(cache, tempPrefix+"*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestExtractRefusesOpenCache(t *testing.T) {
	b := open(t, write(t, "p"))
	cache := t.TempDir()
	if err := os.Chmod(cache, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Extract(cache); !errors.Is(err, ErrUnsafeCache) {
		t.Errorf("got %v, want %v", err, ErrUnsafeCache)
	}
}

func TestPrune(t *testing.T) {
	b := open(t, write(t, "p"))
	cache := t.TempDir()
	old := time.Now().Add(-2 * keepFor)
	for _, c := range "abcdef" {
		dir := filepath.Join(cache, strings.Repeat(string(c), 32))
		if err := errors.Join(os.Mkdir(dir, 0o700), os.Chtimes(dir, old, old)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(cache, "other"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Extract(cache); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(cache)
	if err != nil {
		t.Fatal(err)
	}
	if want := keepBundles + len([]string{lockName, "other"}); len(entries) != want {
		t.Errorf("%d entries left, want %d: %v", len(entries), want, entries)
	}
}

// Archives that are not what Write makes.
func TestOpenRefuses(t *testing.T) {
	good, err := os.ReadFile(write(t, "program"))
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Replace(good, []byte(`"vmlinux":{"size":7000`), []byte(`"vmlinux":{"size":7001`), 1)
	for _, tt := range []struct {
		name string
		file []byte
		want error
	}{
		{"empty", nil, ErrNone},
		{"no archive", []byte("\x7fELF"), ErrNone},
		{"cut", good[:len(good)-100], ErrNone},
		{"foreign archive", archive(t, map[string]string{"a": "b"}), ErrNone},
		{"manifest only", archive(t, map[string]string{nameManifest: "{}"}), ErrCorrupt},
		{"manifest not JSON", archive(t, map[string]string{nameManifest: "x"}), ErrCorrupt},
		{"manifest too large", archive(t, map[string]string{nameManifest: strings.Repeat(" ", maxManifest+1)}), ErrCorrupt},
		{"manifest changed", flipped, ErrCorrupt},
	} {
		path := filepath.Join(t.TempDir(), "hull")
		if err := os.WriteFile(path, tt.file, 0o755); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenFile(path); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
	if _, err := OpenFile(t.TempDir()); !errors.Is(err, ErrNone) {
		t.Errorf("directory: %v", err)
	}
}

// A member that differs from its manifest is not left in the cache.
func TestExtractRefuses(t *testing.T) {
	path := write(t, "program")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	bad := bytes.Replace(good, []byte("vmlinuxvmlinux"), []byte("vmlinuxVmlinux"), 1)
	if err := os.WriteFile(path, bad, 0o755); err != nil {
		t.Fatal(err)
	}
	b := open(t, path)
	cache := t.TempDir()
	if _, err := b.Extract(cache); !errors.Is(err, ErrCorrupt) {
		t.Errorf("got %v, want %v", err, ErrCorrupt)
	}
	if entries, _ := os.ReadDir(cache); len(entries) != 1 || entries[0].Name() != lockName {
		t.Errorf("left in the cache: %v", entries)
	}
}

func archive(t testing.TB, members map[string]string) []byte {
	t.Helper()
	var buf bytes.Buffer
	z := zip.NewWriter(&buf)
	for name, body := range members {
		w, err := z.Create(name)
		if err == nil {
			_, err = w.Write([]byte(body))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func FuzzOpen(f *testing.F) {
	f.Add([]byte("PK\x05\x06"))
	f.Add(archive(f, map[string]string{nameManifest: `{"members":{"vmlinux":{"size":1}}}`, NameKernel: "x"}))
	f.Fuzz(func(t *testing.T, in []byte) {
		path := filepath.Join(t.TempDir(), "hull")
		if err := os.WriteFile(path, in, 0o755); err != nil {
			t.Fatal(err)
		}
		if b, err := OpenFile(path); err == nil {
			b.Close()
		}
	})
}
