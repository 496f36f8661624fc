package guestkernel

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"
)

// fakeBzImage makes a bzImage with a version and a payload.
func fakeBzImage(version string, payload []byte, size uint32) []byte {
	const setupSects = 4
	image := make([]byte, (setupSects+1)*sectorSize)
	image[offSetupSects] = setupSects
	binary.LittleEndian.PutUint16(image[offBootFlag:], bootFlag)
	copy(image[offHeaderMagic:], headerMagic)
	binary.LittleEndian.PutUint16(image[offVersion:], 0x20f)
	binary.LittleEndian.PutUint16(image[offKernelVersion:], 0x300-0x200)
	copy(image[0x300:], version)
	binary.LittleEndian.PutUint32(image[offPayload:], 16)
	binary.LittleEndian.PutUint32(image[offPayloadLength:], uint32(len(payload)+4))
	image = append(image, make([]byte, 16)...)
	image = append(image, payload...)
	return binary.LittleEndian.AppendUint32(image, size)
}

// compress packs data as the kernel's build does.
func compress(t testing.TB, kind string, data []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	var err error
	switch kind {
	case "none":
		return data
	case "gzip":
		w := gzip.NewWriter(&buf)
		_, err = w.Write(data)
		err = errors.Join(err, w.Close())
	case "xz":
		var w *xz.Writer
		if w, err = xz.NewWriter(&buf); err == nil {
			_, err = w.Write(data)
			err = errors.Join(err, w.Close())
		}
	case "zstd":
		var w *zstd.Encoder
		if w, err = zstd.NewWriter(&buf); err == nil {
			_, err = w.Write(data)
			err = errors.Join(err, w.Close())
		}
	case "lz4":
		w := lz4.NewWriter(&buf)
		if err = w.Apply(lz4.LegacyOption(true)); err == nil {
			_, err = w.Write(data)
			err = errors.Join(err, w.Close())
		}
	default:
		t.Fatal(kind)
	}
	if err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func kinds() []string { return []string{"none", "gzip", "xz", "zstd", "lz4"} }

// fakeELF is what passes for an ELF file, with a kernel's banner if release is not empty.
func fakeELF(size int, release string) []byte {
	data := make([]byte, size)
	copy(data, "\x7fELF")
	for i := 64; i < size; i++ {
		data[i] = byte(i * i >> 7)
	}
	if release != "" {
		copy(data[size/2:], "Linux version %s (fake)\x00Linux version "+release+" (builder@host)")
	}
	return data
}

func TestIdentify(t *testing.T) {
	for name, tt := range map[string]struct {
		image []byte
		want  Kernel
	}{
		"bzImage":          {fakeBzImage("6.1.0-13-amd64 (debian-kernel@lists.debian.org) #1 SMP", nil, 0), Kernel{BzImage, "6.1.0-13-amd64"}},
		"bzImage, zero":    {fakeBzImage("5.10\x00rest", nil, 0), Kernel{BzImage, "5.10"}},
		"ELF":              {fakeELF(1<<16, "6.12.1-hull"), Kernel{ELF, "6.12.1-hull"}},
		"ELF, large":       {append(fakeELF(3<<20, ""), fakeELF(1<<16, "6.12.2+x")...), Kernel{ELF, "6.12.2+x"}},
		"ELF, between two": {append(make([]byte, 0, 2<<20), straddle("6.12.3")...), Kernel{ELF, "6.12.3"}},
	} {
		path := filepath.Join(t.TempDir(), "kernel")
		if err := os.WriteFile(path, tt.image, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := Identify(path)
		if err != nil || *got != tt.want {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, tt.want)
		}
	}
}

// straddle is an ELF file whose banner lies across the border of what is read at once.
func straddle(release string) []byte {
	data := make([]byte, 2<<20)
	copy(data, "\x7fELF")
	copy(data[1<<20-10:], "Linux version "+release+" (x)")
	return data
}

func TestIdentifyRefuses(t *testing.T) {
	patch := func(change func(b []byte)) []byte {
		b := fakeBzImage("6.1.0 x", nil, 0)
		change(b)
		return b
	}
	for name, tt := range map[string]struct {
		image []byte
		want  error
	}{
		"empty":               {nil, ErrNotKernel},
		"text":                {[]byte(strings.Repeat("#!/bin/sh\n", 100)), ErrNotKernel},
		"cut header":          {fakeBzImage("6.1.0 x", nil, 0)[:headerEnd-1], ErrNotKernel},
		"no boot flag":        {patch(func(b []byte) { b[offBootFlag] = 0 }), ErrNotKernel},
		"no magic":            {patch(func(b []byte) { b[offHeaderMagic] = 0 }), ErrNotKernel},
		"no version":          {patch(func(b []byte) { b[offKernelVersion], b[offKernelVersion+1] = 0, 0 }), ErrNotKernel},
		"version beyond end":  {patch(func(b []byte) { b[offKernelVersion], b[offKernelVersion+1] = 255, 255 }), ErrCorrupt},
		"version without end": {fakeBzImage(strings.Repeat("6", 100), nil, 0), ErrCorrupt},
		"version is a path":   {fakeBzImage("6/../../etc x", nil, 0), ErrCorrupt},
		"version is no word":  {fakeBzImage(".. x", nil, 0), ErrCorrupt},
		"ELF program":         {fakeELF(1<<16, ""), ErrNotKernel},
		"ELF, hostile":        {fakeELF(1<<16, "6/../../etc"), ErrNotKernel},
		"ELF magic only":      {[]byte("\x7fELF"), ErrNotKernel},
	} {
		got, err := IdentifyAt(bytes.NewReader(tt.image), int64(len(tt.image)))
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: %+v, %v; want %v", name, got, err, tt.want)
		}
	}
	if _, err := Identify(t.TempDir()); !errors.Is(err, ErrNotKernel) {
		t.Errorf("directory: %v", err)
	}
	if _, err := Identify("/no/such/kernel"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}

func TestVmlinux(t *testing.T) {
	want := fakeELF(20<<20, "6.1.0") // more than two LZ4 blocks
	for _, kind := range kinds() {
		image := fakeBzImage("6.1.0 x", compress(t, kind, want), uint32(len(want)))
		got, err := Vmlinux(bytes.NewReader(image), int64(len(image)))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v", kind, len(got), err)
		}
	}
}

func TestVmlinuxRefuses(t *testing.T) {
	inner := fakeELF(1<<16, "")
	size := uint32(len(inner))
	good := fakeBzImage("6.1 x", compress(t, "lz4", inner), size)
	patch := func(offset int, value uint32) []byte {
		b := bytes.Clone(good)
		binary.LittleEndian.PutUint32(b[offset:], value)
		return b
	}
	old := bytes.Clone(good)
	binary.LittleEndian.PutUint16(old[offVersion:], 0x207)
	for name, tt := range map[string]struct {
		image []byte
		want  error
	}{
		"old protocol":        {old, ErrNotKernel},
		"cut":                 {good[:len(good)-1], ErrCorrupt},
		"payload beyond end":  {patch(offPayload, 1<<32-1), ErrCorrupt},
		"payload too long":    {patch(offPayloadLength, 1<<32-1), ErrCorrupt},
		"payload too short":   {patch(offPayloadLength, 7), ErrCorrupt},
		"size zero":           {fakeBzImage("6.1 x", compress(t, "lz4", inner), 0), ErrCorrupt},
		"size huge":           {fakeBzImage("6.1 x", compress(t, "lz4", inner), 1<<32-1), ErrCorrupt},
		"unknown compression": {fakeBzImage("6.1 x", []byte("????????"), size), ErrCompression},
		"not ELF inside":      {fakeBzImage("6.1 x", compress(t, "gzip", make([]byte, 100)), 100), ErrCorrupt},
	} {
		_, err := Vmlinux(bytes.NewReader(tt.image), int64(len(tt.image)))
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
	for _, kind := range kinds() {
		packed := compress(t, kind, inner)
		for name, image := range map[string][]byte{
			"larger than it says":  fakeBzImage("6.1 x", packed, size-1),
			"smaller than it says": fakeBzImage("6.1 x", packed, size+1),
			"cut":                  fakeBzImage("6.1 x", packed[:len(packed)/2], size),
		} {
			if _, err := Vmlinux(bytes.NewReader(image), int64(len(image))); !errors.Is(err, ErrCorrupt) {
				t.Errorf("%s, %s: %v", kind, name, err)
			}
		}
	}
}

// The kernel of this machine's distribution, if there is one.
func TestDistributionKernel(t *testing.T) {
	files, _ := filepath.Glob("/boot/vmlinuz-*")
	if len(files) == 0 {
		t.Skip("no /boot/vmlinuz-*")
	}
	for _, file := range files {
		k, err := Identify(file)
		if err != nil || k.Format != BzImage || !strings.HasSuffix(file, k.Release) {
			t.Errorf("%s: %+v, %v", file, k, err)
			continue
		}
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		st, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		image, err := Vmlinux(f, st.Size())
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		inner, err := IdentifyAt(bytes.NewReader(image), int64(len(image)))
		if err != nil || inner.Release != k.Release {
			t.Errorf("%s: inside is %+v, %v", file, inner, err)
		}
		set, err := Modules(ModulesDir(k.Release), Wanted())
		if errors.Is(err, os.ErrNotExist) {
			continue // the kernel is here, its modules are not
		}
		if err != nil || len(set.Load)+len(set.Builtin) < len(Wanted()) {
			t.Errorf("%s: %+v, %v", file, set, err)
			continue
		}
		if err := WriteCPIO(new(bytes.Buffer), set.Load); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}

func FuzzIdentify(f *testing.F) {
	f.Add(fakeBzImage("6.1.0 x", nil, 0))
	f.Add(fakeELF(4096, "6.1.0"))
	f.Add([]byte("\x7fELFLinux version 6.1 "))
	f.Fuzz(func(t *testing.T, image []byte) {
		k, err := IdentifyAt(bytes.NewReader(image), int64(len(image)))
		if err == nil && (strings.ContainsAny(k.Release, "/ \x00") || k.Release == "" || k.Release[0] == '.') {
			t.Errorf("release %q", k.Release)
		}
	})
}

func FuzzVmlinux(f *testing.F) {
	inner := fakeELF(1<<12, "")
	for _, kind := range kinds() {
		f.Add(compress(f, kind, inner))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		const limit = 1 << 20
		image, err := decompress(payload, limit)
		if err == nil && len(image) > max(limit, len(payload)) {
			t.Errorf("%d bytes", len(image))
		}
	})
}
