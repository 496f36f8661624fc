package boot

import "fmt"

// Intel MultiProcessor Specification 1.4, chapter 4.
const (
	mpSpecRevision   = 4
	mpFloatingSize   = 16
	mpHeaderSize     = 44
	mpEntryProcessor = 0 // 20 bytes; all others have 8
	mpEntryBus       = 1
	mpEntryIOAPIC    = 2
	mpEntryIOInt     = 3
	mpEntryLocalInt  = 4

	mpCPUEnabled    = 1 << 0
	mpCPUBoot       = 1 << 1
	mpIOAPICEnabled = 1 << 0
	mpAPICVersion   = 0x14
	mpIOAPICVersion = 0x11

	mpIntVectored = 0 // table 4-10
	mpIntNMI      = 1
	mpIntExtINT   = 3
	mpISABus      = 0
	mpAllAPICs    = 0xff
	mpOEM         = "HULL    "
	mpProduct     = "HULLVM      "
)

// mpTables returns the floating pointer structure and the configuration table
// that it points to, to be put at address base.
//
// All inputs of the IOAPIC are wired to ISA interrupts of the same number, also
// those above 15 that no real ISA bus has: Linux takes their trigger mode,
// which is an edge, from the bus.
func mpTables(base uint32, p *Params) []byte {
	ioapic := p.ioapicID()
	var entries []byte
	count := uint16(0)
	add := func(b ...byte) {
		entries = append(entries, b...)
		count++
	}
	for i, id := range p.APICIDs {
		flags := byte(mpCPUEnabled)
		if i == 0 {
			flags |= mpCPUBoot
		}
		cpu := make([]byte, 20)
		cpu[0], cpu[1], cpu[2], cpu[3] = mpEntryProcessor, byte(id), mpAPICVersion, flags
		le.PutUint32(cpu[4:], 0x600) // signature: family 6
		le.PutUint32(cpu[8:], 0x201) // features: FPU and APIC on chip
		add(cpu...)
	}
	add(append([]byte{mpEntryBus, mpISABus}, "ISA   "...)...)
	add(le.AppendUint32([]byte{mpEntryIOAPIC, ioapic, mpIOAPICVersion, mpIOAPICEnabled}, IOAPIC)...)
	for pin := range byte(IOAPICPins) {
		add(mpEntryIOInt, mpIntVectored, 0, 0, mpISABus, pin, ioapic, pin)
	}
	add(mpEntryLocalInt, mpIntExtINT, 0, 0, mpISABus, 0, byte(p.APICIDs[0]), 0)
	add(mpEntryLocalInt, mpIntNMI, 0, 0, mpISABus, 0, mpAllAPICs, madtNMILocalINT)

	t := make([]byte, mpFloatingSize+mpHeaderSize, mpFloatingSize+mpHeaderSize+len(entries))
	f, h := t[:mpFloatingSize], t[mpFloatingSize:]
	copy(f, "_MP_")
	le.PutUint32(f[4:], base+mpFloatingSize)
	f[8] = mpFloatingSize / 16
	f[9] = mpSpecRevision
	f[10] = checksum(f)

	copy(h, "PCMP")
	le.PutUint16(h[4:], uint16(mpHeaderSize+len(entries)))
	h[6] = mpSpecRevision
	copy(h[8:], mpOEM)
	copy(h[16:], mpProduct)
	le.PutUint16(h[34:], count)
	le.PutUint32(h[36:], LocalAPIC)
	t = append(t, entries...)
	h = t[mpFloatingSize:]
	h[7] = checksum(h)
	return t
}

// writeMPTable puts the MP table where the guest looks for it.
func (l *loader) writeMPTable() error {
	tables := mpTables(MPTable, &l.p)
	if len(tables) > MPTableEnd-MPTable {
		return fmt.Errorf("boot: MP table of %d bytes: %w", len(tables), ErrNoRoom)
	}
	if _, err := l.mem.WriteAt(tables, MPTable); err != nil {
		return fmt.Errorf("boot: MP table: %w", err)
	}
	return nil
}
