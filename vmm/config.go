package vmm

import (
	"cmp"
	"errors"
	"fmt"
	"os"

	"github.com/hullvm/hull/virtio"
	"github.com/hullvm/hull/virtio/blk"
	"github.com/hullvm/hull/virtio/fs"
	"github.com/hullvm/hull/virtio/net"
	"github.com/hullvm/hull/virtio/pmem"
	"github.com/hullvm/hull/vmm/memory"
	"github.com/hullvm/hull/vmm/share"
)

// File names a file by path or by a descriptor that the process already has.
// A jailed VM process gets descriptors only; Path is then what messages call the
// file, and is not opened.
type File struct {
	Path string `json:"path,omitempty"`
	FD   int    `json:"fd,omitempty"` // 3 or more; 0 means "open Path"
}

// Open returns the file, opened with flag when it is named by path. A file
// named by descriptor is returned as it is: the caller owns it from then on.
func (f File) Open(flag int) (*os.File, error) {
	switch {
	case f.FD >= 3:
		return os.NewFile(uintptr(f.FD), cmp.Or(f.Path, fmt.Sprintf("descriptor %d", f.FD))), nil
	case f.FD != 0:
		return nil, fmt.Errorf("file descriptor %d: must be 3 or more", f.FD)
	case f.Path == "":
		return nil, fmt.Errorf("file: neither path nor descriptor given")
	}
	return os.OpenFile(f.Path, flag, 0)
}

// Platform says how the guest learns of its processors and devices.
type Platform string

const (
	// PlatformACPI describes the machine in ACPI tables: for any kernel.
	PlatformACPI Platform = "acpi"
	// PlatformMPTable describes processors in an Intel MP table and devices
	// on the kernel command line: for kernels built with X86_MPPARSE and
	// VIRTIO_MMIO_CMDLINE_DEVICES, such as hull's own.
	PlatformMPTable Platform = "mptable"
	// PlatformNone gives the guest no tables: for bare-metal guests.
	PlatformNone Platform = "none"
)

// MaxCPUs is the largest number of vCPUs of one VM.
const MaxCPUs = 64

// Config describes one VM. It is what the engine hands to a VM process as
// JSON, and what New takes in a program that uses this package directly.
type Config struct {
	ID     string `json:"id"`
	CPUs   int    `json:"cpus"`   // 1 to MaxCPUs
	Memory uint64 `json:"memory"` // bytes, a multiple of 4096

	// HugePages backs guest RAM with explicit 2 MiB pages (hugetlbfs).
	HugePages bool `json:"huge_pages,omitempty"`
	// TransparentHugePages says whether the host may put RAM on huge pages as the guest touches it: "always", "never",
	// or "" for what the host does by itself. They make a guest that uses its memory faster and small VMs larger.
	TransparentHugePages string `json:"transparent_huge_pages,omitempty"`

	// TrackDirty notes which pages are written to, so that snapshots after the first can be differential. It costs the
	// guest a fault for each page and snapshot.
	TrackDirty bool `json:"track_dirty,omitempty"`

	// Restore has the machine go on from a snapshot instead of booting: Kernel, Protocol, Initrd and CommandLine
	// mean nothing then. What else there is must be as it was, but for files and paths, and sizes of disks.
	Restore *Snapshot `json:"restore,omitempty"`

	Kernel      File     `json:"kernel,omitzero"`
	Protocol    string   `json:"protocol,omitempty"` // "" detects; "elf", "pvh", "bzimage"
	Initrd      []File   `json:"initrd,omitempty"`   // concatenated in order
	CommandLine string   `json:"command_line,omitempty"`
	Platform    Platform `json:"platform,omitempty"` // "" is PlatformACPI

	// PIT adds the 8254 timer, for kernels that calibrate by it. Ending a VM
	// with one takes some milliseconds longer.
	PIT bool `json:"pit,omitempty"`

	Disks []Disk `json:"disks,omitempty"`
	Pmems []Pmem `json:"pmems,omitempty"`
	NICs  []NIC  `json:"nics,omitempty"`
	Vsock *Vsock `json:"vsock,omitempty"`
	// Shares are directories of the host that the guest can mount.
	Shares []Share `json:"shares,omitempty"`
	// RNG adds the device from which a guest gets random bytes, no more of them
	// than RNGRate allows; its zero value is 1 MiB a second and 256 KiB at once.
	RNG     bool        `json:"rng,omitempty"`
	RNGRate virtio.Rate `json:"rng_rate,omitzero"`
	RNGOps  virtio.Rate `json:"rng_ops,omitzero"` // requests
	// Balloon adds the device through which a guest gives free memory back to the host.
	Balloon        bool           `json:"balloon,omitempty"`
	BalloonOptions BalloonOptions `json:"balloon_options,omitzero"`
	Serial         Serial         `json:"serial,omitzero"`
	// Keyboard adds a keyboard, whose only keys are those of SendCtrlAltDel.
	Keyboard bool `json:"keyboard,omitempty"`
	// CPUTemplate changes what the guest sees of its processors.
	CPUTemplate *CPUTemplate `json:"cpu_template,omitempty"`
	// Console adds a virtio console, hvc0 in Linux, beside the serial port.
	Console *Console `json:"console,omitempty"`

	// OrphanRemove lists paths that the VM process removes when whoever
	// started it went away without saying goodbye (kill -9).
	OrphanRemove []string `json:"orphan_remove,omitempty"`
	// User is who the VM process becomes, user and group, when it confines itself (package jail); 0: it stays who it is.
	User uint32 `json:"user,omitempty"`
}

// Disk is one virtio block device: either a raw file, or a read-only virtual
// disk with one GPT partition for each of Layers.
type Disk struct {
	ID       string `json:"id"` // answered to GET_ID, at most 20 bytes
	ReadOnly bool   `json:"read_only,omitempty"`
	File     *File  `json:"file,omitempty"`
	Layers   []File `json:"layers,omitempty"`
	// Overlay is a file that takes what the guest writes: File or Layers stay as they are, and any
	// number of VMs can have them. What is in the file is lost, unless Keep is set.
	Overlay *File `json:"overlay,omitempty"`
	// Keep has the disk begin with what is in the overlay's file, and leaves there what another machine needs to go on with it.
	// It must be empty at first. DiskExtents tells what is in it.
	Keep bool `json:"keep,omitempty"`
	// Direct reads and writes past the host's page cache.
	Direct bool `json:"direct,omitempty"`
	// Unsafe offers the guest no way of making what it writes stable (VIRTIO_BLK_F_FLUSH): it is not when this host fails, whatever the
	// guest believes, and a guest that syncs a lot is faster.
	Unsafe bool `json:"unsafe,omitempty"`
	// Queues is how many queues the disk has, 1 to 16; 0 means one for each vCPU, at most 4.
	Queues int        `json:"queues,omitempty"`
	Limits blk.Limits `json:"limits,omitzero"`
}

func (d *Disk) validate() error {
	switch {
	case (d.File == nil) == (len(d.Layers) == 0):
		return fmt.Errorf("needs either a file or layers")
	case len(d.ID) > blk.IDSize:
		return fmt.Errorf("its ID is longer than %d bytes", blk.IDSize)
	case d.Direct && d.File == nil:
		return fmt.Errorf("layers are shared through the page cache: direct I/O is for files")
	case d.Overlay != nil && d.ReadOnly:
		return fmt.Errorf("an overlay is of no use to a read-only disk")
	case d.Keep && d.Overlay == nil:
		return fmt.Errorf("there is no overlay to keep")
	case d.Queues < 0 || d.Queues > blk.MaxQueues:
		return fmt.Errorf("%d queues: must be 1 to %d", d.Queues, blk.MaxQueues)
	}
	return d.Limits.Validate()
}

// Pmem is a file that the guest has in its physical address space, as persistent memory.
type Pmem struct {
	File     File        `json:"file"`
	ReadOnly bool        `json:"read_only,omitempty"` // what the guest writes is dropped
	Limits   pmem.Limits `json:"limits,omitzero"`     // of flushes
}

// NIC is one virtio network card.
type NIC struct {
	// MAC is the guest's address, of one device.
	MAC [6]byte `json:"mac"`
	// MTU that the guest is told, 68 to 65535; 0 for none.
	MTU int `json:"mtu,omitempty"`
	// Either Socket is a Unix SOCK_SEQPACKET socket to the other end of the cable:
	// each message is virtio-net's header and a frame.
	Socket *File `json:"socket,omitempty"`
	// Or Tap has the queues of a tap interface, as network.OpenTap opens them, by
	// descriptor: the guest gets as many queue pairs, at most net.MaxPairs.
	Tap []File `json:"tap,omitempty"`

	// RX limits what goes to the guest, TX what comes from it.
	RX net.Limits `json:"rx,omitzero"`
	TX net.Limits `json:"tx,omitzero"`
}

func (n *NIC) validate() error {
	if (n.Socket == nil) == (len(n.Tap) == 0) {
		return errors.New("needs either a socket or a tap interface")
	}
	for _, f := range n.Tap {
		if f.FD == 0 {
			return errors.New("the queues of a tap interface must be given by descriptor")
		}
	}
	return errors.Join(n.RX.Validate(), n.TX.Validate())
}

// Share is a directory, or a regular file, of the host, as a virtio file
// system. See package vmm/share for what the guest can do with it.
type Share struct {
	// Tag is the name by which the guest mounts it: 1 to 36 bytes, the only one
	// of that name.
	Tag string `json:"tag"`
	// File is what is shared. A descriptor may be one opened with O_PATH.
	File File `json:"file"`
	// ReadOnly refuses every change, whatever the guest's mount says.
	ReadOnly bool `json:"read_only,omitempty"`
	// Cache lets the guest believe for a second what it has seen.
	Cache bool `json:"cache,omitempty"`
}

// ShareFileName is the name of a shared file in the directory that the guest
// mounts then.
const ShareFileName = share.FileName

// Vsock is the socket device between guest and host.
type Vsock struct {
	CID  uint32 `json:"cid"`  // of the guest, 3 or more
	Path string `json:"path"` // of the host's Unix socket
}

// Serial is the first serial port, COM1. Without Output the last
// ConsoleTail bytes are kept for error reports. Without Input nothing is read.
type Serial struct {
	Input  *File `json:"input,omitempty"`
	Output *File `json:"output,omitempty"`
	// Rate limits what gets to Output, in bytes; what is more is dropped.
	Rate virtio.Rate `json:"rate,omitzero"`
}

// Console is a virtio console. What the guest writes to it is remembered like
// the output of the serial port, and both may lead to the same file.
type Console struct {
	Input  *File `json:"input,omitempty"`
	Output *File `json:"output,omitempty"`
	// Rows and Cols are the terminal's size in characters, 0 for unknown;
	// Machine.Resize changes it.
	Rows uint16 `json:"rows,omitempty"`
	Cols uint16 `json:"cols,omitempty"`
}

// ConsoleTail is how many bytes of serial and console output a VM remembers.
const ConsoleTail = 64 << 10

// What a guest can make its devices do, without a say in the configuration. The
// burst of random bytes is four thousand times what Linux asks for at once. The
// balloon's work is counted in pages: 4 GiB a second; given back page by page, which is seventeen times the
// price, that is 60,000 calls of madvise.
const (
	rngPerSecond     = 1 << 20
	rngBurst         = 256 << 10
	balloonPerSecond = 1 << 20
	balloonBurst     = 1 << 20
)

// thp is TransparentHugePages for package memory.
func (c *Config) thp() (memory.THP, error) {
	switch c.TransparentHugePages {
	case "":
		return memory.THPDefault, nil
	case "always":
		return memory.THPAlways, nil
	case "never":
		return memory.THPNever, nil
	}
	return 0, fmt.Errorf("transparent huge pages %q: must be always or never", c.TransparentHugePages)
}

// Validate checks what can be checked without touching the host.
func (c *Config) Validate() error {
	switch {
	case c.CPUs < 1 || c.CPUs > MaxCPUs:
		return fmt.Errorf("%d vCPUs: must be 1 to %d", c.CPUs, MaxCPUs)
	case c.Vsock != nil && (c.Vsock.CID < 3 || c.Vsock.CID == 0xffffffff):
		return fmt.Errorf("vsock: guest CID %d: must be 3 to 4294967294", c.Vsock.CID)
	case c.Vsock != nil && c.Vsock.Path == "":
		return fmt.Errorf("vsock: no path for the host's socket")
	}
	if _, err := c.thp(); err != nil {
		return err
	}
	if err := errors.Join(c.RNGRate.Validate(), c.RNGOps.Validate()); err != nil {
		return fmt.Errorf("entropy device: %w", err)
	}
	if err := c.Serial.Rate.Validate(); err != nil {
		return fmt.Errorf("serial port: %w", err)
	}
	if c.BalloonOptions.Target > c.Memory {
		return fmt.Errorf("balloon: %d bytes are asked of a guest that has %d", c.BalloonOptions.Target, c.Memory)
	}
	for i, p := range c.Pmems {
		if err := p.Limits.Validate(); err != nil {
			return fmt.Errorf("persistent memory %d: %w", i, err)
		}
	}
	switch c.Platform {
	case "", PlatformACPI, PlatformMPTable, PlatformNone:
	default:
		return fmt.Errorf("platform %q: must be acpi, mptable or none", c.Platform)
	}
	for i, d := range c.Disks {
		if err := d.validate(); err != nil {
			return fmt.Errorf("disk %d (%s): %w", i, d.ID, err)
		}
	}
	for i, n := range c.NICs {
		if err := n.validate(); err != nil {
			return fmt.Errorf("network card %d: %w", i, err)
		}
	}
	tags := make(map[string]bool)
	for i, s := range c.Shares {
		if err := fs.CheckTag(s.Tag); err != nil {
			return fmt.Errorf("share %d: %w", i, err)
		}
		if tags[s.Tag] {
			return fmt.Errorf("share %d: another one has the tag %q", i, s.Tag)
		}
		tags[s.Tag] = true
	}
	return nil
}
