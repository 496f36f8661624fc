package layerdisk

import (
	"archive/tar"
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// bigArchive writes a tar of 20,000 files in 2,000 directories with 300 MB, the
// size of a usual application image.
func bigArchive(b *testing.B) *os.File {
	b.Helper()
	f, err := os.Create(filepath.Join(b.TempDir(), "big.tar"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { f.Close() })
	const files, size = 20_000, 15_000
	data := make([]byte, 1<<20)
	random := rand.NewChaCha8([32]byte{})
	random.Read(data)
	out := bufio.NewWriterSize(f, 1<<20)
	w := tar.NewWriter(out)
	for i := range files {
		name := fmt.Sprintf("usr/lib/d%04d/", i/10)
		if i%10 == 0 {
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755, ModTime: when}); err != nil {
				b.Fatal(err)
			}
		}
		n := random.Uint64() % (2 * size)
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("%sf%d", name, i), Mode: 0o644, Size: int64(n), ModTime: when}); err != nil {
			b.Fatal(err)
		}
		at := random.Uint64() % (uint64(len(data)) - n)
		if _, err := w.Write(data[at : at+n]); err != nil {
			b.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	if err := out.Flush(); err != nil {
		b.Fatal(err)
	}
	return f
}

// BenchmarkBuild300MB turns 300 MB in 20,000 files into a disk image; the part
// that reads only the headers is given by itself as well.
func BenchmarkBuild300MB(b *testing.B) {
	in := bigArchive(b)
	info, err := in.Stat()
	if err != nil {
		b.Fatal(err)
	}
	b.Run("scan", func(b *testing.B) {
		b.SetBytes(info.Size())
		for b.Loop() {
			if _, err := in.Seek(0, io.SeekStart); err != nil {
				b.Fatal(err)
			}
			if _, err := Scan(b.Context(), in, Limits{}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("build", func(b *testing.B) {
		b.SetBytes(info.Size())
		for b.Loop() {
			out, err := os.Create(filepath.Join(b.TempDir(), "disk"))
			if err != nil {
				b.Fatal(err)
			}
			if _, err := in.Seek(0, io.SeekStart); err != nil {
				b.Fatal(err)
			}
			if err := Build(b.Context(), in, out, [32]byte{}, Limits{}); err != nil {
				b.Fatal(err)
			}
			out.Close()
			os.Remove(out.Name())
		}
	})
}

// BenchmarkSmallLayer is what a layer of a few files costs.
func BenchmarkSmallLayer(b *testing.B) {
	layer := archive(b, dir("etc"), file("etc/hosts", "127.0.0.1 localhost\n"), file("etc/.wh.f", ""))
	for b.Loop() {
		out, err := os.Create(filepath.Join(b.TempDir(), "disk"))
		if err != nil {
			b.Fatal(err)
		}
		if err := Build(b.Context(), bytes.NewReader(layer), out, [32]byte{}, Limits{}); err != nil {
			b.Fatal(err)
		}
		out.Close()
	}
}
