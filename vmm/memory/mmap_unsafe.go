package memory

// Unsafe because RAM lives outside the Go heap: mmap returns addresses, and
// MAP_FIXED and KVM take them. Each pointer made here is to memory that New
// mapped and only Close unmaps; the garbage collector never sees it.

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// HostAddress returns where the region is in this process, for
// kvm_userspace_memory_region.userspace_addr. It is a multiple of HugePageSize
// away from Region.GPA, so that KVM can use huge pages.
func (r Region) HostAddress() uintptr {
	return uintptr(unsafe.Pointer(unsafe.SliceData(r.Bytes)))
}

// firstPage is the number of the host's virtual page that RAM begins with.
func (m *Memory) firstPage() uint64 {
	return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(m.mapping)))) / PageSize
}

// mapAnonymous maps size zero bytes, aligned to HugePageSize.
func mapAnonymous(size uint64, opts Options) ([]byte, error) {
	const prot = unix.PROT_READ | unix.PROT_WRITE
	if opts.HugePages {
		// No MAP_NORESERVE: without a reservation a guest that touches a page
		// when the pool is empty would kill this process with SIGBUS.
		p, err := unix.MmapPtr(-1, 0, nil, uintptr(size), prot,
			unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_HUGETLB|unix.MAP_HUGE_2MB)
		if err != nil {
			return nil, err
		}
		b := unsafe.Slice((*byte)(p), size)
		return b, adviseNew(b, opts)
	}
	// Kernels before 6.7 do not align large mappings: map more and cut.
	if size > 1<<62 {
		return nil, unix.ENOMEM
	}
	total := uintptr(size) + HugePageSize
	p, err := unix.MmapPtr(-1, 0, nil, total, prot,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, err
	}
	head := -uintptr(p) % HugePageSize
	if head > 0 {
		if err := unix.MunmapPtr(p, head); err != nil {
			return nil, errors.Join(err, unix.MunmapPtr(p, total))
		}
	}
	p = unsafe.Add(p, head)
	if err := unix.MunmapPtr(unsafe.Add(p, size), HugePageSize-head); err != nil {
		return nil, errors.Join(err, unix.MunmapPtr(p, uintptr(size)+HugePageSize-head))
	}
	b := unsafe.Slice((*byte)(p), size)
	return b, adviseNew(b, opts)
}

// adviseNew sets how the kernel treats new RAM, and unmaps it if it cannot.
func adviseNew(b []byte, opts Options) error {
	if err := advise(b, opts); err != nil {
		return errors.Join(err, unmap(b))
	}
	return nil
}

func advise(b []byte, opts Options) error {
	// A core dump of the monitor must not carry the guest's secrets, nor its
	// size.
	if err := unix.Madvise(b, unix.MADV_DONTDUMP); err != nil {
		return fmt.Errorf("madvise(MADV_DONTDUMP): %w", err)
	}
	if opts.HugePages || opts.Transparent == THPDefault {
		return nil
	}
	advice := unix.MADV_NOHUGEPAGE
	if opts.Transparent == THPAlways {
		advice = unix.MADV_HUGEPAGE
	}
	// EINVAL: a kernel without transparent huge pages. Advice, so no error.
	if err := unix.Madvise(b, advice); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("madvise(%d): %w", advice, err)
	}
	return nil
}

// mapFixed puts the bytes of the file from offset off in the place of dst,
// which must be whole pages of RAM.
func mapFixed(dst []byte, f *os.File, off int64, opts Options) error {
	const prot = unix.PROT_READ | unix.PROT_WRITE
	addr := unsafe.Pointer(unsafe.SliceData(dst))
	_, err := unix.MmapPtr(int(f.Fd()), off, addr, uintptr(len(dst)), prot, unix.MAP_PRIVATE|unix.MAP_FIXED|unix.MAP_NORESERVE)
	if err == nil {
		return advise(dst, opts)
	}
	// Kernels may have unmapped the old pages before they failed. RAM must not
	// have a hole that the Go heap could grow into.
	_, again := unix.MmapPtr(-1, 0, addr, uintptr(len(dst)), prot,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE|unix.MAP_FIXED)
	if again == nil {
		again = advise(dst, opts)
	}
	return errors.Join(err, again)
}

// mapShared maps length bytes, aligned to HugePageSize, of which the first size are those of a file. What follows
// them reads as zero, up to the end of the file's last page for as long as the file is not longer.
func mapShared(f *os.File, size, length uint64, readOnly bool) ([]byte, error) {
	b, err := mapAnonymous(length, Options{})
	if err != nil {
		return nil, err
	}
	prot := unix.PROT_READ
	if !readOnly {
		prot |= unix.PROT_WRITE
	}
	_, err = unix.MmapPtr(int(f.Fd()), 0, unsafe.Pointer(unsafe.SliceData(b)), uintptr(size), prot, unix.MAP_SHARED|unix.MAP_FIXED)
	if err == nil {
		err = unix.Madvise(b, unix.MADV_DONTDUMP)
	}
	if err != nil {
		return nil, errors.Join(err, unmap(b))
	}
	return b, nil
}

// wholePages returns the part of b that is whole pages of the host.
func wholePages(b []byte) []byte {
	page := os.Getpagesize()
	head := int(-uintptr(unsafe.Pointer(unsafe.SliceData(b))) % uintptr(page))
	if head >= len(b) {
		return nil
	}
	return b[head : head+(len(b)-head)/page*page]
}

func unmap(b []byte) error {
	return unix.MunmapPtr(unsafe.Pointer(unsafe.SliceData(b)), uintptr(len(b)))
}
