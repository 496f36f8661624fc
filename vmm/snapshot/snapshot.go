// Package snapshot is the form in which a stopped machine lies on disk: a
// directory with two files.
//
//	state    a header, the State as JSON, and a checksum of both
//	memory   the guest's RAM, byte for byte and sparse, and a page that names
//	         the snapshot it belongs to
//
// The directory appears under its name when it is complete and not before: see
// Create. Nothing that a file can hold makes Read do anything but return a
// State or an error.
package snapshot

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
)

// Names of the files in a snapshot's directory.
const (
	StateFile  = "state"
	MemoryFile = "memory"
)

// The header of a state file, all numbers little-endian:
//
//	0   8 bytes   magic
//	8   uint32    Version
//	12  uint32    architecture, as ELF numbers them (e_machine)
//	16  uint64    length of the body in bytes
//	24            the body
//	…   uint32    CRC-32C of all before: against accidents, since nothing in a
//	              snapshot is trusted for having the right one
const (
	headerSize = 24
	sumSize    = 4
	magic      = "hull\x00vm\n"

	// Version of the format. A reader knows its own and all before it.
	Version = 1
	// archX86_64 is EM_X86_64.
	archX86_64 = 62

	// maxBody bounds a state, in bytes: 64 vCPUs with 12 KiB of registers each
	// are less than 2 MiB as JSON, but the names of all files that a guest remembers
	// of a shared directory may be 80.
	maxBody = 128 << 20
)

// Errors of Read, to be found with errors.Is.
var (
	ErrFormat  = errors.New("not a snapshot of hull's, or a damaged one")
	ErrVersion = errors.New("a version of the format that this hull does not know")
	ErrArch    = errors.New("of another processor architecture")
)

// Write writes a state in its form on disk.
func Write(w io.Writer, s *State) error {
	body, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("encode a snapshot's state: %w", err)
	}
	if len(body) > maxBody {
		return fmt.Errorf("encode a snapshot's state: %d bytes, at most %d are allowed", len(body), maxBody)
	}
	_, err = w.Write(seal(body))
	return err
}

// seal puts header and checksum around a body.
func seal(body []byte) []byte {
	b := make([]byte, headerSize, headerSize+len(body)+sumSize)
	copy(b, magic)
	binary.LittleEndian.PutUint32(b[8:], Version)
	binary.LittleEndian.PutUint32(b[12:], archX86_64)
	binary.LittleEndian.PutUint64(b[16:], uint64(len(body)))
	b = append(b, body...)
	return binary.LittleEndian.AppendUint32(b, checksum(b))
}

func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// Read reads what Write wrote, to the end of r, and checks it. The error wraps
// ErrFormat, ErrVersion or ErrArch unless it is r's own.
func Read(r io.Reader) (*State, error) {
	const most = headerSize + maxBody + sumSize
	b, err := io.ReadAll(io.LimitReader(r, most+1))
	if err != nil {
		return nil, err
	}
	if len(b) < headerSize+sumSize || len(b) > most || string(b[:8]) != magic {
		return nil, ErrFormat
	}
	// The version comes first: what lies behind it is that version's business.
	if v := binary.LittleEndian.Uint32(b[8:]); v == 0 || v > Version {
		return nil, fmt.Errorf("%w: %d; this one knows 1 to %d", ErrVersion, v, Version)
	}
	rest := b[:len(b)-sumSize]
	if checksum(rest) != binary.LittleEndian.Uint32(b[len(rest):]) {
		return nil, fmt.Errorf("%w: the checksum does not fit", ErrFormat)
	}
	if a := binary.LittleEndian.Uint32(b[12:]); a != archX86_64 {
		return nil, fmt.Errorf("%w: number %d in ELF's list", ErrArch, a)
	}
	if n := binary.LittleEndian.Uint64(b[16:]); n != uint64(len(rest)-headerSize) {
		return nil, fmt.Errorf("%w: its length does not fit", ErrFormat)
	}
	s := new(State)
	if err := json.Unmarshal(rest[headerSize:], s); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if err := s.validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return s, nil
}

// TrailerSize is how many bytes follow the RAM in a memory file, a page.
const TrailerSize = 4096

// trailerMagic begins the last page of a memory file; the snapshot's ID follows.
const trailerMagic = "hull memory of \x00"

// Trailer is the last page of the memory file of snapshot id.
func Trailer(id ID) []byte {
	p := make([]byte, TrailerSize)
	copy(p[copy(p, trailerMagic):], id[:])
	return p
}

// CheckMemory makes sure that f is the memory file that belongs to s, and has
// all its bytes.
func (s *State) CheckMemory(f *os.File) error {
	st, err := f.Stat()
	if err != nil {
		return fmt.Errorf("a snapshot's memory: %w", err)
	}
	want := int64(s.Memory.Size) + TrailerSize
	if !st.Mode().IsRegular() || st.Size() != want {
		return fmt.Errorf("%s: %w: it must be a file of %d bytes and has %d", f.Name(), ErrFormat, want, st.Size())
	}
	p := make([]byte, len(trailerMagic)+len(s.ID))
	if _, err := f.ReadAt(p, int64(s.Memory.Size)); err != nil {
		return fmt.Errorf("a snapshot's memory: %w", err)
	}
	if !bytes.Equal(p, Trailer(s.ID)[:len(p)]) {
		return fmt.Errorf("%s: %w: it belongs to another snapshot than the state beside it", f.Name(), ErrFormat)
	}
	return nil
}
