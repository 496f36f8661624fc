package vmm

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/kvm"
	"github.com/hullvm/hull/virtio"
	"github.com/hullvm/hull/virtio/pmem"
	"github.com/hullvm/hull/vmm/boot"
	"github.com/hullvm/hull/vmm/memory"
)

// pmem maps a file into the guest's address space behind its RAM and what was mapped before, and makes the device
// that tells of it.
//
// Writes to a read-only one are exits to nowhere: KVM_MEM_READONLY.
func (m *Machine) pmem(cfg Pmem) (virtio.Device, error) {
	flag, lock := os.O_RDWR, unix.LOCK_EX
	if cfg.ReadOnly {
		flag, lock = os.O_RDONLY, unix.LOCK_SH
	}
	f, err := cfg.File.Open(flag)
	if err != nil {
		return nil, err
	}
	m.closing(f.Close)
	if err := reserve(f, lock); err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !cfg.ReadOnly && st.Size()%pmem.Align != 0 {
		m.padded = f.Name()
	}
	shared, err := memory.MapShared(f, cfg.ReadOnly)
	if err != nil {
		return nil, err
	}
	m.closing(shared.Close)
	regions := m.mem.Regions()
	if m.pmemEnd == 0 {
		m.pmemEnd = boot.PmemStart(regions[len(regions)-1].End())
	}
	c := pmem.Config{Start: m.pmemEnd, Size: uint64(len(shared.Bytes())), Limits: cfg.Limits}
	flags := uint32(kvm.KVM_MEM_READONLY)
	if !cfg.ReadOnly {
		flags, c.Flush = 0, shared.Sync
	}
	cpuid, err := m.system.SupportedCPUID()
	if err != nil {
		return nil, err
	}
	if limit := uint64(1) << kvm.PhysicalAddressBits(cpuid); c.Start+c.Size > limit {
		return nil, fmt.Errorf("%s: its %d MiB end beyond the %d GiB that the guest's processor can address", f.Name(), c.Size>>20, limit>>30)
	}
	slot := uint32(len(regions) + len(m.pmems))
	if err := m.vm.SetUserMemoryRegion(slot, flags, c.Start, shared.Bytes()); err != nil {
		return nil, err
	}
	m.pmemEnd += c.Size
	d, err := pmem.New(c)
	if err == nil {
		m.pmems = append(m.pmems, d)
	}
	return d, err
}
