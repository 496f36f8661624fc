package main

import (
	"path/filepath"

	"github.com/u-root/mkuimage/cpio"
	"github.com/u-root/mkuimage/uimage"
	"github.com/u-root/uio/llog"
)

// initramfs builds the guest's first filesystem: init, which is all that the kernel needs,
// /dev/console, which the kernel opens for it before anything is mounted, and
// /dev/null, which Go opens instead when there is no console yet. It is not compressed: hull maps it, and the kernel would have to unpack it twice.
func (b *build) initramfs() error {
	program := filepath.Join(b.temp, "init")
	if err := goBuild(program, "github.com/hullvm/hull/guestinit/init"); err != nil {
		return err
	}
	base, err := cpio.ArchiveFromRecords([]cpio.Record{
		cpio.Directory("dev", 0o755),
		cpio.CharDev("dev/console", 0o600, 5, 1),
		cpio.CharDev("dev/null", 0o666, 1, 3),
	})
	if err != nil {
		return err
	}
	b.say("writing %s", b.path("initramfs.cpio"))
	return uimage.Create(llog.Default(),
		uimage.WithEnv(),
		uimage.WithTempDir(b.temp),
		uimage.WithBaseArchive(base),
		uimage.WithFiles(program+":init"),
		uimage.WithSkipLDD(),
		uimage.WithCPIOOutput(b.path("initramfs.cpio")),
	)
}
