package boot

import "fmt"

// Mode is the operating mode that a processor starts in.
type Mode int

const (
	Real16      Mode = iota // as after a reset
	Protected32             // flat segments, no paging
	Long64                  // 64-bit, identity-mapped
)

func (m Mode) String() string {
	switch m {
	case Real16:
		return "16-bit real mode"
	case Protected32:
		return "32-bit protected mode"
	case Long64:
		return "64-bit mode"
	}
	return fmt.Sprintf("mode %d", int(m))
}

// State is what the boot processor's registers must hold before it runs for the
// first time. Registers not named here are zero.
type State struct {
	Mode     Mode
	Protocol Protocol // the one that was used, never ProtocolAuto

	RIP, RSP, RSI, RBX, RFLAGS uint64
	CR0, CR3, CR4, EFER        uint64

	GDT, IDT Table
	CS       Segment
	Data     Segment // for DS, ES, FS, GS and SS
	TR       Segment
	LDT      Segment // not present: unusable

	// CommandLine is what the guest sees: Params.CommandLine with the words
	// that the platform added.
	CommandLine string
	// InitrdAddr and InitrdSize are where the initial RAM disk is, 0 without.
	InitrdAddr, InitrdSize uint64
}

// Table is a descriptor table register.
type Table struct {
	Base  uint64
	Limit uint16 // size in bytes, less one
}

// Segment is a segment register with its hidden part (Intel SDM vol. 3, 3.4.3
// and 3.4.5). A zero Segment is not present: KVM calls it unusable.
type Segment struct {
	Selector uint16
	Base     uint64
	Limit    uint32 // in bytes, less one, whatever G says
	Type     uint8  // 4 bits
	DPL      uint8  // 2 bits
	Present  bool   // P
	S        bool   // code or data, not system
	AVL      bool
	L        bool // 64-bit code
	DB       bool // 32-bit
	G        bool // limit in pages
}

// Bits of control registers (Intel SDM vol. 3, 2.5) and of EFER (2.2.1).
const (
	CR0PE = 1 << 0  // protected mode
	CR0MP = 1 << 1  // monitor coprocessor
	CR0ET = 1 << 4  // always 1
	CR0NE = 1 << 5  // native x87 errors
	CR0PG = 1 << 31 // paging

	CR4PAE = 1 << 5

	EFERLME = 1 << 8  // long mode enabled
	EFERLMA = 1 << 10 // long mode active

	rflagsFixed = 1 << 1 // reserved, always 1
)
