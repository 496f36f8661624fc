package blk

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"hash/fnv"
	"os"
	"unicode/utf16"
)

// Sizes of a GUID partition table (UEFI 2.10, 5.3).
const (
	gptEntrySize   = 128
	gptEntries     = 128 // the least there may be room for, and the most that Linux reads by default
	gptTableSize   = gptEntries * gptEntrySize
	gptHeaderSize  = 92
	gptRevision    = 0x00010000
	gptSignature   = "EFI PART"
	gptFront       = 2*SectorSize + gptTableSize // protective MBR, header, table
	gptBack        = gptTableSize + SectorSize   // table, header
	partitionAlign = 1 << 20
	// attrReadOnly is bit 60 of a basic data partition's attributes.
	attrReadOnly = 1 << 60
)

// MaxPartitions is how many files a GPT disk can be made of.
const MaxPartitions = gptEntries

// linuxData is the partition type GUID 0FC63DAF-8483-4772-8E79-3D69D8477DE4,
// its first three fields little-endian as on disk.
var linuxData = [16]byte{0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4}

// GPT is a read-only Backend that is put together from files: one partition
// for each, in order, aligned to 1 MiB. Nothing is copied; only the tables are
// in memory. The same files always give the same disk.
type GPT struct {
	readOnly
	size  uint64
	parts []extent // sorted by start: tables and files, with gaps that read as zero
}

// extent is a piece of the disk.
type extent struct {
	start, size uint64
	data        []byte // size bytes, when file is nil
	file        *File
}

func (e *extent) end() uint64 { return e.start + e.size }

// NewGPT makes a disk of files, 1 to MaxPartitions of them. The caller closes
// them when the device is no longer active.
func NewGPT(files []*os.File) (*GPT, error) {
	if len(files) == 0 || len(files) > MaxPartitions {
		return nil, fmt.Errorf("disk of %d partitions: must be 1 to %d", len(files), MaxPartitions)
	}
	g := &GPT{}
	at := uint64(partitionAlign)
	entries := make([]byte, gptTableSize)
	for i, f := range files {
		file, err := OpenFile(f)
		if err != nil {
			return nil, fmt.Errorf("partition %d: %w", i+1, err)
		}
		size := file.Size()
		if size > 1<<50 {
			return nil, fmt.Errorf("partition %d: %s: %d bytes are more than a disk can have", i+1, f.Name(), size)
		}
		g.parts = append(g.parts, extent{start: at, size: size, file: file})
		fillEntry(entries[i*gptEntrySize:], i, at/SectorSize, (at+size)/SectorSize-1)
		at = alignUp(at + size)
	}
	g.size = alignUp(at + gptBack)

	last := g.size/SectorSize - 1
	front := make([]byte, gptFront)
	fillMBR(front, last)
	fillHeader(front[SectorSize:], entries, header{self: 1, other: last, table: 2, last: last})
	copy(front[2*SectorSize:], entries)
	back := make([]byte, gptBack)
	copy(back, entries)
	fillHeader(back[gptTableSize:], entries, header{self: last, other: 1, table: last - gptTableSize/SectorSize, last: last})

	tables := []extent{{start: 0, size: gptFront, data: front}}
	g.parts = append(tables, g.parts...)
	g.parts = append(g.parts, extent{start: g.size - gptBack, size: gptBack, data: back})
	return g, nil
}

func alignUp(n uint64) uint64 { return (n + partitionAlign - 1) &^ (partitionAlign - 1) }

// GPTSize is how many bytes a disk has that NewGPT makes of files of these sizes.
func GPTSize(sizes []uint64) uint64 {
	at := uint64(partitionAlign)
	for _, n := range sizes {
		at = alignUp(at + n/SectorSize*SectorSize)
	}
	return alignUp(at + gptBack)
}

// fillEntry writes partition entry i (UEFI 2.10, table 5.6).
func fillEntry(p []byte, i int, first, last uint64) {
	le := binary.LittleEndian
	copy(p[0:], linuxData[:])
	guid := makeGUID(fmt.Sprintf("partition %d", i+1))
	copy(p[16:], guid[:])
	le.PutUint64(p[32:], first)
	le.PutUint64(p[40:], last)
	le.PutUint64(p[48:], attrReadOnly)
	for k, c := range utf16.Encode([]rune(fmt.Sprintf("layer%d", i+1))) {
		le.PutUint16(p[56+2*k:], c)
	}
}

// makeGUID derives a GUID that stays the same, in the form of a random one.
func makeGUID(name string) (g [16]byte) {
	h := fnv.New128a() // crypto/sha256 would add its initialisation to every VM's start
	_, _ = h.Write([]byte("hull " + name))
	h.Sum(g[:0])
	g[7] = g[7]&0x0f | 0x40 // version 4, in the little-endian third field
	g[8] = g[8]&0x3f | 0x80 // variant 1
	return g
}

// fillMBR writes the protective MBR (UEFI 2.10, 5.2.3).
func fillMBR(p []byte, last uint64) {
	e := p[446:]
	copy(e, []byte{0, 0x00, 0x02, 0x00, 0xee, 0xff, 0xff, 0xff})
	binary.LittleEndian.PutUint32(e[8:], 1)
	binary.LittleEndian.PutUint32(e[12:], uint32(min(last, 0xffffffff)))
	p[510], p[511] = 0x55, 0xaa
}

// header is where a table header, its twin and its table are, in sectors.
type header struct{ self, other, table, last uint64 }

// fillHeader writes a table header (UEFI 2.10, table 5.5).
func fillHeader(p, entries []byte, h header) {
	le := binary.LittleEndian
	copy(p, gptSignature)
	le.PutUint32(p[8:], gptRevision)
	le.PutUint32(p[12:], gptHeaderSize)
	le.PutUint64(p[24:], h.self)
	le.PutUint64(p[32:], h.other)
	le.PutUint64(p[40:], gptFront/SectorSize)
	le.PutUint64(p[48:], h.last-gptBack/SectorSize)
	guid := makeGUID("disk")
	copy(p[56:], guid[:])
	le.PutUint64(p[72:], h.table)
	le.PutUint32(p[80:], gptEntries)
	le.PutUint32(p[84:], gptEntrySize)
	le.PutUint32(p[88:], crc32.ChecksumIEEE(entries))
	le.PutUint32(p[16:], crc32.ChecksumIEEE(p[:gptHeaderSize]))
}

// Size implements Backend.
func (g *GPT) Size() uint64 { return g.size }

// ReadAt implements Backend.
func (g *GPT) ReadAt(v *Vector, off uint64, how Mode) error {
	for v.Len() > 0 {
		e, end := g.find(off)
		n := min(v.Len(), end-off)
		switch {
		case e == nil:
			v.zero(n)
		case e.file == nil:
			v.fill(e.data[off-e.start:][:n])
		default:
			if err := e.file.read(v, off-e.start, n, how); err != nil {
				return err
			}
		}
		off += n
	}
	return nil
}

// find returns the extent that off lies in, or nil for a gap, and where it
// ends.
func (g *GPT) find(off uint64) (*extent, uint64) {
	for i := range g.parts {
		e := &g.parts[i]
		if off < e.start {
			return nil, e.start
		}
		if off < e.end() {
			return e, e.end()
		}
	}
	return nil, g.size
}
