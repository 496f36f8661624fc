package outer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/images/guestkernel"
)

// ErrNotInstalled is wrapped by errors about a missing program or file; the
// message names the Debian package.
var ErrNotInstalled = errors.New("not installed")

// kernel is a distribution's kernel with its modules.
type kernel struct {
	image   string // bzImage
	modules string // /lib/modules/RELEASE
}

// findKernel returns the newest Debian cloud kernel below root.
func findKernel(root string) (kernel, error) {
	images, err := filepath.Glob(filepath.Join(root, "boot/vmlinuz-*-cloud-amd64"))
	if err != nil {
		return kernel{}, err
	}
	slices.SortFunc(images, func(a, b string) int { return compareVersions(b, a) })
	for _, image := range images {
		release := strings.TrimPrefix(filepath.Base(image), "vmlinuz-")
		dir := filepath.Join(root, "lib/modules", release)
		if _, err := os.Stat(filepath.Join(dir, "modules.dep")); err == nil {
			return kernel{image: image, modules: dir}, nil
		}
	}
	return kernel{}, fmt.Errorf("lab: no /boot/vmlinuz-*-cloud-amd64 with its modules: %w: apt-get install linux-image-cloud-amd64", ErrNotInstalled)
}

// compareVersions orders names by their text, with runs of digits as numbers.
func compareVersions(a, b string) int {
	for a != "" && b != "" {
		na, nb := digits(a), digits(b)
		if na > 0 && nb > 0 {
			x, _ := strconv.ParseUint(a[:na], 10, 64) // saturated if out of range
			y, _ := strconv.ParseUint(b[:nb], 10, 64)
			if x != y {
				if x < y {
					return -1
				}
				return 1
			}
			a, b = a[na:], b[nb:]
			continue
		}
		if a[0] != b[0] {
			return int(a[0]) - int(b[0])
		}
		a, b = a[1:], b[1:]
	}
	return len(a) - len(b)
}

func digits(s string) int {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return n
}

// vmlinux returns an unnamed file with the ELF kernel inside a bzImage, or nil if
// it cannot be unpacked. The machine boots it through its PVH entry: the bzImage's own
// decompressor would take a second in emulation.
func (k kernel) vmlinux() (*os.File, error) {
	f, err := os.Open(k.image)
	if err != nil {
		return nil, fmt.Errorf("lab: reading the kernel: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("lab: reading the kernel: %w", err)
	}
	elf, err := guestkernel.Vmlinux(f, info.Size())
	if err != nil {
		return nil, nil // QEMU loads the bzImage
	}
	return memoryFile("lab-vmlinux", elf)
}

// memoryFile returns an unnamed file with the given content.
func memoryFile(name string, content []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("lab: making %s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := f.Write(content); err != nil {
		f.Close()
		return nil, fmt.Errorf("lab: making %s: %w", name, err)
	}
	return f, nil
}

// withoutSignature cuts off what "sign-file" appended to a module (kernel,
// Documentation/admin-guide/module-signing.rst): a signature, 12 bytes of which the
// last four are its length, and a magic string. Checking it takes the machine longer
// than all else about a module, and proves nothing: the file comes from this
// host's own /lib/modules.
func withoutSignature(module []byte) []byte {
	const magic = "~Module signature appended~\n"
	rest, ok := bytes.CutSuffix(module, []byte(magic))
	if !ok || len(rest) < 12 {
		return module
	}
	info := rest[len(rest)-12:]
	size := int64(binary.BigEndian.Uint32(info[8:]))
	if size > int64(len(rest)-12) {
		return module
	}
	return rest[:int64(len(rest)-12)-size]
}
