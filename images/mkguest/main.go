// Command mkguest builds what a guest needs besides its kernel:
//
//		mkguest [-o build] [initramfs] [uroot] [scratch] [volume]
//
//	  - initramfs.cpio: guestinit as /init, and a console to speak on;
//	  - uroot.ext4 and uroot.json: the built-in image, a root filesystem with u-root's commands, as a
//	    disk and as an OCI image configuration;
//	  - scratch.tmpl: the template of an empty ext4 (package scratch);
//	  - volume.tmpl: that of one which can grow.
//
// Without arguments it builds all of them. The same sources and tools give the same bytes.
// It needs go and mke2fs, and no network beyond what `go build` needs.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

func main() {
	output := flag.String("o", "build", "`directory` to write to")
	verbose := flag.Bool("v", false, "say what is done")
	flag.Parse()
	targets := flag.Args()
	if len(targets) == 0 {
		targets = []string{"initramfs", "uroot", "scratch", "volume"}
	}
	if err := run(*output, targets, *verbose); err != nil {
		fmt.Fprintln(os.Stderr, "mkguest:", err)
		os.Exit(1)
	}
}

func run(output string, targets []string, verbose bool) error {
	if err := os.MkdirAll(output, 0o755); err != nil {
		return err
	}
	temp, err := os.MkdirTemp("", "mkguest-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	b := &build{output: output, temp: temp, verbose: verbose}
	if b.goroot, err = goList("env", "GOROOT"); err != nil {
		return err
	}
	for _, target := range targets {
		switch target {
		case "initramfs":
			err = b.initramfs()
		case "uroot":
			err = b.uroot()
		case "scratch":
			err = b.scratch()
		case "volume":
			err = b.volume()
		default:
			err = fmt.Errorf("no such target; there are initramfs, uroot, scratch and volume")
		}
		if err != nil {
			return fmt.Errorf("building %s: %w", target, err)
		}
	}
	return nil
}

// build is one run of the program.
type build struct {
	output  string
	temp    string
	goroot  string
	verbose bool
}

func (b *build) path(name string) string { return filepath.Join(b.output, name) }

func (b *build) say(format string, args ...any) {
	if b.verbose {
		fmt.Fprintf(os.Stderr, strings.TrimSuffix(format, "\n")+"\n", args...)
	}
}
