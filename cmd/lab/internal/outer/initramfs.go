package outer

import (
	"bytes"
	"fmt"
	"os"
	"path"

	"github.com/u-root/u-root/pkg/cpio"
	"golang.org/x/sys/unix"
)

// initramfs returns an unnamed file with the machine's first root file system:
// the program itself as /init, and the modules.
func initramfs(program string, k kernel) (*os.File, error) {
	self, err := os.ReadFile(program)
	if err != nil {
		return nil, fmt.Errorf("lab: reading its own program: %w", err)
	}
	records := []cpio.Record{
		cpio.Directory("dev", 0o755),
		cpio.CharDev("dev/console", 0o600, 5, 1),
		cpio.Directory("modules", 0o755),
		cpio.StaticFile("init", string(self), 0o755),
	}
	files, err := k.moduleFiles(modules)
	if err != nil {
		return nil, err
	}
	for i, file := range files {
		module, err := k.readModule(file)
		if err != nil {
			return nil, err
		}
		name := fmt.Sprintf("modules/%02d-%s.ko", i, moduleName(path.Base(file)))
		records = append(records, cpio.StaticFile(name, string(module), 0o644))
	}
	var b bytes.Buffer
	w := cpio.Newc.Writer(&b)
	if err := cpio.WriteRecords(w, records); err != nil {
		return nil, fmt.Errorf("lab: making the initramfs: %w", err)
	}
	if err := cpio.WriteTrailer(w); err != nil {
		return nil, fmt.Errorf("lab: making the initramfs: %w", err)
	}
	fd, err := unix.MemfdCreate("lab-initramfs", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("lab: making the initramfs: %w", err)
	}
	f := os.NewFile(uintptr(fd), "lab-initramfs")
	if _, err := f.Write(b.Bytes()); err != nil {
		f.Close()
		return nil, fmt.Errorf("lab: making the initramfs: %w", err)
	}
	return f, nil
}
