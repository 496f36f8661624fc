package main

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/u-root/gobusybox/src/pkg/bb"
	"github.com/u-root/gobusybox/src/pkg/golang"
	"github.com/u-root/mkuimage/cpio"
	"github.com/u-root/mkuimage/uimage/builder"
	"github.com/u-root/mkuimage/uimage/initramfs"
	"github.com/u-root/uio/llog"
)

// buildFlags make programs small and the same wherever they are built.
var buildFlags = []string{"-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid="}

// goCommand is a go command that does not care for the caller's flags: a
// -mod=mod in GOFLAGS, say, would make it fail when modules are off.
func goCommand(args ...string) *exec.Cmd {
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "GOFLAGS=", "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	return cmd
}

// goList runs a go command that prints something.
func goList(args ...string) (string, error) {
	cmd := goCommand(args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return strings.TrimSpace(string(out)), nil
}

// goBuild builds a program of this module.
func goBuild(output, pkg string) error {
	args := append([]string{"build", "-o", output}, buildFlags...)
	cmd := goCommand(append(args, pkg)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w: %s", pkg, err, bytes.TrimSpace(out))
	}
	return nil
}

// busybox makes one program of many commands. It is what mkuimage's GBBBuilder is, but for the last step: that
// one compiles all packages afresh each time, and without inlining.
type busybox struct{}

// DefaultBinaryDir implements builder.Builder.
func (busybox) DefaultBinaryDir() string { return "bin" }

// Build implements builder.Builder: bin/bb, and a link to it for each command.
func (busybox) Build(l *llog.Logger, files *initramfs.Files, opts builder.Opts) error {
	src := filepath.Join(opts.TempDir, "bb")
	err := bb.BuildBusybox(l.AtLevel(slog.LevelInfo), &bb.Opts{
		Env: opts.Env, GenSrcDir: src, CommandPaths: opts.Packages, GenerateOnly: true,
	})
	if err != nil {
		return fmt.Errorf("generating the busybox's source: %w", err)
	}
	program := filepath.Join(opts.TempDir, "program")
	cmd := goCommand(append(append([]string{"build", "-o", program}, buildFlags...), ".")...)
	cmd.Dir = filepath.Join(src, "src/bb.u-root.com/bb")
	cmd.Env = append(cmd.Env, "GO111MODULE=off", "GOPATH="+src)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("compiling the busybox: %w: %s", err, bytes.TrimSpace(out))
	}
	if err := files.AddFile(program, "bin/bb"); err != nil {
		return err
	}
	for _, pkg := range opts.Packages {
		if err := files.AddRecord(cpio.Symlink("bin/"+filepath.Base(pkg), "bb")); err != nil {
			return err
		}
	}
	return nil
}

// environ is the build environment as gobusybox wants it.
func (b *build) environ() *golang.Environ {
	return golang.Default(
		golang.DisableCGO(), golang.WithGOOS("linux"), golang.WithGOARCH("amd64"),
		golang.WithGOROOT(b.goroot), golang.WithMod(golang.ModReadonly),
	)
}
