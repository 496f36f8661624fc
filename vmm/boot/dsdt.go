package boot

import "fmt"

// dsdt is the definition block of the machine's devices:
//
//	Name (_S5, Package () { 5, 0, 0, 0 })
//	Scope (_SB) {
//	    Device (COM1) {
//	        Name (_HID, EisaId ("PNP0501"))
//	        Name (_UID, 0)
//	        Name (_CRS, ResourceTemplate () { IO (…) Interrupt (…) { 4 } })
//	    }
//	    Device (KBD0) {
//	        Name (_HID, EisaId ("PNP0303"))
//	        Name (_UID, 0)
//	        Name (_CRS, ResourceTemplate () { IO (…) IO (…) Interrupt (…) { 1 } })
//	    }
//	    Device (VR00) {
//	        Name (_HID, "LNRO0005")
//	        Name (_UID, 0)
//	        Name (_CRS, ResourceTemplate () { Memory32Fixed (…) Interrupt (…) { 5 } })
//	    }
//	    …
//	    Device (PVPN) { Name (_HID, "QEMU0001") … }
//	}
//
// LNRO0005 is what Linux' virtio_mmio driver binds to; QEMU0001 is pvpanic's.
func dsdt(p *Params) aml {
	var devices []aml
	if p.Serial {
		devices = append(devices, amlDevice("COM1",
			amlName("_HID", amlEISAID("PNP0501")),
			amlName("_UID", amlInteger(0)),
			amlName("_CRS", amlResources(amlIO(COM1Port, 8), amlInterrupt(COM1GSI))),
		))
	}
	if p.Keyboard {
		devices = append(devices, amlDevice("KBD0",
			amlName("_HID", amlEISAID("PNP0303")),
			amlName("_UID", amlInteger(0)),
			amlName("_CRS", amlResources(amlIO(KeyboardData, 1), amlIO(KeyboardCommand, 1), amlInterrupt(KeyboardGSI))),
		))
	}
	for i, d := range p.Devices {
		devices = append(devices, amlDevice(fmt.Sprintf("VR%02X", i),
			amlName("_HID", amlText("LNRO0005")),
			amlName("_UID", amlInteger(uint64(i))),
			amlName("_CRS", amlResources(amlMemory32(uint32(d.Base), uint32(d.Size)), amlInterrupt(d.GSI))),
		))
	}
	if p.PVPanic {
		devices = append(devices, amlDevice("PVPN",
			amlName("_HID", amlText("QEMU0001")),
			amlName("_UID", amlInteger(0)),
			amlName("_CRS", amlResources(amlIO(PVPanicPort, 1))),
		))
	}
	return amlJoin(
		amlName("_S5", amlPackage(amlInteger(ACPISleepTypeSoftOff), amlInteger(0), amlInteger(0), amlInteger(0))),
		amlScope("_SB", devices...),
	)
}
