package api

import (
	"fmt"
	"os"
	"strings"
)

// Limits of /machine-config.
const (
	maxCPUs   = 32
	maxMemory = 16 << 20 // MiB
)

var defaultMachine = machineConfig{VCPUCount: 1, MemSizeMiB: 128, HugePages: hugePagesNone}

// defaultBootArgs is the kernel's command line unless the client gives one.
const defaultBootArgs = "reboot=k panic=1 nomodule 8250.nr_uarts=0 i8042.noaux i8042.nomux i8042.dumbkbd swiotlb=noforce"

// maxBootArgs is what a kernel takes: Linux's COMMAND_LINE_SIZE less the final NUL.
const maxBootArgs = 2047

func (s *Server) putMachineConfig(c *machineConfig) (any, error) {
	return none(s.setMachineConfig(*c))
}

func (s *Server) patchMachineConfig(p *machineConfigPatch) (any, error) {
	if *p == (machineConfigPatch{}) {
		return nil, refuse("Empty PATCH request.")
	}
	c := s.resources.machine
	replace(&c.VCPUCount, p.VCPUCount)
	replace(&c.MemSizeMiB, p.MemSizeMiB)
	replace(&c.SMT, p.SMT)
	replace(&c.TrackDirtyPages, p.TrackDirtyPages)
	replace(&c.HugePages, p.HugePages)
	if p.CPUTemplate != nil {
		c.CPUTemplate = p.CPUTemplate
	}
	return none(s.setMachineConfig(c))
}

// replace sets *to if there is something new.
func replace[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}

func (s *Server) setMachineConfig(c machineConfig) error {
	s.resources.touched = true
	switch {
	case c.VCPUCount < 1 || c.VCPUCount > maxCPUs || c.SMT && c.VCPUCount > 1 && c.VCPUCount%2 != 0:
		return refuse("Machine config error: The number of vCPUs must be greater than 0, less than %d and must be 1 or an even number if SMT is enabled.", maxCPUs)
	case c.MemSizeMiB == 0 || c.MemSizeMiB > maxMemory || c.HugePages == hugePages2M && c.MemSizeMiB%2 != 0:
		return refuse("Machine config error: The memory size (MiB) is either 0, or not a multiple of the configured page size.")
	case s.resources.balloon != nil && uint64(s.resources.balloon.AmountMiB) > c.MemSizeMiB:
		return refuse("Machine config error: The memory size (MiB) is smaller than the previously set balloon device target size.")
	case c.SMT:
		return notOffered("simultaneous multithreading: each vCPU is a core")
	case c.CPUTemplate != nil && *c.CPUTemplate != noTemplate:
		return notOffered(fmt.Sprintf("CPU template %s: give its modifiers to /cpu-config", *c.CPUTemplate))
	}
	if c.CPUTemplate != nil { // "None"
		c.CPUTemplate, s.resources.cpu, s.resources.cpuConfig = nil, nil, nil
	}
	s.resources.machine = c
	return nil
}

func (s *Server) putBootSource(b *bootSource) (any, error) {
	s.resources.touched = true
	if err := readable(b.KernelImagePath); err != nil {
		return nil, refuse("Boot source error: The kernel file cannot be opened: %s", osError(err))
	}
	if b.InitrdPath != nil {
		if err := readable(*b.InitrdPath); err != nil {
			return nil, refuse("Boot source error: The initrd file cannot be opened due to invalid path or invalid permissions. %s", osError(err))
		}
	}
	if b.BootArgs != nil {
		switch args := *b.BootArgs; {
		case len(args) > maxBootArgs:
			return nil, refuse("Boot source error: The kernel command line is invalid: it has %d bytes, at most %d are possible", len(args), maxBootArgs)
		case strings.ContainsFunc(args, func(r rune) bool { return r < ' ' || r == 0x7f }):
			return nil, refuse("Boot source error: The kernel command line is invalid: it has characters that are not printable")
		}
	}
	s.resources.boot = b
	return nil, nil
}

// readable says why a file cannot be read.
func readable(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return f.Close()
}

// commandLine is the kernel's: what the client gave, and which device the root file system is on. What comes after "--" is
// not the kernel's but for its first process.
func (r *resources) commandLine() string {
	args := defaultBootArgs
	if r.boot.BootArgs != nil {
		args = *r.boot.BootArgs
	}
	root := r.root()
	if root == "" {
		return args
	}
	kernel, process, both := strings.Cut(args, " -- ")
	if args = strings.TrimSpace(kernel + " " + root); both {
		args += " -- " + process
	}
	return args
}

// root says on which device the root file system is, in a kernel's words; "" for none.
func (r *resources) root() string {
	for _, d := range r.drives {
		switch {
		case !d.IsRootDevice:
		case d.PartUUID != nil:
			return "root=PARTUUID=" + *d.PartUUID + mode(d.readOnly())
		default:
			return "root=/dev/vda" + mode(d.readOnly()) // it is the first
		}
	}
	for i, p := range r.pmems {
		if p.RootDevice {
			return fmt.Sprintf("root=/dev/pmem%d", i) + mode(p.ReadOnly)
		}
	}
	return ""
}

func mode(readOnly bool) string {
	if readOnly {
		return " ro"
	}
	return " rw"
}
