// Package memory is a guest's RAM: the only code that turns a guest physical
// address into bytes.
//
// RAM is one anonymous private mapping outside the Go heap. Nothing of it
// costs the host anything before it is touched (MAP_NORESERVE, no
// population), so its size is a ceiling and not a price. The guest sees it in
// up to two pieces, because an x86 machine has its devices, its interrupt
// controllers and its reset vector below 4 GiB:
//
//	0 ................ 3 GiB   RAM, the first LowEnd bytes
//	3 GiB ............ 4 GiB   never RAM: MMIO, LAPIC, IOAPIC
//	4 GiB ............         what is left of RAM
//
// Addresses and lengths that come from a guest are checked in one place,
// [Memory.Slice], which never hands out a byte that is not RAM. Start reading
// there; then see [Memory.LoadFile] for how a kernel gets into RAM.
package memory

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const (
	// PageSize is the unit of mapping and of Memory's size, in bytes.
	PageSize = 4096
	// HugePageSize is the size of the pages that Options.HugePages asks for
	// and the alignment of every region's host address, in bytes.
	HugePageSize = 2 << 20

	// LowEnd is the first guest physical address below 4 GiB that is never
	// RAM.
	LowEnd = 0xc000_0000
	// HighStart is where RAM that did not fit below LowEnd goes on.
	HighStart = 0x1_0000_0000
)

// Errors of this package, to be found with errors.Is.
var (
	// ErrSize: a size of guest RAM that cannot be: zero, or not a whole
	// number of pages.
	ErrSize = errors.New("not a size for guest memory")
	// ErrHostMemory: the host does not have that much memory, or not that
	// many huge pages.
	ErrHostMemory = errors.New("not enough memory on this host")
	// ErrRange: guest physical addresses that are not RAM, at least in part.
	ErrRange = errors.New("not guest RAM")
	// ErrClosed: the memory was given back.
	ErrClosed = errors.New("guest memory is closed")
	// ErrFile: a file that cannot be put in guest memory as asked.
	ErrFile = errors.New("file cannot be put in guest memory")
)

// THP says whether the host may back RAM with transparent huge pages. They
// save faults and TLB misses, and cost up to 2 MiB for each byte touched.
type THP int

const (
	THPDefault THP = iota // as the host is set up (/sys/kernel/mm/transparent_hugepage/enabled)
	THPAlways             // wherever possible (MADV_HUGEPAGE)
	THPNever              // never (MADV_NOHUGEPAGE)
)

// Options are the choices one has about the host's side of guest RAM. The zero
// value is the usual.
type Options struct {
	// HugePages backs RAM with explicit 2 MiB pages (hugetlbfs). They are
	// reserved at once, so that the guest cannot run out of them later, and
	// files are copied into RAM instead of mapped. The size must be a
	// multiple of HugePageSize.
	HugePages bool
	// Transparent has no effect together with HugePages.
	Transparent THP
}

// Region is a piece of RAM, contiguous for the guest and in the host.
type Region struct {
	GPA   uint64 // first guest physical address, page-aligned
	Size  uint64 // bytes, a multiple of PageSize
	Bytes []byte // the same in this process; len(Bytes) == Size
}

// End returns the first guest physical address after the region.
func (r Region) End() uint64 { return r.GPA + r.Size }

// Memory is the RAM of one guest. Its methods may be called from several
// goroutines at once; only Close needs all other uses, running vCPUs
// included, to have ended.
type Memory struct {
	opts    Options
	size    uint64
	regions []Region // sorted by GPA, 1 or 2, never changed after New

	closed  atomic.Bool
	dirty   atomic.Pointer[dirty] // nil unless Track was called
	faults  *faults               // nil unless somebody else brings the pages, never changed after NewFaulting
	closeMu sync.Mutex            // held by Close and by calls that change mappings
	mapping []byte                // all of the mapping, guarded by closeMu
	backed  []Extent              // the pieces that files are mapped to, guarded by closeMu
	pagemap *os.File              // of this process, nil unless PrepareSave was called
}

// New makes size bytes of RAM, all zero. The size must be a multiple of
// PageSize and at most the host's memory; errors wrap ErrSize or
// ErrHostMemory.
func New(size uint64, opts Options) (*Memory, error) {
	host, err := hostMemory()
	if err != nil {
		return nil, fmt.Errorf("guest memory: asking for the host's memory size: %w", err)
	}
	if err := checkSize(size, host, opts); err != nil {
		return nil, err
	}
	mapping, err := mapAnonymous(size, opts)
	if err != nil {
		return nil, mapError(size, opts, err)
	}
	return &Memory{opts: opts, size: size, mapping: mapping, regions: split(mapping)}, nil
}

// checkSize refuses sizes that cannot work, with words for a person who typed
// --memory.
func checkSize(size, host uint64, opts Options) error {
	switch {
	case size == 0:
		return fmt.Errorf("guest memory of 0 bytes: %w; give at least some megabytes, such as 128m", ErrSize)
	case size%PageSize != 0:
		return fmt.Errorf("guest memory of %d bytes: %w; give a multiple of %d bytes, such as 128m", size, ErrSize, PageSize)
	case opts.HugePages && size%HugePageSize != 0:
		return fmt.Errorf("guest memory of %d bytes on huge pages: %w; give a multiple of 2 MiB", size, ErrSize)
	case size > host:
		return fmt.Errorf("guest memory of %d MiB: %w, which has %d MiB; give the guest less", size>>20, ErrHostMemory, host>>20)
	}
	return nil
}

// mapError explains why the host refused to map size bytes.
func mapError(size uint64, opts Options, err error) error {
	switch {
	case opts.HugePages && errors.Is(err, unix.ENOMEM):
		return fmt.Errorf("guest memory of %d MiB on huge pages: %w: too few free 2 MiB pages; reserve %d of them with /proc/sys/vm/nr_hugepages (%w)",
			size>>20, ErrHostMemory, size/HugePageSize, err)
	case errors.Is(err, unix.ENOMEM):
		return fmt.Errorf("guest memory of %d MiB: %w: the host refuses to map it; give the guest less, or raise the limit (ulimit -v, vm.overcommit_memory) (%w)",
			size>>20, ErrHostMemory, err)
	}
	return fmt.Errorf("guest memory of %d MiB: mapping it: %w", size>>20, err)
}

// hostMemory returns the bytes of RAM that the host has in all.
func hostMemory() (uint64, error) {
	var si unix.Sysinfo_t
	if err := unix.Sysinfo(&si); err != nil {
		return 0, err
	}
	return uint64(si.Totalram) * uint64(si.Unit), nil
}

// split places the bytes of mapping in the guest's address space. The regions
// are neighbours in the host, and cut so that none can be extended by append.
func split(mapping []byte) []Region {
	low := min(len(mapping), LowEnd)
	regions := []Region{{GPA: 0, Size: uint64(low), Bytes: mapping[:low:low]}}
	if rest := mapping[low:]; len(rest) > 0 {
		regions = append(regions, Region{GPA: HighStart, Size: uint64(len(rest)), Bytes: rest})
	}
	return regions
}

// Size returns the bytes of RAM in all regions.
func (m *Memory) Size() uint64 { return m.size }

// Regions returns the pieces of RAM, lowest address first: what a monitor
// hands to KVM_SET_USER_MEMORY_REGION. The bytes must not be used after Close.
func (m *Memory) Regions() []Region { return append([]Region(nil), m.regions...) }

// Close gives the memory back to the host. Slices handed out before must not
// be used any more: whoever closes has stopped vCPUs and devices before.
// Further calls do nothing.
func (m *Memory) Close() error {
	m.closeMu.Lock()
	defer m.closeMu.Unlock()
	if m.closed.Swap(true) {
		return nil
	}
	if m.faults != nil {
		m.faults.close()
	}
	m.pagemap.Close() // which does nothing on nil but say so
	mapping := m.mapping
	m.mapping = nil
	if err := unmap(mapping); err != nil {
		return fmt.Errorf("guest memory: unmapping %d MiB: %w", m.size>>20, err)
	}
	return nil
}
