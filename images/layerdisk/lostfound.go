package layerdisk

import (
	"encoding/binary"
	"math/bits"
)

// lostFoundInode is the first inode that is not reserved; the ext4 writer makes
// lost+found with it before anything else.
const lostFoundInode = 11

// Fields of a directory entry (directory.rst, ext4_dir_entry_2).
const (
	dInode   = 0
	dRecLen  = 4
	dNameLen = 6
	dName    = 8
)

// removeDirectory deletes the empty directory name, which is inode 11, from the
// root directory: its entry, its inode, its block, and itself from all counts.
// An entry called placeholder is given its name.
func (m *image) removeDirectory(name, placeholder string) error {
	le := binary.LittleEndian
	var root, gone [inodeSize]byte
	if err := m.read(root[:], m.inodeOffset(rootInode)); err != nil {
		return err
	}
	if err := m.read(gone[:], m.inodeOffset(lostFoundInode)); err != nil {
		return err
	}
	start, length, err := leafExtent(root[:])
	if err != nil {
		return err
	}
	dir := make([]byte, int(length)*blockSize)
	if err := m.read(dir, int64(start)*blockSize); err != nil {
		return err
	}
	if err := removeEntry(dir, name, lostFoundInode); err != nil {
		return err
	}
	if placeholder != "" {
		if err := renameEntry(dir, placeholder, name); err != nil {
			return err
		}
	}
	if err := m.write(dir, int64(start)*blockSize); err != nil {
		return err
	}
	block, n, err := leafExtent(gone[:])
	if err != nil || n != 1 {
		return errImage
	}
	if err := m.freeBlock(block); err != nil {
		return err
	}
	// The inode: of the first group, like its bitmap and its counts.
	if err := m.clearBit(le.Uint32(m.group[bgInodeBitmap:]), lostFoundInode-1); err != nil {
		return err
	}
	add16(m.group[bgFreeInodes:], 1)
	add16(m.group[bgUsedDirs:], -1)
	add32(m.super[sFreeInodesCount:], 1)
	le.PutUint32(m.super[sLpfIno:], 0)
	if err := m.write(make([]byte, inodeSize), m.inodeOffset(lostFoundInode)); err != nil {
		return err
	}
	add16(root[iLinksCount:], -1) // the ".." of the directory
	return m.write(root[:], m.inodeOffset(rootInode))
}

// leafExtent is the one extent of a file, which must be in the inode itself
// (ifork.rst, "Extent Tree"). Directories of up to 128 MiB are such.
func leafExtent(inode []byte) (start uint32, length uint16, err error) {
	le := binary.LittleEndian
	tree := inode[iBlock:]
	magic, entries, depth := le.Uint16(tree), le.Uint16(tree[2:]), le.Uint16(tree[6:])
	if magic != extentMagic || entries != 1 || depth != 0 {
		return 0, 0, errImage
	}
	leaf := tree[extentHeader:]
	return le.Uint32(leaf[8:]), le.Uint16(leaf[4:]), nil
}

// eachEntry calls f with every entry of a directory and the one before it in
// the same block, nil for the first, until f returns true.
func eachEntry(dir []byte, f func(before, entry []byte) bool) error {
	for block := 0; block < len(dir); block += blockSize {
		var before []byte
		for at := block; at < block+blockSize; {
			length := int(binary.LittleEndian.Uint16(dir[at+dRecLen:]))
			if length < dName || at+length > block+blockSize {
				return errImage
			}
			entry := dir[at : at+length]
			if dName+int(entry[dNameLen]) > length {
				return errImage
			}
			if f(before, entry) {
				return nil
			}
			before = entry
			at += length
		}
	}
	return errImage // f has not found what it looked for
}

func entryName(entry []byte) string { return string(entry[dName:][:entry[dNameLen]]) }

// removeEntry lets the entry before name reach over it, as Linux deletes.
func removeEntry(dir []byte, name string, inode uint32) error {
	le := binary.LittleEndian
	return eachEntry(dir, func(before, entry []byte) bool {
		if before == nil || entryName(entry) != name || le.Uint32(entry[dInode:]) != inode {
			return false
		}
		le.PutUint16(before[dRecLen:], uint16(len(before)+len(entry)))
		clear(entry)
		return true
	})
}

// renameEntry gives an entry another name of the same length.
func renameEntry(dir []byte, from, to string) error {
	return eachEntry(dir, func(_, entry []byte) bool {
		if entryName(entry) != from {
			return false
		}
		copy(entry[dName:], to)
		return true
	})
}

// freeBlock gives a block back.
func (m *image) freeBlock(block uint32) error {
	le := binary.LittleEndian
	perGroup := le.Uint32(m.super[sBlocksPerGroup:])
	group, bit := block/perGroup, block%perGroup
	add32(m.super[sFreeBlocksCount:], 1)
	if group == 0 {
		add16(m.group[bgFreeBlocks:], 1)
		return m.clearBit(le.Uint32(m.group[bgBlockBitmap:]), bit)
	}
	var desc [groupDescSize]byte
	offset := blockSize + int64(group)*groupDescSize
	if err := m.read(desc[:], offset); err != nil {
		return err
	}
	add16(desc[bgFreeBlocks:], 1)
	if err := m.write(desc[:], offset); err != nil {
		return err
	}
	return m.clearBit(le.Uint32(desc[bgBlockBitmap:]), bit)
}

// clearBit clears a bit of a bitmap block.
func (m *image) clearBit(block, bit uint32) error {
	var b [1]byte
	offset := int64(block)*blockSize + int64(bit/8)
	if err := m.read(b[:], offset); err != nil {
		return err
	}
	mask := bits.RotateLeft8(1, int(bit%8))
	if b[0]&mask == 0 {
		return errImage
	}
	b[0] &^= mask
	return m.write(b[:], offset)
}

func add16(p []byte, n int16) {
	binary.LittleEndian.PutUint16(p, binary.LittleEndian.Uint16(p)+uint16(n))
}

func add32(p []byte, n int32) {
	binary.LittleEndian.PutUint32(p, binary.LittleEndian.Uint32(p)+uint32(n))
}
