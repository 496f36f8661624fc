package boot

import (
	"bytes"
	"fmt"
)

// protocol settles on how to boot the kernel.
func (l *loader) protocol() (Protocol, error) {
	im := l.p.Kernel
	if im.r == nil {
		return "", fmt.Errorf("boot: %w: no kernel given", ErrParams)
	}
	switch l.p.Protocol {
	case ProtocolFlat16, ProtocolFlat32, ProtocolFlat64:
		return l.p.Protocol, nil
	case ProtocolAuto, ProtocolELF, ProtocolPVH, ProtocolBzImage:
	default:
		return "", fmt.Errorf("boot: protocol %q: %w: must be elf, pvh or bzimage", l.p.Protocol, ErrParams)
	}
	kind, err := im.kind()
	if err != nil {
		return "", err
	}
	switch want := l.p.Protocol; {
	case kind == "ELF" && want == ProtocolAuto:
		return l.elfProtocol()
	case kind == "ELF" && (want == ProtocolELF || want == ProtocolPVH):
		return want, nil
	case kind == "bzImage" && (want == ProtocolAuto || want == ProtocolBzImage):
		return ProtocolBzImage, nil
	default:
		return "", fmt.Errorf("%s: %w: it is of the kind %s, which cannot be booted by the protocol %q", im.name, ErrUnsupported, kind, want)
	}
}

// magic numbers of files that people take for kernels, with what to say.
var notKernels = []struct {
	off   int
	magic string
	what  string
}{
	{0, "\x1f\x8b", "gzip-compressed data; decompress it"},
	{0, "\x28\xb5\x2f\xfd", "zstd-compressed data; decompress it"},
	{0, "\xfd7zXZ\x00", "xz-compressed data; decompress it"},
	{0, "\x02\x21\x4c\x18", "LZ4-compressed data; decompress it"},
	{0, "07070", "a cpio archive, such as an initrd"},
	{0, "#!", "a script"},
	{56, "ARM\x64", "an arm64 kernel; this machine is x86-64"},
	{48, "RISCV\x00\x00\x00", "a RISC-V kernel; this machine is x86-64"},
	{0x1fe, "\x55\xaa", "a boot sector or an old Linux kernel"},
}

// kind looks at the content: "ELF" or "bzImage".
func (im Image) kind() (string, error) {
	const enough = 0x206 // end of the bzImage magic
	if im.size == 0 {
		return "", fmt.Errorf("%s: %w: the file is empty", im.name, ErrNotKernel)
	}
	head, err := im.read(0, min(im.size, enough))
	if err != nil {
		return "", err
	}
	if bytes.HasPrefix(head, []byte(elfMagic)) {
		return "ELF", nil
	}
	if len(head) == enough && string(head[hdrHeader:hdrHeader+4]) == hdrMagic {
		return "bzImage", nil
	}
	for _, n := range notKernels {
		if len(head) > n.off && bytes.HasPrefix(head[n.off:], []byte(n.magic)) {
			return "", fmt.Errorf("%s: %w: it looks like %s", im.name, ErrNotKernel, n.what)
		}
	}
	return "", fmt.Errorf("%s: %w: neither an ELF file nor a bzImage", im.name, ErrNotKernel)
}
