package layerdisk

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
)

// The ext4 writer leaves some things undone that matter to a layer. amend does
// them on the finished image. Offsets are those of Linux's
// Documentation/filesystems/ext4: super.rst, group_descr.rst, inodes.rst,
// directory.rst, attributes.rst. The images have no checksums, 32-byte group
// descriptors, 256-byte inodes, and the inode tables of all groups in one piece.

const (
	superOffset = 1024
	superSize   = 1024

	sInodesCount     = 0x00
	sBlocksCount     = 0x04
	sFreeBlocksCount = 0x0c
	sFreeInodesCount = 0x10
	sBlocksPerGroup  = 0x20
	sInodesPerGroup  = 0x28
	sMagic           = 0x38
	sUUID            = 0x68
	sLpfIno          = 0x268

	superMagic = 0xef53

	groupDescSize = 32
	bgBlockBitmap = 0x00
	bgInodeBitmap = 0x04
	bgInodeTable  = 0x08
	bgFreeBlocks  = 0x0c
	bgFreeInodes  = 0x0e
	bgUsedDirs    = 0x10

	inodeSize   = 256
	rootInode   = 2
	iMode       = 0x00
	iAtime      = 0x08
	iCtime      = 0x0c
	iMtime      = 0x10
	iLinksCount = 0x1a
	iBlock      = 0x28
	iFileACL    = 0x68
	iCtimeExtra = 0x84
	iMtimeExtra = 0x88
	iAtimeExtra = 0x8c

	extentMagic  = 0xf30a
	extentHeader = 12

	xattrMagic       = 0xea020000
	xattrBlockHeader = 32
	xattrEntryHeader = 16
)

var errImage = errors.New("the ext4 writer made an image that is not as expected")

// image is a finished disk image in the hands of amend.
type image struct {
	f     *os.File
	super [superSize]byte
	group [groupDescSize]byte // descriptor of the first group
}

// amend gives the image a UUID made of id, sets the change and access times,
// and puts extended attributes in the order in which Linux looks for them.
// It pads the inode bitmaps as e2fsck wants them. Unless remove is empty, it deletes that directory at the root, which must be
// empty and inode 11, and renames placeholder, if any, to it.
func amend(f *os.File, id [sha256.Size]byte, remove, placeholder string) error {
	m := &image{f: f}
	if err := m.read(m.super[:], superOffset); err != nil {
		return err
	}
	if err := m.read(m.group[:], blockSize); err != nil {
		return err
	}
	if binary.LittleEndian.Uint16(m.super[sMagic:]) != superMagic {
		return errImage
	}
	if remove != "" {
		if err := m.removeDirectory(remove, placeholder); err != nil {
			return err
		}
	}
	if err := m.amendInodes(); err != nil {
		return err
	}
	if err := m.padInodeBitmaps(); err != nil {
		return err
	}
	uuid := m.super[sUUID : sUUID+16]
	copy(uuid, id[:])
	uuid[6] = uuid[6]&0x0f | 0x80 // version 8, RFC 9562: free form
	uuid[8] = uuid[8]&0x3f | 0x80
	if err := m.write(m.group[:], blockSize); err != nil {
		return err
	}
	return m.write(m.super[:], superOffset)
}

func (m *image) read(p []byte, offset int64) error {
	if _, err := m.f.ReadAt(p, offset); err != nil {
		return fmt.Errorf("amend the disk image: %w", err)
	}
	return nil
}

func (m *image) write(p []byte, offset int64) error {
	_, err := m.f.WriteAt(p, offset)
	return err
}

// inodeOffset is where an inode is in the file.
func (m *image) inodeOffset(number uint32) int64 {
	return int64(binary.LittleEndian.Uint32(m.group[bgInodeTable:]))*blockSize + int64(number-1)*inodeSize
}

// amendInodes goes through all inodes.
func (m *image) amendInodes() error {
	le := binary.LittleEndian
	count := le.Uint32(m.super[sInodesCount:])
	const at = 1024 // at once
	buf := make([]byte, at*inodeSize)
	for first := uint32(1); first <= count; first += at {
		part := buf[:min(at, count-first+1)*inodeSize]
		if err := m.read(part, m.inodeOffset(first)); err != nil {
			return err
		}
		changed := false
		for i := 0; i < len(part); i += inodeSize {
			node := part[i : i+inodeSize]
			if le.Uint16(node[iMode:]) == 0 {
				continue
			}
			changed = true
			copy(node[iCtime:iCtime+4], node[iMtime:])
			copy(node[iCtimeExtra:iCtimeExtra+4], node[iMtimeExtra:])
			if le.Uint32(node[iAtime:])|le.Uint32(node[iAtimeExtra:]) == 0 {
				copy(node[iAtime:iAtime+4], node[iMtime:])
				copy(node[iAtimeExtra:iAtimeExtra+4], node[iMtimeExtra:])
			}
			if block := le.Uint32(node[iFileACL:]); block != 0 {
				if err := m.sortXattrs(block); err != nil {
					return err
				}
			}
		}
		if changed {
			if err := m.write(part, m.inodeOffset(first)); err != nil {
				return err
			}
		}
	}
	return nil
}

// padInodeBitmaps sets the bits behind the last inode of each group
// (bitmaps.rst: unused bits are set).
func (m *image) padInodeBitmaps() error {
	le := binary.LittleEndian
	perGroup := int64(le.Uint32(m.super[sInodesPerGroup:])) // a multiple of 16: a block of inodes
	padding := bytes.Repeat([]byte{0xff}, blockSize-int(perGroup/8))
	groups := (int64(le.Uint32(m.super[sBlocksCount:])) - 1) / int64(le.Uint32(m.super[sBlocksPerGroup:]))
	var desc [groupDescSize]byte
	for group := range groups + 1 {
		if err := m.read(desc[:], blockSize+group*groupDescSize); err != nil {
			return err
		}
		at := int64(le.Uint32(desc[bgInodeBitmap:]))*blockSize + perGroup/8
		if err := m.write(padding, at); err != nil {
			return err
		}
	}
	return nil
}

// sortXattrs orders the entries of a block of extended attributes by name
// index, length of the name, and name. Linux stops looking at the first entry
// that comes after what it wants (xattr_find_entry with sorted = 1), and the
// writer compares in a way that is not an order.
func (m *image) sortXattrs(block uint32) error {
	le := binary.LittleEndian
	b := make([]byte, blockSize)
	if err := m.read(b, int64(block)*blockSize); err != nil {
		return err
	}
	if le.Uint32(b) != xattrMagic {
		return errImage
	}
	var entries [][]byte
	at := xattrBlockHeader
	for at+xattrEntryHeader <= blockSize && le.Uint32(b[at:]) != 0 {
		size := (xattrEntryHeader + int(b[at]) + 3) &^ 3
		if at+size > blockSize {
			return errImage
		}
		entries = append(entries, slices.Clone(b[at:at+size]))
		at += size
	}
	order := func(x, y []byte) int {
		return cmp.Or(
			cmp.Compare(x[1], y[1]), // e_name_index
			cmp.Compare(x[0], y[0]), // e_name_len
			bytes.Compare(x[xattrEntryHeader:][:x[0]], y[xattrEntryHeader:][:y[0]]),
		)
	}
	if slices.IsSortedFunc(entries, order) {
		return nil
	}
	slices.SortFunc(entries, order)
	at = xattrBlockHeader
	for _, e := range entries {
		at += copy(b[at:], e)
	}
	return m.write(b, int64(block)*blockSize)
}
