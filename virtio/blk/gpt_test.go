package blk

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// parts makes files of the given sizes, each full of a byte of its own.
func parts(t testing.TB, sizes ...int) []*os.File {
	t.Helper()
	var files []*os.File
	for i, n := range sizes {
		path := filepath.Join(t.TempDir(), "part")
		if err := os.WriteFile(path, bytes.Repeat([]byte{byte(i + 1)}, n), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		files = append(files, f)
	}
	return files
}

// image reads all of a disk.
func image(t testing.TB, g *GPT) []byte {
	t.Helper()
	p := make([]byte, g.Size())
	var v Vector
	v.Set(p)
	if err := g.ReadAt(&v, 0, 0); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestGPTTablesAreValid(t *testing.T) {
	sizes := []int{SectorSize, 3 << 20, 1<<20 + 512, 700}
	g, err := NewGPT(parts(t, sizes...))
	if err != nil {
		t.Fatal(err)
	}
	disk := image(t, g)
	if n := GPTSize([]uint64{SectorSize, 3 << 20, 1<<20 + 512, 700}); n != uint64(len(disk)) {
		t.Errorf("it has %d bytes, GPTSize says %d", len(disk), n)
	}
	le := binary.LittleEndian
	last := uint64(len(disk))/SectorSize - 1
	check := func(name string, at, other uint64) {
		h := bytes.Clone(disk[at*SectorSize:][:SectorSize])
		if string(h[:8]) != gptSignature || le.Uint64(h[24:]) != at || le.Uint64(h[32:]) != other {
			t.Errorf("%s header: % x", name, h[:64])
		}
		sum := le.Uint32(h[16:])
		le.PutUint32(h[16:], 0)
		if got := crc32.ChecksumIEEE(h[:le.Uint32(h[12:])]); got != sum {
			t.Errorf("%s header: CRC %#x, says %#x", name, got, sum)
		}
		table := disk[le.Uint64(h[72:])*SectorSize:][:le.Uint32(h[80:])*le.Uint32(h[84:])]
		if got := crc32.ChecksumIEEE(table); got != le.Uint32(h[88:]) {
			t.Errorf("%s table: CRC %#x, header says %#x", name, got, le.Uint32(h[88:]))
		}
		firstUsable, lastUsable := le.Uint64(h[40:]), le.Uint64(h[48:])
		for i, n := range sizes {
			e := table[i*gptEntrySize:]
			first, end := le.Uint64(e[32:]), le.Uint64(e[40:])+1
			if first%(partitionAlign/SectorSize) != 0 || first < firstUsable || end > lastUsable+1 {
				t.Errorf("%s: partition %d is at %d–%d", name, i+1, first, end)
			}
			if want := uint64(n / SectorSize); end-first != want {
				t.Errorf("%s: partition %d has %d sectors, want %d", name, i+1, end-first, want)
			}
			data := disk[first*SectorSize : end*SectorSize]
			if !bytes.Equal(data, bytes.Repeat([]byte{byte(i + 1)}, len(data))) {
				t.Errorf("%s: partition %d has the wrong data", name, i+1)
			}
		}
	}
	check("primary", 1, last)
	check("backup", last, 1)
	if disk[510] != 0x55 || disk[511] != 0xaa || disk[446+4] != 0xee {
		t.Error("no protective MBR")
	}
}

// TestGPTReadsPiecewise compares reads of any place, cut up in any way, with the
// whole.
func TestGPTReadsPiecewise(t *testing.T) {
	g, err := NewGPT(parts(t, 5000*SectorSize, SectorSize, 2<<20))
	if err != nil {
		t.Fatal(err)
	}
	disk := image(t, g)
	r := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		off := r.IntN(len(disk)/SectorSize) * SectorSize
		n := min(len(disk)-off, (1+r.IntN(3000))*SectorSize)
		got := make([]byte, n)
		var bufs [][]byte
		for rest := got; len(rest) > 0; {
			k := min(len(rest), 1+r.IntN(300<<10))
			bufs, rest = append(bufs, rest[:k]), rest[k:]
		}
		var v Vector
		v.Set(bufs...)
		if err := g.ReadAt(&v, uint64(off), 0); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, disk[off:off+n]) {
			t.Fatalf("read of %d bytes at %d in %d pieces differs", n, off, len(bufs))
		}
	}
}

func TestGPTIsTheSameEachTime(t *testing.T) {
	files := parts(t, 4096, 8192)
	a, err := NewGPT(files)
	if err != nil {
		t.Fatal(err)
	}
	b, err := NewGPT(files)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(image(t, a), image(t, b)) {
		t.Error("two disks of the same files differ")
	}
}

func TestGPTLimits(t *testing.T) {
	if _, err := NewGPT(nil); err == nil {
		t.Error("a disk of nothing")
	}
	sizes := make([]int, MaxPartitions+1)
	for i := range sizes {
		sizes[i] = SectorSize
	}
	files := parts(t, sizes...)
	if _, err := NewGPT(files); err == nil {
		t.Errorf("a disk of %d partitions", len(files))
	}
	g, err := NewGPT(files[:MaxPartitions])
	if err != nil {
		t.Fatal(err)
	}
	image(t, g)
}
