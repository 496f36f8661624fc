package boot

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// aMachine is a machine with cpus vCPUs and n virtio devices.
func aMachine(cpus, n int) *Params {
	p := &Params{Serial: true, PVPanic: true}
	for i := range cpus {
		p.APICIDs = append(p.APICIDs, uint32(i))
	}
	for i := range n {
		p.Devices = append(p.Devices, VirtioDevice(i))
	}
	return p
}

// tablesByName walks from the RSDP to every table as an operating system does,
// and checks all signatures, lengths and checksums on the way. b is what is in
// memory at address base.
func tablesByName(t testing.TB, b []byte, base uint64) map[string][]byte {
	t.Helper()
	at := func(addr, n uint64) []byte {
		if addr < base || addr-base > uint64(len(b)) || n > uint64(len(b))-(addr-base) {
			t.Fatalf("%#x+%#x is outside the tables", addr, n)
		}
		return b[addr-base:][:n]
	}
	root := at(base, rsdpSize)
	if string(root[:8]) != "RSD PTR " || checksum(root[:20]) != 0 || checksum(root) != 0 {
		t.Fatalf("bad RSDP % x", root)
	}
	if root[15] != 2 || le.Uint32(root[20:]) != rsdpSize || base%16 != 0 {
		t.Fatalf("RSDP of revision %d, length %d at %#x", root[15], le.Uint32(root[20:]), base)
	}
	all := map[string][]byte{}
	table := func(addr uint64) []byte {
		size := le.Uint32(at(addr, acpiHeaderSize)[4:])
		if size < acpiHeaderSize {
			t.Fatalf("table at %#x has length %d", addr, size)
		}
		tab := at(addr, uint64(size))
		if checksum(tab) != 0 {
			t.Errorf("table %.4s: checksum wrong", tab)
		}
		all[string(tab[:4])] = tab
		return tab
	}
	x := table(le.Uint64(root[24:]))
	for e := x[acpiHeaderSize:]; len(e) > 0; e = e[8:] {
		tab := table(le.Uint64(e))
		if string(tab[:4]) == "FACP" {
			table(le.Uint64(tab[fadtXDSDT:]))
		}
	}
	for _, want := range []string{"XSDT", "FACP", "APIC", "DSDT"} {
		if all[want] == nil {
			t.Fatalf("no table %s", want)
		}
	}
	return all
}

func TestDSDT(t *testing.T) {
	hexed, err := os.ReadFile("testdata/dsdt.hex") // by iasl from dsdt.asl
	if err != nil {
		t.Fatal(err)
	}
	want, err := hex.DecodeString(strings.Join(strings.Fields(string(hexed)), ""))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(hex.Dump(want), hex.Dump(dsdt(aMachine(1, 3)))); diff != "" {
		t.Errorf("want (-), got (+):\n%s", diff)
	}
}

// iasl runs ACPICA's compiler in dir.
func iasl(t *testing.T, dir string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath("iasl")
	if err != nil {
		t.Skip("iasl is not installed (package acpica-tools): comparing with stored bytes only")
	}
	cmd := exec.Command(path, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	return string(out)
}

func TestDSDTSourceCompiles(t *testing.T) {
	dir := t.TempDir()
	source, err := filepath.Abs("testdata/dsdt.asl")
	if err != nil {
		t.Fatal(err)
	}
	iasl(t, dir, "-p", "dsdt", source)
	got, err := os.ReadFile(filepath.Join(dir, "dsdt.aml"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got[acpiHeaderSize:], dsdt(aMachine(1, 3))) {
		t.Error("iasl makes other bytes of testdata/dsdt.asl")
	}
}

// TestTablesDisassemble has ACPICA, which is also what Linux reads tables
// with, read all of them.
func TestTablesDisassemble(t *testing.T) {
	for _, m := range []*Params{aMachine(1, 0), aMachine(64, MaxDevices), {APICIDs: []uint32{254}}} {
		dir := t.TempDir()
		for name, tab := range tablesByName(t, acpiTables(ACPITables, m), ACPITables) {
			file := filepath.Join(dir, name+".dat")
			if err := os.WriteFile(file, tab, 0o600); err != nil {
				t.Fatal(err)
			}
			out := iasl(t, dir, "-d", file)
			source, err := os.ReadFile(filepath.Join(dir, name+".dsl"))
			if err != nil {
				t.Fatal(err)
			}
			for _, bad := range []string{"Error", "Warning", "Invalid", "should be"} {
				if strings.Contains(out, bad) || strings.Contains(string(source), bad) {
					t.Errorf("%s: iasl says %q:\n%s\n%s", name, bad, out, source)
				}
			}
			if name == "DSDT" { // and back again
				iasl(t, dir, "-p", name, filepath.Join(dir, name+".dsl"))
			}
		}
	}
}

func TestFADT(t *testing.T) {
	f := tablesByName(t, acpiTables(ACPITables, aMachine(1, 0)), ACPITables)["FACP"]
	if len(f) != 276 || f[8] != 6 {
		t.Fatalf("length %d, revision %d", len(f), f[8])
	}
	if flags := le.Uint32(f[112:]); flags != 1<<20|1<<10|1<<5|1<<4|1 {
		t.Errorf("flags %#x", flags)
	}
	if arch := le.Uint16(f[109:]); arch != 1<<5|1<<2|1 {
		t.Errorf("boot architecture %#x", arch)
	}
	for _, r := range []struct {
		name string
		off  int
		port uint64
	}{{"reset", 116, ACPIResetPort}, {"sleep control", 244, ACPISleepControlPort}, {"sleep status", 256, ACPISleepStatusPort}} {
		if g := f[r.off : r.off+12]; g[0] != 1 || g[1] != 8 || g[2] != 0 || le.Uint64(g[4:]) != r.port {
			t.Errorf("%s register: % x", r.name, g)
		}
	}
	if f[128] != ACPIResetValue {
		t.Errorf("reset value %#x", f[128])
	}
	if without := fadt(&Params{}, 0); le.Uint16(without[109:])&1 != 0 {
		t.Error("legacy devices without a serial port")
	}
}

// TestKeyboard: a keyboard is in the tables, with its ports and its interrupt, if there is one.
func TestKeyboard(t *testing.T) {
	with, without := aMachine(1, 1), aMachine(1, 1)
	with.Keyboard = true
	if arch := le.Uint16(fadt(with, 0)[109:]); arch != 1<<5|1<<2|1<<1|1 {
		t.Errorf("boot architecture %#x", arch)
	}
	id := amlEISAID("PNP0303")
	resources := amlResources(amlIO(0x60, 1), amlIO(0x64, 1), amlInterrupt(1))
	if b := dsdt(with); !bytes.Contains(b, id) || !bytes.Contains(b, resources) {
		t.Errorf("no keyboard in\n%s", hex.Dump(b))
	}
	if bytes.Contains(dsdt(without), id) {
		t.Error("a keyboard that is not there")
	}
}

func TestMADT(t *testing.T) {
	for _, ids := range [][]uint32{{0}, {0, 1, 2, 3}, {7, 0, 254, 3}, aMachine(64, 0).APICIDs} {
		t.Run(fmt.Sprint(ids), func(t *testing.T) {
			m := tablesByName(t, acpiTables(ACPITables, &Params{APICIDs: ids}), ACPITables)["APIC"]
			if addr := le.Uint32(m[36:]); addr != LocalAPIC {
				t.Errorf("local APICs at %#x", addr)
			}
			var got []uint32
			uids, others := map[byte]bool{}, map[byte]int{}
			for e := m[44:]; len(e) > 0; e = e[e[1]:] {
				switch e[0] {
				case 0:
					if e[1] != 8 || le.Uint32(e[4:]) != 1 || uids[e[2]] {
						t.Errorf("processor % x", e[:8])
					}
					uids[e[2]] = true
					got = append(got, uint32(e[3]))
				case 1:
					others[e[0]]++
					if e[1] != 12 || le.Uint32(e[4:]) != IOAPIC || le.Uint32(e[8:]) != 0 {
						t.Errorf("IOAPIC % x", e[:12])
					}
					for _, id := range ids {
						if uint32(e[2]) == id {
							t.Errorf("the IOAPIC and a processor have the ID %d", id)
						}
					}
				case 4:
					others[e[0]]++
					if want := []byte{4, 6, 0xff, 0, 0, 1}; !bytes.Equal(e[:6], want) {
						t.Errorf("NMI % x, want % x", e[:6], want)
					}
				default:
					t.Errorf("entry of type %d", e[0])
				}
			}
			if diff := cmp.Diff(ids, got); diff != "" {
				t.Errorf("APIC IDs: %s", diff)
			}
			if others[1] != 1 || others[4] != 1 {
				t.Errorf("%d IOAPICs, %d NMI entries", others[1], others[4])
			}
		})
	}
}

func TestAMLLengths(t *testing.T) {
	for _, tt := range []struct {
		n    int
		want []byte
	}{
		{0, []byte{1}},
		{62, []byte{63}},
		{63, []byte{0x41, 0x04}}, // 65
		{0xffd, []byte{0x4f, 0xff}},
		{0xffe, []byte{0x81, 0x00, 0x01}}, // 0x1001
		{0xffffc, []byte{0x8f, 0xff, 0xff}},
		{0xffffd, []byte{0xc1, 0x00, 0x00, 0x01}}, // 0x100001
	} {
		got := amlSized(make(aml, tt.n))
		if !bytes.HasPrefix(got, tt.want) || len(got) != tt.n+len(tt.want) {
			t.Errorf("%#x bytes: % x, %#x in all, want % x", tt.n, got[:4], len(got), tt.want)
		}
	}
}

func TestAMLIntegers(t *testing.T) {
	for v, want := range map[uint64]aml{
		0: {0}, 1: {1}, 2: {0x0a, 2}, 0xff: {0x0a, 0xff}, 0x100: {0x0b, 0, 1}, 0xffff: {0x0b, 0xff, 0xff},
		0x10000:     {0x0c, 0, 0, 1, 0},
		1 << 32:     {0x0e, 0, 0, 0, 0, 1, 0, 0, 0},
		1<<64 - 1:   {0x0e, 255, 255, 255, 255, 255, 255, 255, 255},
		0xd000_0000: {0x0c, 0, 0, 0, 0xd0},
	} {
		if got := amlInteger(v); !bytes.Equal(got, want) {
			t.Errorf("%#x: % x, want % x", v, got, want)
		}
	}
}

// FuzzTables gives the tables any machine that Params.check lets through: they
// must fit their place and be in order.
func FuzzTables(f *testing.F) {
	f.Add([]byte{0}, uint8(0), uint64(VirtioBase), uint64(VirtioSlotSize), uint32(VirtioGSI), true)
	f.Add([]byte{0, 1, 2, 3}, uint8(3), uint64(VirtioBase), uint64(VirtioSlotSize), uint32(23), false)
	f.Add(bytes.Repeat([]byte{9}, 64), uint8(255), uint64(1<<63), uint64(1<<63), uint32(1<<31), true)
	f.Fuzz(func(t *testing.T, ids []byte, devices uint8, base, size uint64, gsi uint32, legacy bool) {
		p := Params{Serial: legacy, PVPanic: !legacy}
		for _, id := range ids {
			p.APICIDs = append(p.APICIDs, uint32(id))
		}
		for i := range devices {
			p.Devices = append(p.Devices, Device{Base: base + uint64(i)*size, Size: size, GSI: gsi + uint32(i)})
		}
		if err := p.check(); err != nil {
			return
		}
		tables := acpiTables(ACPITables, &p)
		if len(tables) > ACPITablesEnd-ACPITables {
			t.Errorf("ACPI tables of %d bytes", len(tables))
		}
		tablesByName(t, tables, ACPITables)
		mp := mpTables(MPTable, &p)
		if len(mp) > MPTableEnd-MPTable {
			t.Errorf("MP tables of %d bytes", len(mp))
		}
		walkMPTable(t, mp, MPTable, &p)
	})
}
