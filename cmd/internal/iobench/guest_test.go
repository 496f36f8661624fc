package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/hullvm/hull/kvm"
)

var program string // the built hull-vmm

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "iobench-test-")
	if err != nil {
		panic(err)
	}
	program = filepath.Join(dir, "hull-vmm")
	build := exec.Command("go", "build", "-o", program, "../../hull-vmm")
	build.Stderr = os.Stderr
	status := 1
	if build.Run() == nil {
		status = m.Run()
	}
	os.RemoveAll(dir)
	os.Exit(status)
}

const testDisk = 1 << 20

// newTestBench skips a test where there is no KVM at all. The guest needs no more
// than that.
func newTestBench(t *testing.T) *bench {
	t.Helper()
	s, err := kvm.Open()
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		t.Skipf("needs KVM: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	b, closeIt, err := newBench(options{vmm: program, dir: t.TempDir(), diskSize: testDisk})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(closeIt)
	return b
}

// disk is work that looks at every word.
func disk(w work) row {
	w.Kind, w.Device = kindBlk, idBlock
	w.Features = blockFeatures
	w.Units, w.Seed, w.Step = testDisk/w.Size, seed, 8
	return row{name: "disk", work: w}
}

func TestDiskReadsWhatIsThere(t *testing.T) {
	for name, w := range map[string]work{
		"random":     {Size: 4096, Depth: 1, Warmup: 4, Count: 200},
		"deep":       {Size: 4096, Depth: 128, Count: 1000},
		"sequential": {Size: 64 << 10, Depth: 4, Count: 64, Sequential: 1},
	} {
		t.Run(name, func(t *testing.T) {
			b := newTestBench(t)
			s, err := b.measure(t.Context(), hull(), disk(w))
			if err != nil {
				t.Fatal(err)
			}
			if s.took <= 0 || s.exits <= 0 || s.exits > 1 || s.interrupts != 0 {
				t.Errorf("measured %+v", s)
			}
		})
	}
}

func TestInterruptsAreTaken(t *testing.T) {
	b := newTestBench(t)
	s, err := b.measure(t.Context(), hull(), disk(work{Size: 4096, Depth: 1, Count: 200, Interrupts: 1}))
	if err != nil {
		t.Fatal(err)
	}
	if s.interrupts < 0.9 || s.interrupts > 1.1 || s.exits < 2*s.interrupts {
		t.Errorf("measured %+v", s)
	}
}

func TestRegisterReadIsAnExit(t *testing.T) {
	b := newTestBench(t)
	w := work{Kind: kindRegister, Device: idBlock, Features: blockFeatures, Depth: 1, Count: 50}
	if s, err := b.measure(t.Context(), hull(), row{name: "register", work: w}); err != nil || s.exits != 1 || s.took <= 0 {
		t.Errorf("measured %+v, %v", s, err)
	}
}

// TestDiskReadsAreChecked shows that data which is not what the guest expects
// fails the measurement.
func TestDiskReadsAreChecked(t *testing.T) {
	b := newTestBench(t)
	f, err := os.OpenFile(b.disk, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{0xff}, testDisk/2+8); err != nil {
		t.Fatal(err)
	}
	_, err = b.measure(t.Context(), hull(), disk(work{Size: 64 << 10, Depth: 1, Count: 16, Sequential: 1}))
	if err == nil || !bytes.Contains([]byte(err.Error()), []byte("1 of 16 requests failed or brought wrong data")) {
		t.Errorf("a disk with a wrong byte: %v", err)
	}
}

func TestDiskWritesArrive(t *testing.T) {
	b := newTestBench(t)
	want, err := os.ReadFile(b.disk)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(b.disk, make([]byte, testDisk), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := b.measure(t.Context(), hull(), disk(work{Size: 4096, Depth: 32, Count: testDisk / 4096, Sequential: 1, Write: 1})); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(b.disk); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the disk does not hold what was written: %v", err)
	}
}

func TestStreamOutArrives(t *testing.T) {
	const size, warmup, count = 64, 3, 50
	b := newTestBench(t)
	packets := 0
	b.drain = func(r io.Reader) error {
		for p := make([]byte, size); ; packets++ {
			_, err := io.ReadFull(r, p)
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if n := binary.LittleEndian.Uint64(p); n != uint64(packets) {
				return fmt.Errorf("packet %d came where %d was expected", n, packets)
			}
		}
	}
	w := work{Kind: kindVsockOut, Device: idVsock, Features: vsockFeatures, Size: size, Depth: 8, Warmup: warmup, Count: count}
	if _, err := b.measure(t.Context(), hull(), row{name: "stream", work: w}); err != nil {
		t.Fatal(err)
	}
	if packets != warmup+count {
		t.Errorf("%d packets arrived, want %d", packets, warmup+count)
	}
}

// TestStreamInArrives sends more than a period of the stream, and than the guest's
// credit.
func TestStreamInArrives(t *testing.T) {
	b := newTestBench(t)
	w := work{Kind: kindVsockIn, Device: idVsock, Features: vsockFeatures, Seed: seed, Size: 4096, Depth: 32, Count: 600}
	if _, err := b.measure(t.Context(), hull(), row{name: "stream", work: w}); err != nil {
		t.Error(err)
	}
}

// network is work on a tap interface.
func network(t *testing.T, w work) row {
	t.Helper()
	err := mayOpenTap()
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		t.Skipf("needs to make a tap interface: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	w.Device, w.Features = idNet, netFeatures
	return row{name: "network", work: w}
}

// Frames are counted at either end of the cable.
func TestFramesArrive(t *testing.T) {
	for name, w := range map[string]work{
		"out":       {Kind: kindNetOut, Size: 64, Depth: 8, Warmup: 3, Count: 100},
		"large out": {Kind: kindNetOut, Size: 65520, Depth: 32, Count: 100},
		"in":        {Kind: kindNetIn, Size: 64, Depth: 8, Warmup: 3, Count: 100},
		"large in":  {Kind: kindNetIn, Size: 65520, Depth: 32, Count: 100},
	} {
		t.Run(name, func(t *testing.T) {
			r := network(t, w)
			if _, err := newTestBench(t).measure(t.Context(), hull(), r); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestGuestTellsWhatItLacks covers the guest's own complaints.
func TestGuestTellsWhatItLacks(t *testing.T) {
	b := newTestBench(t)
	r := disk(work{Size: 4096, Depth: 1, Count: 1})
	r.work.Features |= 1 << 63
	if _, err := b.measure(t.Context(), hull(), r); err == nil || !bytes.Contains([]byte(err.Error()), []byte("code 0x11")) {
		t.Errorf("a feature that nobody has: %v", err)
	}
}
