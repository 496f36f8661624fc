package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/u-root/u-root/pkg/cpio"
)

func TestInitramfsHasInitAndConsole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "marker.cpio")
	if err := writeInitramfs(path); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	records, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(b)))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]cpio.Record{}
	for _, r := range records {
		found[r.Name] = r
	}
	if c := found["dev/console"]; c.Rmajor != 5 || c.Rminor != 1 || c.Mode&cpio.S_IFMT != cpio.S_IFCHR {
		t.Errorf("dev/console: %+v", c)
	}
	if i := found["init"]; i.FileSize != uint64(len(markerInit)) || i.Mode&0o111 == 0 {
		t.Errorf("init: %+v", i)
	}
}
