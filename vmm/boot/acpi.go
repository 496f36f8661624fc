package boot

import "fmt"

// ACPI tables of a hardware-reduced machine (ACPI 6.5, 4.1 and 5.2): it has no
// PM timer, no fixed events, no legacy interrupts beyond those described, and
// is switched off by one register. Linux then leaves the 8259 and 8254 alone,
// which saves it from calibrating against them.

// Sizes and offsets (ACPI 6.5, 5.2.5 to 5.2.12).
const (
	rsdpSize       = 36
	acpiHeaderSize = 36
	fadtSize       = 276
	acpiAlign      = 16

	fadtIAPCBootArch  = 109
	fadtFlags         = 112
	fadtResetReg      = 116
	fadtResetValue    = 128
	fadtMinorVersion  = 131
	fadtXDSDT         = 140
	fadtSleepControl  = 244
	fadtSleepStatus   = 256
	fadtHypervisor    = 268
	fadtRevision      = 6
	fadtMinorRevision = 5

	// IAPC_BOOT_ARCH, table 5.11. Without the bit 8042 Linux does not look
	// for a keyboard controller.
	bootArchLegacyDevices = 1 << 0
	bootArch8042          = 1 << 1
	bootArchNoVGA         = 1 << 2
	bootArchNoRTC         = 1 << 5

	// Flags, table 5.10.
	fadtWBINVD      = 1 << 0
	fadtPowerButton = 1 << 4 // none of the fixed kind
	fadtSleepButton = 1 << 5
	fadtResetRegSup = 1 << 10
	fadtHWReduced   = 1 << 20

	madtRevision       = 6
	madtLocalAPIC      = 0 // table 5.22, processor local APIC
	madtIOAPIC         = 1
	madtLocalAPICNMI   = 4
	madtEnabled        = 1
	madtAllProcessors  = 0xff
	madtNMILocalINT    = 1 // LINT1, as wired on every PC
	dsdtRevision       = 2 // 64-bit integers
	xsdtRevision       = 1
	gasSystemIO        = 1 // generic address structure, table 5.1
	gasByteAccess      = 1
	acpiOEMID          = "HULL  "
	acpiOEMTableID     = "HULLVM  "
	acpiCreatorID      = "HULL"
	acpiRevision       = 1
	hypervisorVendorID = "HULLVM\x00\x00"
)

// checksum returns the byte that makes the sum of b and itself zero.
func checksum(b []byte) byte {
	var sum byte
	for _, v := range b {
		sum += v
	}
	return -sum
}

// acpiTable is a table of the given signature: its header (table 5.4), then
// body.
func acpiTable(signature string, revision byte, body []byte) []byte {
	t := make([]byte, 0, acpiHeaderSize+len(body))
	t = append(t, signature...)
	t = le.AppendUint32(t, uint32(acpiHeaderSize+len(body)))
	t = append(t, revision, 0)
	t = append(t, acpiOEMID...)
	t = append(t, acpiOEMTableID...)
	t = le.AppendUint32(t, acpiRevision)
	t = append(t, acpiCreatorID...)
	t = le.AppendUint32(t, acpiRevision)
	t = append(t, body...)
	t[9] = checksum(t)
	return t
}

// putPort writes a generic address structure for a one-byte I/O port.
func putPort(b []byte, port uint16) {
	b[0], b[1], b[2], b[3] = gasSystemIO, 8, 0, gasByteAccess
	le.PutUint64(b[4:], uint64(port))
}

// fadt is the Fixed ACPI Description Table, with the DSDT at the given address.
func fadt(p *Params, dsdt uint64) []byte {
	b := make([]byte, fadtSize) // with the header, for the spec's offsets
	arch := uint16(bootArchNoVGA | bootArchNoRTC)
	if p.Serial {
		arch |= bootArchLegacyDevices
	}
	if p.Keyboard {
		arch |= bootArch8042
	}
	le.PutUint16(b[fadtIAPCBootArch:], arch)
	le.PutUint32(b[fadtFlags:], fadtWBINVD|fadtPowerButton|fadtSleepButton|fadtResetRegSup|fadtHWReduced)
	putPort(b[fadtResetReg:], ACPIResetPort)
	b[fadtResetValue] = ACPIResetValue
	b[fadtMinorVersion] = fadtMinorRevision
	le.PutUint64(b[fadtXDSDT:], dsdt)
	putPort(b[fadtSleepControl:], ACPISleepControlPort)
	putPort(b[fadtSleepStatus:], ACPISleepStatusPort)
	copy(b[fadtHypervisor:], hypervisorVendorID)
	return acpiTable("FACP", fadtRevision, b[acpiHeaderSize:])
}

// madt is the Multiple APIC Description Table. It has no interrupt overrides:
// KVM's default routing connects every ISA line to the IOAPIC input of the
// same number, IRQ 0 included.
func madt(p *Params) []byte {
	b := le.AppendUint32(nil, LocalAPIC)
	b = le.AppendUint32(b, 0) // flags: no 8259 that must be disabled
	for i, id := range p.APICIDs {
		b = append(b, madtLocalAPIC, 8, byte(i), byte(id))
		b = le.AppendUint32(b, madtEnabled)
	}
	b = append(b, madtIOAPIC, 12, p.ioapicID(), 0)
	b = le.AppendUint32(b, IOAPIC)
	b = le.AppendUint32(b, 0) // its first GSI
	b = append(b, madtLocalAPICNMI, 6, madtAllProcessors, 0, 0, madtNMILocalINT)
	return acpiTable("APIC", madtRevision, b)
}

// ioapicID returns the lowest ID that no local APIC has: the MP specification
// wants them all different.
func (p *Params) ioapicID() byte {
	var used [256]bool
	for _, id := range p.APICIDs {
		used[id&0xff] = true
	}
	id := byte(0)
	for used[id] && id < 254 {
		id++
	}
	return id
}

// xsdt is the Extended System Description Table: the addresses of the others.
func xsdt(tables ...uint64) []byte {
	var b []byte
	for _, t := range tables {
		b = le.AppendUint64(b, t)
	}
	return acpiTable("XSDT", xsdtRevision, b)
}

// rsdp is the Root System Description Pointer (table 5.3). Its first checksum
// covers the 20 bytes of ACPI 1.0.
func rsdp(xsdt uint64) []byte {
	b := make([]byte, 0, rsdpSize)
	b = append(b, "RSD PTR \x00"...)
	b = append(b, acpiOEMID...)
	b = append(b, 2)           // revision
	b = le.AppendUint32(b, 0)  // no RSDT
	b = le.AppendUint32(b, 36) // length
	b = le.AppendUint64(b, xsdt)
	b = append(b, 0, 0, 0, 0) // extended checksum, reserved
	b[8] = checksum(b[:20])
	b[32] = checksum(b)
	return b
}

// acpiTables returns all tables for a machine, to be put at address base, with
// the RSDP first.
func acpiTables(base uint64, p *Params) []byte {
	all := make([]byte, rsdpSize, 4096)
	add := func(table []byte) uint64 {
		for len(all)%acpiAlign != 0 {
			all = append(all, 0)
		}
		at := base + uint64(len(all))
		all = append(all, table...)
		return at
	}
	dsdtAddr := add(acpiTable("DSDT", dsdtRevision, dsdt(p)))
	fadtAddr := add(fadt(p, dsdtAddr))
	madtAddr := add(madt(p))
	xsdtAddr := add(xsdt(fadtAddr, madtAddr))
	copy(all, rsdp(xsdtAddr))
	return all
}

// writeACPI puts the tables where the guest finds them, and returns the address
// of the RSDP.
func (l *loader) writeACPI() (rsdp uint64, err error) {
	tables := acpiTables(ACPITables, &l.p)
	if len(tables) > ACPITablesEnd-ACPITables {
		return 0, fmt.Errorf("boot: ACPI tables of %d bytes: %w", len(tables), ErrNoRoom)
	}
	if _, err := l.mem.WriteAt(tables, ACPITables); err != nil {
		return 0, fmt.Errorf("boot: ACPI tables: %w", err)
	}
	return ACPITables, nil
}
