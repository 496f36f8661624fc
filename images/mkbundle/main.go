// Command mkbundle appends the guest's kernel and images to the hull program:
//
//	mkbundle -o bin/hull -program build/hull vmlinux=build/kernel/vmlinux initramfs.cpio=build/initramfs.cpio …
//
// An argument without "=" is a path whose last element is the member's name.
// Package bundle says what is appended and why.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"

	"github.com/hullvm/hull/images/bundle"
)

func main() {
	output := flag.String("o", "", "`file` to write")
	program := flag.String("program", "", "program `file` to start with")
	flag.Parse()
	if *output == "" || *program == "" {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(*output, *program, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "mkbundle:", err)
		os.Exit(1)
	}
}

func run(output, program string, args []string) error {
	files := make(map[string]string)
	for _, arg := range args {
		name, path, ok := strings.Cut(arg, "=")
		if !ok {
			name, path = filepath.Base(arg), arg
		}
		files[name] = path
	}
	p, err := os.Open(program)
	if err != nil {
		return err
	}
	defer p.Close()
	// A running hull must not see its own file change, and a failed build must not leave half of one.
	out, err := renameio.NewPendingFile(output, renameio.WithPermissions(0o755))
	if err != nil {
		return fmt.Errorf("writing %s: %w", output, err)
	}
	defer out.Cleanup()
	if err := bundle.Write(out, p, files); err != nil {
		return fmt.Errorf("writing %s: %w", output, err)
	}
	if err := out.CloseAtomicallyReplace(); err != nil {
		return fmt.Errorf("writing %s: %w", output, err)
	}
	return nil
}
