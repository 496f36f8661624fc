package main

import (
	"context"
	_ "embed"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/u-root/u-root/pkg/cpio"
)

const (
	guestScript = "/bench"
	resultMark  = "RESULT" // begins a line with a key and a figure
)

// benchScript is the guest's first process.
//
//go:embed bench.sh
var benchScript string

// prepare makes the disks: fio, iperf3 and busybox of this host with the libraries they need, and a data disk
// that is all there. An initramfs with nothing in it keeps hull from giving its own.
func (b *linuxBench) prepare(ctx context.Context, dir string) error {
	root := filepath.Join(dir, "root")
	for _, d := range []string{"bin", "dev", "proc", "sys", "tmp"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return err
		}
	}
	for _, name := range []string{"busybox", "fio", "iperf3"} {
		if err := copyProgram(ctx, root, name); err != nil {
			return err
		}
	}
	if err := os.Symlink("busybox", filepath.Join(root, "bin/sh")); err != nil {
		return err
	}
	script := strings.NewReplacer("@HOST", benchHost, "@GUEST", benchGuest+benchNetmask).Replace(benchScript)
	if err := os.WriteFile(filepath.Join(root, guestScript), []byte(script), 0o755); err != nil {
		return err
	}
	if err := command(ctx, "mkfs.ext4", "-q", "-d", root, b.root, "256M"); err != nil {
		return err
	}
	if err := writeDisk(b.data, b.o.diskSize); err != nil {
		return err
	}
	f, err := os.Create(b.initrd)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := cpio.WriteTrailer(cpio.Newc.Writer(f)); err != nil {
		return err
	}
	return os.RemoveAll(root)
}

// copyProgram copies a program of this host, and the libraries that ldd names.
func copyProgram(ctx context.Context, root, name string) error {
	path, err := exec.LookPath(name)
	if err != nil {
		return err
	}
	if err := copyFile(path, filepath.Join(root, "bin", name)); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, "ldd", path).Output()
	if err != nil && name != "busybox" { // which is static
		return fmt.Errorf("ldd %s: %w", path, err)
	}
	for _, word := range strings.Fields(string(out)) {
		if !filepath.IsAbs(word) {
			continue
		}
		to := filepath.Join(root, word)
		if _, err := os.Stat(to); err == nil {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		if err := copyFile(word, to); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	defer out.Close()
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	return out.Close()
}
