package main

import (
	"archive/tar"
	"bytes"
	"io"
	"strings"
	"testing"
)

func TestLayer(t *testing.T) {
	files := append(systemFiles("v1.2.3"), symlink("bin/x", "bb"), regular("bin/bb", "program", 0o755))
	first, err := writeLayer(files)
	if err != nil {
		t.Fatal(err)
	}
	// In whatever order the files come.
	files[0], files[len(files)-1] = files[len(files)-1], files[0]
	second, err := writeLayer(files)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, second) {
		t.Error("the same files gave different layers")
	}
	seen := map[string]string{}
	for r := tar.NewReader(bytes.NewReader(first)); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if i := strings.LastIndexByte(strings.TrimSuffix(h.Name, "/"), '/'); i > 0 {
			if _, ok := seen[h.Name[:i+1]]; !ok && h.Name[:i+1] != "usr/" {
				t.Errorf("%s comes before its directory", h.Name)
			}
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		seen[h.Name] = string(content) + h.Linkname
	}
	for name, want := range map[string]string{"bin/bb": "program", "bin/x": "bb", "sbin": "bin", "tmp/": ""} {
		if got, ok := seen[name]; !ok || got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
	if !strings.Contains(seen["etc/os-release"], `VERSION_ID="1.2.3"`) {
		t.Errorf("os-release: %s", seen["etc/os-release"])
	}
}
