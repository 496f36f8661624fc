package outer

import (
	"bytes"
	"fmt"
	"os"

	"github.com/u-root/mkuimage/cpio"

	"github.com/hullvm/hull/images/guestkernel"
)

// modules are what the machine needs before it has a root file system, and what
// no event would load later. Any of them may be built into the kernel.
var modules = []string{"virtiofs", "virtio_pci", "virtio_console", "virtio_blk", "ext4", "overlay", "kvm_amd", "tun", "loop", "fuse"}

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
	set, err := guestkernel.Modules(k.modules, modules)
	if err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	if len(set.Missing) > 0 {
		return nil, fmt.Errorf("lab: %s has no modules %q", k.modules, set.Missing)
	}
	for i, m := range set.Load {
		content, err := m.Read()
		if err != nil {
			return nil, fmt.Errorf("lab: %w", err)
		}
		name := fmt.Sprintf("modules/%02d-%s.ko", i, m.Name)
		records = append(records, cpio.StaticFile(name, string(withoutSignature(content)), 0o644))
	}
	var b bytes.Buffer
	w := cpio.Newc.Writer(&b)
	if err := cpio.WriteRecords(w, records); err != nil {
		return nil, fmt.Errorf("lab: making the initramfs: %w", err)
	}
	if err := cpio.WriteTrailer(w); err != nil {
		return nil, fmt.Errorf("lab: making the initramfs: %w", err)
	}
	return memoryFile("lab-initramfs", b.Bytes())
}
