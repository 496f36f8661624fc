package boot

import "strings"

// A writer for the little of ACPI Machine Language that describes devices
// (ACPI 6.5, chapter 20). Each function returns the encoding of one term;
// terms that contain others take them as arguments, so that a table reads like
// the ASL it stands for.

// Opcodes (ACPI 6.5, 20.3, table 20.2).
const (
	amlZeroOp      = 0x00
	amlOneOp       = 0x01
	amlNameOp      = 0x08
	amlBytePrefix  = 0x0a
	amlWordPrefix  = 0x0b
	amlDWordPrefix = 0x0c
	amlString      = 0x0d
	amlQWordPrefix = 0x0e
	amlScopeOp     = 0x10
	amlBufferOp    = 0x11
	amlPackageOp   = 0x12
	amlExtOp       = 0x5b
	amlDeviceOp    = 0x82 // after amlExtOp
)

// aml is encoded terms.
type aml []byte

func amlJoin(terms ...aml) aml {
	var all aml
	for _, t := range terms {
		all = append(all, t...)
	}
	return all
}

// amlSized is a PkgLength and what it is the length of (20.2.4). The length
// counts its own bytes: one up to 63, else a lead byte with the count of
// further bytes in its top bits and the low 4 bits of the length.
func amlSized(terms ...aml) aml {
	body := amlJoin(terms...)
	if n := len(body) + 1; n < 1<<6 {
		return append(aml{byte(n)}, body...)
	}
	for more := 1; ; more++ {
		n := len(body) + 1 + more
		if n >= 1<<(4+8*more) && more < 3 {
			continue
		}
		size := aml{byte(more<<6 | n&0xf)}
		for n >>= 4; len(size) <= more; n >>= 8 {
			size = append(size, byte(n))
		}
		return append(size, body...)
	}
}

// amlInteger is a constant in its shortest form (20.2.3).
func amlInteger(v uint64) aml {
	switch {
	case v == 0:
		return aml{amlZeroOp}
	case v == 1:
		return aml{amlOneOp}
	case v < 1<<8:
		return aml{amlBytePrefix, byte(v)}
	case v < 1<<16:
		return le.AppendUint16(aml{amlWordPrefix}, uint16(v))
	case v < 1<<32:
		return le.AppendUint32(aml{amlDWordPrefix}, uint32(v))
	}
	return le.AppendUint64(aml{amlQWordPrefix}, v)
}

// amlText is a string of ASCII characters without NUL.
func amlText(s string) aml { return append(append(aml{amlString}, s...), 0) }

// amlNameString is a name of one segment of at most four characters (20.2.2).
// Shorter ones are filled up with "_".
func amlNameString(name string) aml { return aml((name + "____")[:4]) }

// amlName is Name(name, value).
func amlName(name string, value aml) aml { return amlJoin(aml{amlNameOp}, amlNameString(name), value) }

// amlScope is Scope(name) {…}.
func amlScope(name string, terms ...aml) aml {
	return append(aml{amlScopeOp}, amlSized(append([]aml{amlNameString(name)}, terms...)...)...)
}

// amlDevice is Device(name) {…}.
func amlDevice(name string, terms ...aml) aml {
	return append(aml{amlExtOp, amlDeviceOp}, amlSized(append([]aml{amlNameString(name)}, terms...)...)...)
}

// amlPackage is Package() {…}, of at most 255 elements.
func amlPackage(elements ...aml) aml {
	return append(aml{amlPackageOp}, amlSized(append([]aml{{byte(len(elements))}}, elements...)...)...)
}

// amlBuffer is Buffer() {bytes}.
func amlBuffer(b aml) aml {
	return append(aml{amlBufferOp}, amlSized(amlInteger(uint64(len(b))), b)...)
}

// amlEISAID is EisaId("PNP0501"): three letters of 5 bits and four hexadecimal
// digits, in an integer whose first byte has the first letter (19.3.4).
func amlEISAID(id string) aml {
	var v uint32
	for _, c := range id[:3] {
		v = v<<5 | uint32(c-'@')
	}
	for _, c := range id[3:7] {
		v = v<<4 | uint32(strings.IndexRune("0123456789ABCDEF", c))
	}
	return append(aml{amlDWordPrefix}, byte(v>>24), byte(v>>16), byte(v>>8), byte(v))
}

// Resource descriptors (6.4.2 and 6.4.3).
const (
	resourceIO        = 0x47 // I/O Port, 7 bytes follow
	resourceEnd       = 0x79 // End Tag, 1 byte follows
	resourceMemory32  = 0x86 // 32-bit Fixed Memory Range
	resourceInterrupt = 0x89 // Extended Interrupt

	ioDecode16 = 1

	interruptConsumer = 1 << 0
	interruptEdge     = 1 << 1 // and active high, exclusive
)

// amlResources is ResourceTemplate() {…}.
func amlResources(resources ...aml) aml {
	// A checksum of 0 in the end tag is one that nobody checks (6.4.2.9).
	return amlBuffer(append(amlJoin(resources...), resourceEnd, 0))
}

// amlIO is IO(Decode16, port, port, 1, n).
func amlIO(port uint16, n uint8) aml {
	b := aml{resourceIO, ioDecode16}
	b = le.AppendUint16(b, port)
	b = le.AppendUint16(b, port)
	return append(b, 1, n)
}

// amlMemory32 is Memory32Fixed(ReadWrite, base, size).
func amlMemory32(base, size uint32) aml {
	b := aml{resourceMemory32, 9, 0, 1}
	b = le.AppendUint32(b, base)
	return le.AppendUint32(b, size)
}

// amlInterrupt is Interrupt(ResourceConsumer, Edge, ActiveHigh, Exclusive) {gsi}.
func amlInterrupt(gsi uint32) aml {
	return le.AppendUint32(aml{resourceInterrupt, 6, 0, interruptConsumer | interruptEdge, 1}, gsi)
}
