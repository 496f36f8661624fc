package guestkernel

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/u-root/mkuimage/cpio"
)

// tree makes a directory of modules.
func tree(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func names(modules []Module) string {
	var list []string
	for _, m := range modules {
		list = append(list, m.Name)
	}
	return strings.Join(list, " ")
}

func TestModules(t *testing.T) {
	dir := tree(t, map[string]string{
		"modules.dep": "kernel/a.ko.xz: kernel/b-b.ko.xz kernel/c.ko.xz\nkernel/b-b.ko.xz: kernel/c.ko.xz\nkernel/c.ko.xz:\n" +
			"kernel/d.ko:\nkernel/e.ko:\nextra/f.ko: kernel/d.ko\n",
		"modules.builtin": "kernel/in/side.ko\nkernel/also-inside.ko\n",
		"modules.softdep": "# comment\nsoftdep f pre: e none post: a\nsoftdep e post: c\nodd\n",
	})
	set, err := Modules(dir, []string{"a", "side", "f", "also_inside", "gone", "b_b"})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := names(set.Load), "c b_b a d e f"; got != want {
		t.Errorf("order %q, want %q", got, want)
	}
	if diff := cmp.Diff([]string{"side", "also_inside"}, set.Builtin); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"gone"}, set.Missing); diff != "" {
		t.Error(diff)
	}
	if want := filepath.Join(dir, "extra/f.ko"); set.Load[5].Path != want {
		t.Errorf("path %q, want %q", set.Load[5].Path, want)
	}
}

func TestModulesRefuses(t *testing.T) {
	long := strings.Builder{}
	for i := range maxModuleDeps + 2 {
		long.WriteString("m" + strings.Repeat("x", i) + ".ko: m" + strings.Repeat("x", i+1) + ".ko\n")
	}
	for name, dep := range map[string]string{
		"loop":           "a.ko: b.ko\nb.ko: a.ko\n",
		"itself":         "a.ko: a.ko\n",
		"unknown":        "a.ko: b.ko\n",
		"leads out":      "a.ko: ../../etc/b.ko\n../../etc/b.ko:\n",
		"absolute":       "/etc/a.ko:\n",
		"no colon":       "a.ko\n",
		"endless":        "m.ko: mx.ko\n" + long.String(),
		"line too long":  "a.ko: " + strings.Repeat("b", maxIndexLine+1),
		"module no name": ".ko:\n",
	} {
		if _, err := Modules(tree(t, map[string]string{"modules.dep": dep}), []string{"a", "m"}); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Modules(t.TempDir(), []string{"a"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no modules at all: %v", err)
	}
}

func TestWriteCPIO(t *testing.T) {
	want := string(fakeELF(100000, ""))
	files := map[string]string{"modules.dep": "a.ko.xz: b.ko.zst\nb.ko.zst: c.ko.gz\nc.ko.gz: d.ko\nd.ko:\n", "d.ko": want}
	for file, kind := range map[string]string{"a.ko.xz": "xz", "b.ko.zst": "zstd", "c.ko.gz": "gzip"} {
		files[file] = string(compress(t, kind, []byte(want)))
	}
	set, err := Modules(tree(t, files), []string{"a"})
	if err != nil {
		t.Fatal(err)
	}
	var first, second bytes.Buffer
	if err := errors.Join(WriteCPIO(&first, set.Load), WriteCPIO(&second, set.Load)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("the same modules gave different bytes")
	}
	var got []string
	r := cpio.Newc.Reader(bytes.NewReader(first.Bytes()))
	for {
		record, err := r.ReadRecord()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, record.Name)
		if strings.HasSuffix(record.Name, ".ko") {
			content := make([]byte, record.FileSize)
			if _, err := record.ReadAt(content, 0); err != nil || string(content) != want {
				t.Errorf("%s: wrong content (%v)", record.Name, err)
			}
		}
	}
	if diff := cmp.Diff([]string{
		"lib", "lib/hull", "lib/hull/modules", "lib/hull/modules/000-d.ko", "lib/hull/modules/001-c.ko",
		"lib/hull/modules/002-b.ko", "lib/hull/modules/003-a.ko",
	}, got); diff != "" {
		t.Error(diff)
	}
}

func TestWriteCPIORefuses(t *testing.T) {
	dir := tree(t, map[string]string{"text.ko": "text", "cut.ko.xz": "\xfd7zXZ\x00", "elf.ko.gz": "\x1f\x8b"})
	for _, name := range []string{"text.ko", "cut.ko.xz", "elf.ko.gz", "none.ko", ""} {
		if err := WriteCPIO(io.Discard, []Module{{"m", filepath.Join(dir, name)}}); err == nil {
			t.Errorf("%q: no error", name)
		}
	}
}

func FuzzParseDep(f *testing.F) {
	f.Add("kernel/a.ko.xz: kernel/b.ko kernel/c.ko\nkernel/b.ko:\n", "softdep a pre: b\n", "a")
	f.Add("a.ko: ../b.ko\n", "softdep", "b")
	f.Fuzz(func(t *testing.T, dep, soft, wanted string) {
		dir := tree(t, map[string]string{"modules.dep": dep, "modules.softdep": soft})
		set, err := Modules(dir, []string{wanted})
		if err != nil {
			return
		}
		for _, m := range set.Load {
			if rel, err := filepath.Rel(dir, m.Path); err != nil || !filepath.IsLocal(rel) {
				t.Errorf("module at %q", m.Path)
			}
		}
	})
}
