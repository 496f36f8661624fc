package snapshot

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
)

// ID is a random number that no two snapshots share.
type ID [16]byte

func (id ID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText writes an ID in hexadecimal digits.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (id *ID) UnmarshalText(b []byte) error {
	if hex.DecodedLen(len(b)) != len(id) {
		return errors.New("a snapshot's ID has 32 hexadecimal digits")
	}
	_, err := hex.Decode(id[:], b)
	return err
}

// State is everything of a machine but the bytes of its RAM.
type State struct {
	ID ID `json:"id"`
	// Base is the snapshot that a differential one is to be laid over; zero for
	// a full one.
	Base ID `json:"base,omitzero"`
	// Realtime is when the machine stood still, in nanoseconds since 1970.
	Realtime int64  `json:"realtime"`
	Program  string `json:"program,omitempty"` // the version of hull that wrote it, for people

	Memory   Memory `json:"memory"`
	Platform string `json:"platform"`
	CPUs     []CPU  `json:"cpus"`
	TSCKHz   int    `json:"tsc_khz,omitempty"` // of the guest's time stamp counter, 0 if unknown
	Chips    Chips  `json:"chips"`
	// Devices in the order of their places in the guest's address space.
	Devices []Device `json:"devices"`
	// Ports is what devices behind I/O ports keep, by their names.
	Ports map[string][]byte `json:"ports,omitempty"`
}

// Memory says what the memory file holds.
type Memory struct {
	Size uint64 `json:"size"` // of the guest's RAM, in bytes
	// Extents are the pieces of the file that are to be looked at, in rising order.
	// What lies outside of them is zero, or in a differential snapshot as it was.
	Extents []Extent `json:"extents"`
}

// Extent is a piece of RAM: Length bytes from Offset, both whole pages. RAM is
// counted without the hole below 4 GiB.
type Extent struct {
	Offset uint64 `json:"offset"`
	Length uint64 `json:"length"`
}

// CPU is one vCPU. What is bytes is a structure of KVM's, as the ioctl of that
// name returns it.
type CPU struct {
	CPUID     []byte `json:"cpuid"` // entries of KVM_GET_CPUID2
	MPState   uint32 `json:"mp_state"`
	Regs      []byte `json:"regs"`
	Sregs     []byte `json:"sregs"`
	XSave     []byte `json:"xsave"`
	XCRS      []byte `json:"xcrs,omitempty"`
	DebugRegs []byte `json:"debug_regs"`
	LAPIC     []byte `json:"lapic"`
	Events    []byte `json:"events"`
	Nested    []byte `json:"nested,omitempty"`
	MSRs      []MSR  `json:"msrs"`
}

// MSR is a model-specific register and what it holds.
type MSR struct {
	Index uint32 `json:"index"`
	Data  uint64 `json:"data"`
}

// Chips is the part of a machine that KVM keeps for all vCPUs together.
type Chips struct {
	Clock  []byte `json:"clock"`  // KVM_GET_CLOCK
	PIC0   []byte `json:"pic0"`   // KVM_GET_IRQCHIP
	PIC1   []byte `json:"pic1"`   //
	IOAPIC []byte `json:"ioapic"` //
	PIT    []byte `json:"pit,omitempty"`
}

// Device is one virtio device.
type Device struct {
	Name  string          `json:"name"`  // for people
	State json.RawMessage `json:"state"` // virtio.State
}

// Bounds of what a state may hold.
const (
	pageSize   = 4096
	maxCPUs    = 1024
	maxMSRs    = 4096
	maxDevices = 1024
)

// validate checks what can be without knowing what is to be done with it.
func (s *State) validate() error {
	switch {
	case s.ID == ID{}:
		return errors.New("it has no ID")
	case len(s.CPUs) < 1 || len(s.CPUs) > maxCPUs:
		return fmt.Errorf("%d vCPUs", len(s.CPUs))
	case len(s.Devices) > maxDevices:
		return fmt.Errorf("%d devices", len(s.Devices))
	}
	for i := range s.CPUs {
		if n := len(s.CPUs[i].MSRs); n > maxMSRs {
			return fmt.Errorf("vCPU %d has %d model-specific registers", i, n)
		}
	}
	return s.Memory.validate()
}

func (m *Memory) validate() error {
	if m.Size == 0 || m.Size%pageSize != 0 || m.Size > 1<<52 {
		return fmt.Errorf("guest memory of %d bytes", m.Size)
	}
	end := uint64(0)
	for _, e := range m.Extents {
		if e.Offset%pageSize != 0 || e.Length%pageSize != 0 || e.Length == 0 ||
			e.Offset < end || e.Offset >= m.Size || e.Length > m.Size-e.Offset {
			return fmt.Errorf("a piece of %d bytes at %d of %d bytes of memory", e.Length, e.Offset, m.Size)
		}
		end = e.Offset + e.Length
	}
	return nil
}
