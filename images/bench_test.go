package images

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
)

// bigLayer makes a layer of so many files of 15 kB on average, of which half is text-like.
func bigLayer(b *testing.B, dir string, files int) []byte {
	b.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	random := rand.NewChaCha8([32]byte{1})
	data := make([]byte, 1<<20)
	random.Read(data)
	for i := range data {
		if i&64 != 0 {
			data[i] = "etaoin shrdlu\n"[data[i]%14]
		}
	}
	for i := range files {
		name := fmt.Sprintf("%s/d%04d/", dir, i/10)
		if i%10 == 0 {
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755, ModTime: when}); err != nil {
				b.Fatal(err)
			}
		}
		n := int(random.Uint64() % 30_000)
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("%sf%d", name, i), Mode: 0o644, Size: int64(n), ModTime: when}); err != nil {
			b.Fatal(err)
		}
		at := int(random.Uint64() % uint64(len(data)-n))
		if _, err := w.Write(data[at : at+n]); err != nil {
			b.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	return out.Bytes()
}

// fiveLayers is an image of 300 MB in 20,000 files and five layers.
func fiveLayers(b *testing.B) v1.Image {
	b.Helper()
	var layers [][]byte
	for i := range 5 {
		layers = append(layers, bigLayer(b, fmt.Sprintf("usr%d", i), 4000))
	}
	return makeImage(b, "x", layers...)
}

// withCPU runs f as often as the benchmark wants, and gives the processor time
// of all cores beside the time that passed, which on a busy machine says little.
func withCPU(b *testing.B, f func()) {
	b.Helper()
	before := cpuTime(b)
	for b.Loop() {
		f()
	}
	b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
}

func cpuTime(b *testing.B) int64 {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

// BenchmarkLoad loads 300 MB from an archive of docker save.
func BenchmarkLoad(b *testing.B) {
	archive := dockerArchive(b, "app", fiveLayers(b))
	name := filepath.Join(b.TempDir(), "app.tar")
	if err := os.WriteFile(name, archive, 0o600); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(archive)))
	withCPU(b, func() {
		s := newStore(b)
		if _, err := s.LoadPath(b.Context(), name, LoadOptions{}); err != nil {
			b.Fatal(err)
		}
		os.RemoveAll(s.dir)
	})
}

// BenchmarkImport imports 300 MB compressed with gzip.
func BenchmarkImport(b *testing.B) {
	layer := bigLayer(b, "usr", 20_000)
	var z bytes.Buffer
	w, err := gzip.NewWriterLevel(&z, gzip.BestSpeed)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := io.Copy(w, bytes.NewReader(layer)); err != nil {
		b.Fatal(err)
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(layer)))
	withCPU(b, func() {
		s := newStore(b)
		if _, err := s.Import(b.Context(), bytes.NewReader(z.Bytes()), ImportOptions{}); err != nil {
			b.Fatal(err)
		}
		os.RemoveAll(s.dir)
	})
}

// BenchmarkPull pulls 300 MB in five layers from a registry on this host.
func BenchmarkPull(b *testing.B) {
	reg := newRegistry(b)
	ref := reg.push(b, "app", fiveLayers(b))
	b.SetBytes(300 << 20)
	withCPU(b, func() {
		s := newStore(b)
		mustPull(b, s, ref)
		os.RemoveAll(s.dir)
	})
}

// BenchmarkGet is what starting a container asks of the store.
func BenchmarkGet(b *testing.B) {
	s := newStore(b)
	mustLoad(b, s, dockerArchive(b, "app", testImage(b)))
	for b.Loop() {
		_, release, err := s.Acquire(b.Context(), "app")
		if err != nil {
			b.Fatal(err)
		}
		release()
	}
}

// BenchmarkOpen is what every command pays.
func BenchmarkOpen(b *testing.B) {
	dir := b.TempDir()
	mustLoad(b, openStore(b, dir), dockerArchive(b, "app", testImage(b)))
	for b.Loop() {
		if _, err := Open(dir); err != nil {
			b.Fatal(err)
		}
	}
}
