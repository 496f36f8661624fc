package scratch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// image makes a sparse file with the given blocks (block number to content).
func image(t testing.TB, blocks int64, data map[int64]string) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(blocks * BlockSize); err != nil {
		t.Fatal(err)
	}
	for n, s := range data {
		if _, err := f.WriteAt([]byte(s), n*BlockSize); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func encode(t testing.TB, f *os.File) []byte {
	t.Helper()
	var buf bytes.Buffer
	if err := Encode(&buf, f); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestRoundTrip(t *testing.T) {
	const blocks = 1000
	for name, data := range map[string]map[int64]string{
		"empty":           {},
		"first and last":  {0: "a", blocks - 1: "z"},
		"neighbours":      {5: "a", 6: "b", 8: "c"},
		"written as zero": {5: "a", 6: "\x00", 7: string(make([]byte, 3*BlockSize)), 20: "x"},
	} {
		src := image(t, blocks, data)
		tmpl, err := Parse(encode(t, src))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		path := filepath.Join(t.TempDir(), "disk")
		if err := tmpl.Create(path); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(src.Name())
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: disk differs from its image", name)
		}
		if err := tmpl.Create(path); !errors.Is(err, os.ErrExist) {
			t.Errorf("%s: made a disk over another: %v", name, err)
		}
	}
}

func TestLargeDiskIsSmall(t *testing.T) {
	tmpl, err := Parse(encode(t, image(t, 16<<20, map[int64]string{1: "super", 8 << 20: "journal"}))) // 64 GiB
	if err != nil {
		t.Fatal(err)
	}
	if want := int64(64 << 30); tmpl.Size() != want {
		t.Errorf("size %d, want %d", tmpl.Size(), want)
	}
	path := filepath.Join(t.TempDir(), "disk")
	if err := tmpl.Create(path); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := st.Sys().(*syscall.Stat_t).Blocks * 512; got > 1<<20 || st.Size() != tmpl.Size() {
		t.Errorf("disk of %d bytes takes %d", st.Size(), got)
	}
}

func TestCreateFails(t *testing.T) {
	tmpl, err := Parse(encode(t, image(t, 4, nil)))
	if err != nil {
		t.Fatal(err)
	}
	if err := tmpl.Create(filepath.Join(t.TempDir(), "no", "disk")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if _, err := Load(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestEncodeRefuses(t *testing.T) {
	f := image(t, 1, nil)
	for _, size := range []int64{0, 1, BlockSize + 1, maxDisk + BlockSize} {
		if err := f.Truncate(size); err != nil {
			continue // the filesystem cannot hold it
		}
		if err := Encode(new(bytes.Buffer), f); err == nil {
			t.Errorf("size %d: no error", size)
		}
	}
}

// forge makes a template of a disk of two blocks with the given body and a right checksum.
func forge(size uint64, count uint32, body []byte) []byte {
	raw := append([]byte(magic), make([]byte, headerSize-8)...)
	binary.LittleEndian.PutUint64(raw[8:], size)
	binary.LittleEndian.PutUint32(raw[16:], count)
	binary.LittleEndian.PutUint32(raw[24:], crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)))
	return append(raw, body...)
}

func forgeExtent(offset uint64, length uint32, data int) []byte {
	e := binary.LittleEndian.AppendUint64(nil, offset)
	e = binary.LittleEndian.AppendUint32(e, length)
	e = binary.LittleEndian.AppendUint32(e, 0)
	return append(e, bytes.Repeat([]byte{1}, data)...)
}

func TestParseRefuses(t *testing.T) {
	const block, disk = BlockSize, 2 * BlockSize
	good := encode(t, image(t, 2, map[int64]string{1: "x"}))
	flipped := bytes.Clone(good)
	flipped[len(flipped)-1] ^= 1
	if _, err := Parse(forge(disk, 1, forgeExtent(block, block, block))); err != nil {
		t.Fatalf("forged template is not good to begin with: %v", err)
	}
	for name, raw := range map[string][]byte{
		"empty":                nil,
		"header cut":           good[:headerSize-1],
		"body cut":             good[:len(good)-1],
		"byte flipped":         flipped,
		"wrong magic":          append([]byte("HULLSCR2"), good[8:]...),
		"no disk":              forge(0, 0, nil),
		"huge disk":            forge(1<<63, 0, nil),
		"odd disk":             forge(disk+1, 0, nil),
		"extent missing":       forge(disk, 1, nil),
		"extents without end":  forge(disk, 1<<32-1, forgeExtent(0, block, block)),
		"extent cut":           forge(disk, 1, forgeExtent(0, block, block-1)),
		"extent empty":         forge(disk, 1, forgeExtent(0, 0, 0)),
		"extent too long":      forge(disk, 1, forgeExtent(block, 2*block, 2*block)),
		"extent past the end":  forge(disk, 1, forgeExtent(disk, block, block)),
		"offset wraps":         forge(disk, 1, forgeExtent(1<<64-block, block, block)),
		"offset odd":           forge(disk, 1, forgeExtent(1, block, block)),
		"extents out of order": forge(disk, 2, append(forgeExtent(block, block, block), forgeExtent(0, block, block)...)),
		"extents overlap":      forge(disk, 2, append(forgeExtent(0, 2*block, 2*block), forgeExtent(block, block, block)...)),
		"bytes after the end":  forge(disk, 0, []byte{0}),
	} {
		if _, err := Parse(raw); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v, want %v", name, err, ErrFormat)
		}
	}
}

func BenchmarkCreate(b *testing.B) {
	data := map[int64]string{}
	for n := range int64(26) {
		data[n*1000] = string(bytes.Repeat([]byte{1}, BlockSize))
	}
	tmpl, err := Parse(encode(b, image(b, 16<<20, data)))
	if err != nil {
		b.Fatal(err)
	}
	path := filepath.Join(b.TempDir(), "disk")
	for b.Loop() {
		if err := tmpl.Create(path); err != nil {
			b.Fatal(err)
		}
		os.Remove(path)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(encode(f, image(f, 4, map[int64]string{0: "a", 2: "b"})))
	f.Add(forge(8192, 1, forgeExtent(4096, 4096, 4096)))
	f.Add(forge(1<<63, 2, nil))
	f.Fuzz(func(t *testing.T, raw []byte) {
		tmpl, err := Parse(raw)
		if err != nil {
			return
		}
		for _, e := range tmpl.extents {
			if e.offset < 0 || e.offset+int64(len(e.data)) > tmpl.size {
				t.Errorf("extent of %d bytes at %d in a disk of %d", len(e.data), e.offset, tmpl.size)
			}
		}
	})
}
