package outer

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// ErrNotInstalled is wrapped by errors about a missing program or file; the
// message names the Debian package.
var ErrNotInstalled = errors.New("not installed")

// kernel is a distribution's kernel with its modules.
type kernel struct {
	image   string // bzImage
	modules string // /lib/modules/RELEASE
}

// modules are what the machine needs before it has a root file system, and what
// no event would load later. Those that the kernel has built in are left out.
var modules = []string{"overlay", "virtio_blk", "kvm-amd", "tun", "loop"}

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
			x, _ := strconv.ParseUint(a[:na], 10, 64) // at most a date: never out of range in practice,
			y, _ := strconv.ParseUint(b[:nb], 10, 64) // and saturated if it is
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

// moduleFiles returns the files of the named modules and all they depend on, in
// an order to load them in.
func (k kernel) moduleFiles(names []string) ([]string, error) {
	needs := make(map[string][]string) // file → files
	byName := make(map[string]string)  // name → file
	dep, err := os.Open(filepath.Join(k.modules, "modules.dep"))
	if err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	defer dep.Close()
	lines := bufio.NewScanner(dep)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		file, rest, ok := strings.Cut(lines.Text(), ":")
		if !ok {
			continue
		}
		needs[file] = strings.Fields(rest)
		byName[moduleName(file)] = file
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("lab: reading modules.dep: %w", err)
	}
	builtin, err := os.ReadFile(filepath.Join(k.modules, "modules.builtin"))
	if err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	for file := range strings.FieldsSeq(string(builtin)) {
		if name := moduleName(file); byName[name] == "" {
			byName[name] = "built in"
		}
	}

	var files []string
	for _, name := range names {
		file := byName[strings.ReplaceAll(name, "-", "_")]
		switch file {
		case "":
			return nil, fmt.Errorf("lab: %s has no module %s", k.modules, name)
		case "built in":
			continue
		}
		// modules.dep lists all that a module needs, each before those it needs itself.
		order := append([]string{file}, needs[file]...)
		for _, f := range slices.Backward(order) {
			if !slices.Contains(files, f) {
				files = append(files, f)
			}
		}
	}
	return files, nil
}

const elfMagic = "\x7fELF"

// moduleName is a module's name from its path: no folder, no suffix, "_" for "-".
func moduleName(path string) string {
	name, _, _ := strings.Cut(filepath.Base(path), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// readModule returns a module's ELF file, decompressed.
func (k kernel) readModule(file string) ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(k.modules, file))
	if err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	var r io.Reader
	switch filepath.Ext(file) {
	case ".ko":
		r = bytes.NewReader(b)
	case ".xz":
		r, err = xz.NewReader(bytes.NewReader(b))
	case ".zst":
		var d *zstd.Decoder
		if d, err = zstd.NewReader(bytes.NewReader(b), zstd.WithDecoderConcurrency(1)); err == nil {
			defer d.Close()
			r = d
		}
	default:
		err = errors.New("unknown compression")
	}
	if err == nil {
		b, err = io.ReadAll(r)
	}
	if err == nil && !bytes.HasPrefix(b, []byte(elfMagic)) {
		err = errors.New("not an ELF file") // cut short, perhaps
	}
	if err != nil {
		return nil, fmt.Errorf("lab: module %s: %w", file, err)
	}
	return withoutSignature(b), nil
}

// withoutSignature cuts off what "sign-file" appended to a module (kernel,
// Documentation/admin-guide/module-signing.rst): a signature, 12 bytes of which the last four are its
// length, and a magic string. Checking it takes the machine longer than all else
// about a module, and proves nothing: the file comes from this host's own /lib/modules.
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
