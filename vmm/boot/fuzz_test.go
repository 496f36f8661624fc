package boot

import (
	"bytes"
	"math"
	"testing"

	"github.com/hullvm/hull/vmm/memory"
)

// fuzzLoad loads hostile bytes as a kernel. Whatever they are, Load must end
// in an error or in a state that can be run.
func fuzzLoad(t *testing.T, kernel []byte, protocol Protocol) {
	const ram = 64 << 20
	mem, err := memory.New(ram, memory.Options{})
	if err != nil {
		t.Skip(err)
	}
	defer mem.Close()
	s, err := Load(mem, Params{
		Kernel: ReaderImage("fuzz", bytes.NewReader(kernel), int64(len(kernel))), Protocol: protocol,
		Initrd: []Image{flat("070701")}, CommandLine: "quiet", RandomSeed: make([]byte, 32),
	})
	if err != nil {
		if err.Error() == "" {
			t.Error("an error without words")
		}
		return
	}
	if s.Protocol == ProtocolAuto || s.RIP >= ram || s.RIP < HighMemory {
		if s.RIP < 1<<20 && s.RIP > 0 { // ELF files may use the free space there
			return
		}
		t.Errorf("starts at %#x by %q", s.RIP, s.Protocol)
	}
	if s.InitrdAddr+s.InitrdSize > ram || s.InitrdSize != 6 || s.InitrdAddr < HighMemory {
		t.Errorf("initrd at %#x+%#x", s.InitrdAddr, s.InitrdSize)
	}
	if s.Mode == Protected32 && s.RIP > math.MaxUint32 {
		t.Errorf("32-bit mode at %#x", s.RIP)
	}
}

func FuzzELF(f *testing.F) {
	small := testELF{entry: 0x10_0000, segments: []testSegment{
		{paddr: 0x10_0000, vaddr: 1 << 63, data: []byte("\xf4\xeb\xfd"), memsz: 0x2000},
		{paddr: 0x10_3000, data: []byte("data"), off: 0x200},
	}}
	f.Add(small.bytes(), false)
	f.Add(small.bytes()[:100], false)
	small.segments = append(small.segments, testSegment{kind: ptNote, off: 0x300, data: note("Xen\x00", 18, []byte{0, 0, 0x10, 0}, 4)})
	f.Add(small.bytes(), true)
	small.segments[1].paddr = 1<<64 - 8
	f.Add(small.bytes(), false)
	f.Fuzz(func(t *testing.T, kernel []byte, pvh bool) {
		if pvh {
			fuzzLoad(t, kernel, ProtocolPVH)
			return
		}
		fuzzLoad(t, kernel, ProtocolAuto)
	})
}

func FuzzBzImage(f *testing.F) {
	file := testBzImage(0x400, nil)
	f.Add(file)
	f.Add(file[:0x260])
	f.Add(testBzImage(0x400, func(b []byte) []byte { le.PutUint64(b[hdrPrefAddress:], 1<<63); return b }))
	f.Add(testBzImage(0x400, func(b []byte) []byte { le.PutUint32(b[hdrSyssize:], math.MaxUint32); return b }))
	f.Fuzz(func(t *testing.T, kernel []byte) { fuzzLoad(t, kernel, ProtocolBzImage) })
}

func FuzzCommandLine(f *testing.F) {
	f.Add("quiet -- init", uint8(3))
	f.Add(`a="b -- c`, uint8(1))
	f.Add("--", uint8(0))
	f.Fuzz(func(t *testing.T, cmdline string, n uint8) {
		got := addDeviceWords(cmdline, aMachine(1, int(n%MaxDevices)).Devices)
		if i := initWords(cmdline); i >= 0 && !bytes.HasSuffix([]byte(got), []byte(cmdline[i:])) {
			t.Errorf("%q became %q", cmdline, got)
		}
	})
}
