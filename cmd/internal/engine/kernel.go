package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/images/bundle"
	"github.com/hullvm/hull/images/guestkernel"
	"github.com/hullvm/hull/vmm"
)

// guestKernel sets the kernel and initial file systems of a VM that is to run
// hull's own init. kernel and initrd are paths, "" for the built-in ones only. A
// kernel of the user's gets the modules that it needs as a guest, from this
// host's /lib/modules.
func guestKernel(config *vmm.Config, kernel, initrd string, files *bundle.Files, table *fileTable) error {
	own := kernel == ""
	if own {
		kernel = files.Kernel
	}
	k, err := table.open(kernel, os.O_RDONLY)
	if err != nil {
		return fmt.Errorf("opening the guest kernel: %w", err)
	}
	config.Kernel = k
	for _, path := range []string{initrd, files.Initramfs} {
		if path == "" {
			continue
		}
		f, err := table.open(path, os.O_RDONLY)
		if err != nil {
			return fmt.Errorf("opening an initial file system: %w", err)
		}
		config.Initrd = append(config.Initrd, f)
	}
	if own {
		return nil
	}
	modules, err := kernelModules(kernel)
	if err != nil || modules == nil {
		return err
	}
	config.Initrd = append(config.Initrd, table.add(modules))
	return nil
}

// kernelModules makes an initial file system with the modules that a kernel of
// the user's needs to find its disks and the host. It is nil for one that has
// none: all of it may be built in.
func kernelModules(kernel string) (*os.File, error) {
	k, err := guestkernel.Identify(kernel)
	if err != nil {
		return nil, nil // the loader has more to say about what it is
	}
	set, err := guestkernel.Modules(guestkernel.ModulesDir(k.Release), guestkernel.Wanted())
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(set.Load) == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("modules of the guest kernel %s: %w", k.Release, err)
	}
	fd, err := unix.MemfdCreate("hull-modules", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("modules of the guest kernel %s: %w", k.Release, err)
	}
	f := os.NewFile(uintptr(fd), "modules of the guest kernel")
	if err := guestkernel.WriteCPIO(f, set.Load); err != nil {
		f.Close()
		return nil, fmt.Errorf("modules of the guest kernel %s: %w", k.Release, err)
	}
	return f, nil
}
