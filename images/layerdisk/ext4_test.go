package layerdisk

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// found is a file as an independent reader of the disk image sees it.
type found struct {
	kind                byte // as in ls: - d l c b p
	mode                uint16
	uid, gid            uint32
	size                int64
	mtime, atime, ctime time.Time
	target              string
	major, minor        uint32
	links               uint16
	inode               uint32
	data                string
	xattrs              map[string]string
}

// readDisk reads a whole disk image into a map by path; the root is ".".
func readDisk(t testing.TB, file string) map[string]found {
	t.Helper()
	image, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	d := &disk{t: t, b: image, files: make(map[string]found)}
	d.read(".", rootInode)
	return d.files
}

type disk struct {
	t     testing.TB
	b     []byte
	files map[string]found
}

func (d *disk) u16(at int64) uint16 { return binary.LittleEndian.Uint16(d.b[at:]) }
func (d *disk) u32(at int64) uint32 { return binary.LittleEndian.Uint32(d.b[at:]) }

func (d *disk) read(name string, number uint32) {
	perGroup := d.u32(superOffset + sInodesPerGroup)
	group := int64((number - 1) / perGroup)
	table := int64(d.u32(blockSize+group*groupDescSize+bgInodeTable)) * blockSize
	at := table + int64((number-1)%perGroup)*inodeSize
	raw := d.b[at : at+inodeSize]
	mode := d.u16(at)
	f := found{
		mode: mode & 0o7777, inode: number, links: d.u16(at + iLinksCount),
		uid:   uint32(d.u16(at+0x02)) | uint32(d.u16(at+0x78))<<16,
		gid:   uint32(d.u16(at+0x18)) | uint32(d.u16(at+0x7a))<<16,
		size:  int64(d.u32(at+0x04)) | int64(d.u32(at+0x6c))<<32,
		mtime: d.time(at+iMtime, at+iMtimeExtra), atime: d.time(at+iAtime, at+iAtimeExtra), ctime: d.time(at+iCtime, at+iCtimeExtra),
		xattrs: make(map[string]string),
	}
	d.xattrs(raw[inodeSize-104:], 4, raw[inodeSize-100:], f.xattrs)
	if acl := int64(d.u32(at + iFileACL)); acl != 0 {
		block := d.b[acl*blockSize:][:blockSize]
		d.xattrs(block, xattrBlockHeader, block, f.xattrs)
	}
	switch mode >> 12 {
	case 0o10:
		f.kind, f.data = '-', string(d.contents(raw, f.size))
	case 0o12:
		f.kind = 'l'
		if f.size < 60 {
			f.target = string(raw[iBlock:][:f.size])
		} else {
			f.target = string(d.contents(raw, f.size))
		}
	case 0o02, 0o06:
		f.kind = 'c'
		if mode>>12 == 0o06 {
			f.kind = 'b'
		}
		dev := d.u32(at + iBlock + 4)
		f.major, f.minor = dev>>8&0xfff, dev&0xff|dev>>12&0xfff00
	case 0o01:
		f.kind = 'p'
	case 0o04:
		f.kind = 'd'
		dir := d.contents(raw, f.size)
		for at := 0; at < len(dir); {
			length := int(binary.LittleEndian.Uint16(dir[at+dRecLen:]))
			entry := dir[at : at+length]
			at += length
			child := binary.LittleEndian.Uint32(entry)
			base := entryName(entry)
			if child == 0 || base == "." || base == ".." {
				continue
			}
			d.read(filepath.Join(name, base), child)
		}
		f.size = 0
	default:
		d.t.Fatalf("%s: inode %d has mode %o", name, number, mode)
	}
	d.files[name] = f
}

func (d *disk) time(at, extra int64) time.Time {
	x := d.u32(extra)
	return time.Unix(int64(int32(d.u32(at)))+int64(x&3)<<32, int64(x>>2))
}

func (d *disk) contents(inode []byte, size int64) []byte {
	le := binary.LittleEndian
	var out []byte
	var walk func(tree []byte)
	walk = func(tree []byte) {
		if le.Uint16(tree) != extentMagic {
			return
		}
		for i := range int(le.Uint16(tree[2:])) {
			e := tree[extentHeader*(i+1):]
			if le.Uint16(tree[6:]) > 0 {
				walk(d.b[int64(le.Uint32(e[4:]))*blockSize:][:blockSize])
				continue
			}
			if int(le.Uint32(e))*blockSize != len(out) {
				d.t.Fatal("a hole")
			}
			out = append(out, d.b[int64(le.Uint32(e[8:]))*blockSize:][:int(le.Uint16(e[4:]))*blockSize]...)
		}
	}
	walk(inode[iBlock:])
	return out[:size]
}

func (d *disk) xattrs(b []byte, at int, values []byte, into map[string]string) {
	if binary.LittleEndian.Uint32(b) != xattrMagic {
		return
	}
	prefixes := map[byte]string{1: "user.", 2: aclAccess, 3: aclDefault, 4: "trusted.", 6: "security."}
	for at+xattrEntryHeader <= len(b) && binary.LittleEndian.Uint32(b[at:]) != 0 {
		length, offset, size := int(b[at]), binary.LittleEndian.Uint16(b[at+2:]), binary.LittleEndian.Uint32(b[at+8:])
		name := prefixes[b[at+1]] + string(b[at+xattrEntryHeader:][:length])
		into[name] = string(values[offset:][:size])
		at += (xattrEntryHeader + length + 3) &^ 3
	}
}

// checkDisk lets e2fsck judge an image.
func checkDisk(t testing.TB, file string) {
	t.Helper()
	e2fsck, err := exec.LookPath("e2fsck")
	if err != nil {
		t.Log("not checked by e2fsck: it is not installed (e2fsprogs)")
		return
	}
	out, err := exec.Command(e2fsck, "-fn", file).CombinedOutput()
	if err != nil || bytes.Contains(out, []byte("Fix?")) {
		t.Fatalf("e2fsck -fn: %v\n%s", err, out)
	}
}

// opener opens layers that lie in memory.
func opener(layers [][]byte) func(int) (io.ReadCloser, error) {
	return func(n int) (io.ReadCloser, error) {
		if n < 0 || n >= len(layers) {
			return nil, fmt.Errorf("there is no layer %d", n)
		}
		return io.NopCloser(bytes.NewReader(layers[n])), nil
	}
}

// write makes the disk image of the last of layers, the way a store does.
func write(t testing.TB, layers ...[]byte) (file string, r *Recipe, err error) {
	t.Helper()
	var trees []*Tree
	for _, b := range layers {
		tree, err := Scan(t.Context(), bytes.NewReader(b), Limits{})
		if err != nil {
			return "", nil, err
		}
		trees = append(trees, tree)
	}
	r, err = NewRecipe(trees)
	if err != nil {
		return "", nil, err
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "disk.ext4"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := r.Write(t.Context(), f, [32]byte{1, 2, 3}, opener(layers)); err != nil {
		return "", nil, err
	}
	return f.Name(), r, nil
}

// mustWrite is write for what must work. It checks the image.
func mustWrite(t testing.TB, layers ...[]byte) (map[string]found, *Recipe) {
	t.Helper()
	file, r, err := write(t, layers...)
	if err != nil {
		t.Fatal(err)
	}
	checkDisk(t, file)
	return readDisk(t, file), r
}
