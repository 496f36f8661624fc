package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// TestManPages writes the manual, a page a command, into $MAN_DIR (make man). It is a test because nothing of it is to be
// in hull itself.
func TestManPages(t *testing.T) {
	dir := os.Getenv("MAN_DIR")
	if dir == "" {
		dir = t.TempDir()
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	root := newRoot(newApp(), entries())
	root.DisableAutoGenTag = true
	if err := doc.GenManTree(root, &doc.GenManHeader{Section: "1", Source: "hull", Manual: "Containers in microVMs"}, dir); err != nil {
		t.Fatal(err)
	}
	walk(root, func(cmd *cobra.Command) {
		if cmd.Name() == "help" {
			return // cobra's
		}
		page, err := os.ReadFile(filepath.Join(dir, strings.ReplaceAll(cmd.CommandPath(), " ", "-")+".1"))
		if err != nil {
			t.Error(err)
		} else if !bytes.Contains(page, []byte(".SH EXAMPLE")) {
			t.Errorf("%s: its page has no example", cmd.CommandPath())
		}
	})
	if _, err := os.Stat(filepath.Join(dir, "hull-supervise.1")); err == nil {
		t.Error("hull supervise is nobody's to call and has a page")
	}
}
