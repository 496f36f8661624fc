package guestkernel

import (
	"bytes"
	"fmt"
	"io"

	"github.com/u-root/mkuimage/cpio"
)

// guestDir is where the guest's init looks for modules.
const guestDir = "lib/hull/modules"

// WriteCPIO writes an archive with the modules, to be appended to the guest's
// initramfs. The names of the files there have the order of loading in them.
// The same modules give the same bytes.
func WriteCPIO(w io.Writer, modules []Module) error {
	out := cpio.Newc.Writer(w)
	records := []cpio.Record{
		cpio.Directory("lib", 0o755), cpio.Directory("lib/hull", 0o755), cpio.Directory(guestDir, 0o755),
	}
	for i, m := range modules {
		raw, err := m.Read()
		if err != nil {
			return fmt.Errorf("packing modules: %w", err)
		}
		name := fmt.Sprintf("%s/%03d-%s.ko", guestDir, i, m.Name)
		records = append(records, cpio.Record{
			ReaderAt: bytes.NewReader(raw),
			Info:     cpio.Info{Name: name, Mode: cpio.S_IFREG | 0o400, FileSize: uint64(len(raw))},
		})
	}
	for i, r := range records {
		r.Ino = uint64(i + 1)
		if err := out.WriteRecord(cpio.MakeReproducible(r)); err != nil {
			return fmt.Errorf("packing modules: %w", err)
		}
	}
	if err := cpio.WriteTrailer(out); err != nil {
		return fmt.Errorf("packing modules: %w", err)
	}
	return nil
}
