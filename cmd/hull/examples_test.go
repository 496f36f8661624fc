package main

import (
	"bytes"
	"io/fs"
	"os"
	"path"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/rogpeppe/go-internal/txtar"
	"github.com/spf13/cobra"
	"github.com/u-root/u-root/pkg/cpio"
	"golang.org/x/sys/unix"
)

// What --help gives as examples stands word for word in files of the scripts, below examples/, and the scripts run it.

// TestExamplesAreRun: every command has an example, and each is run by a script.
func TestExamplesAreRun(t *testing.T) {
	examples := make(map[string]string) // and whose they are
	walk(newRoot(newApp(), entries()), func(cmd *cobra.Command) {
		if cmd.Example == "" {
			t.Errorf("%s has no example", cmd.CommandPath())
		}
		if cmd.CommandPath() == "hull vmm" {
			return // its example is a conversation with curl, which vm/vmm.txtar holds in words of its own
		}
		for _, line := range exampleLines(cmd.Example) {
			examples[line] = cmd.CommandPath()
		}
	})
	run := make(map[string]bool)
	err := fs.WalkDir(scripts, "testdata", func(name string, _ fs.DirEntry, err error) error {
		if err != nil || path.Ext(name) != ".txtar" {
			return err
		}
		data, err := fs.ReadFile(scripts, name)
		if err != nil {
			return err
		}
		script := txtar.Parse(data)
		for _, file := range script.Files {
			if !strings.HasPrefix(file.Name, "examples/") {
				continue
			}
			if !bytes.Contains(script.Comment, []byte(file.Name)) {
				t.Errorf("%s: nothing runs %s", name, file.Name)
			}
			for _, line := range exampleLines(string(file.Data)) {
				run[line] = true
				if examples[line] == "" {
					t.Errorf("%s: %s: not an example of any command: %s", name, file.Name, line)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for line, command := range examples {
		if !run[line] {
			t.Errorf("%s: no script runs the example %s", command, line)
		}
	}
}

// exampleLines are the lines of examples, without what indents them and without comments.
func exampleLines(text string) []string {
	var lines []string
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "  # ")
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}

// examples FILE [COMMAND...]: give each line of the file to a shell, which COMMAND starts; each must succeed.
func scriptExamples(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: examples FILE [COMMAND...]")
	}
	for _, line := range exampleLines(ts.ReadFile(args[0])) {
		command := append(append([]string{}, args[1:]...), "sh", "-c", line)
		if err := ts.Exec(command[0], command[1:]...); err != nil {
			ts.Fatalf("%s: %v", line, err)
		}
	}
}

// helperExample becomes the command that stands alone in a file, for those that do not end by themselves or want a
// terminal: example FILE
func helperExample(args []string) error {
	if err := usage(args, 1, "example FILE"); err != nil {
		return err
	}
	line, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	return unix.Exec("/bin/sh", []string{"sh", "-c", "exec " + string(line)}, os.Environ())
}

// helperInitramfs makes an initial filesystem of Debian's busybox: initramfs FILE
func helperInitramfs(args []string) error {
	if err := usage(args, 1, "initramfs FILE"); err != nil {
		return err
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return err
	}
	f, err := os.Create(args[0])
	if err != nil {
		return err
	}
	defer f.Close()
	w := cpio.Newc.Writer(f)
	if err := cpio.WriteRecordsAndDirs(w, []cpio.Record{
		cpio.StaticFile("bin/sh", string(busybox), 0o755),
		cpio.CharDev("dev/console", 0o600, 5, 1),
	}); err != nil {
		return err
	}
	if err := cpio.WriteTrailer(w); err != nil {
		return err
	}
	return f.Close()
}
