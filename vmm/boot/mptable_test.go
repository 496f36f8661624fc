package boot

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// walkMPTable reads the MP tables as an operating system does and checks that
// they describe the machine.
func walkMPTable(t testing.TB, b []byte, base uint32, p *Params) {
	t.Helper()
	f := b[:16]
	if string(f[:4]) != "_MP_" || f[8] != 1 || f[9] != 4 || checksum(f) != 0 || base%16 != 0 {
		t.Fatalf("floating pointer % x", f)
	}
	h := b[le.Uint32(f[4:])-base:]
	if size := int(le.Uint16(h[4:])); size != len(h) {
		t.Fatalf("table of %d bytes in %d", size, len(h))
	}
	if string(h[:4]) != "PCMP" || h[6] != 4 || checksum(h) != 0 || le.Uint32(h[36:]) != LocalAPIC {
		t.Fatalf("header % x", h[:44])
	}
	type interrupt struct{ kind, irq, pin byte }
	var (
		ids        []uint32
		boot       []int
		count      int
		buses      []string
		interrupts []interrupt
		ioapic     = -1
		last       byte
	)
	for e := h[44:]; len(e) > 0; count++ {
		size := 8
		if e[0] == 0 {
			size = 20
		}
		if len(e) < size || e[0] < last {
			t.Fatalf("entry %d: % x", count, e)
		}
		last = e[0]
		switch e[0] {
		case 0:
			if e[3]&1 == 0 {
				t.Errorf("processor %d is not enabled", e[1])
			}
			if e[3]&2 != 0 {
				boot = append(boot, len(ids))
			}
			ids = append(ids, uint32(e[1]))
		case 1:
			buses = append(buses, string(e[2:8]))
		case 2:
			ioapic = int(e[1])
			if e[3]&1 == 0 || le.Uint32(e[4:]) != IOAPIC {
				t.Errorf("IOAPIC % x", e[:8])
			}
		case 3:
			if int(e[6]) != ioapic || e[4] != 0 {
				t.Errorf("interrupt % x goes from bus %d to IOAPIC %d", e[:8], e[4], e[6])
			}
			interrupts = append(interrupts, interrupt{e[1], e[5], e[7]})
		}
		e = e[size:]
	}
	if count != int(le.Uint16(h[34:])) {
		t.Errorf("%d entries, the header says %d", count, le.Uint16(h[34:]))
	}
	if diff := cmp.Diff(p.APICIDs, ids); diff != "" {
		t.Errorf("APIC IDs: %s", diff)
	}
	if diff := cmp.Diff([]int{0}, boot); diff != "" {
		t.Errorf("boot processors: %s", diff)
	}
	if diff := cmp.Diff([]string{"ISA   "}, buses); diff != "" {
		t.Errorf("buses: %s", diff)
	}
	for _, id := range ids {
		if int(id) == ioapic {
			t.Errorf("the IOAPIC has the ID of a processor, %d", id)
		}
	}
	if len(interrupts) != IOAPICPins {
		t.Errorf("%d interrupts", len(interrupts))
	}
	for pin, i := range interrupts {
		if i.kind != 0 || int(i.irq) != pin || int(i.pin) != pin {
			t.Errorf("input %d: %+v", pin, i)
		}
	}
}

func TestMPTable(t *testing.T) {
	for _, p := range []*Params{aMachine(1, 0), aMachine(4, 3), aMachine(64, 0), {APICIDs: []uint32{200, 0, 254}}} {
		walkMPTable(t, mpTables(MPTable, p), MPTable, p)
	}
}
