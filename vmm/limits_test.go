package vmm

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/kvm"
	"github.com/hullvm/hull/virtio"
	"github.com/hullvm/hull/vmm/testguest"
)

// socketPair is a network without anybody in it.
func socketPair(t *testing.T) *File {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(pair[1]) })
	return &File{Path: "network", FD: pair[0]}
}

// TestLimitsChange: limits change whatever the machine does, but when it is no more.
func TestLimitsChange(t *testing.T) {
	wrapped := -1
	cfg := Config{
		CPUs: 1, Disks: []Disk{{ID: "data", File: diskFile(t, 1<<20)}}, Pmems: []Pmem{{File: *diskFile(t, 2<<20)}},
		NICs: []NIC{{MAC: [6]byte{2, 0, 0, 0, 0, 1}, Socket: socketPair(t)}}, RNG: true, Balloon: true, Keyboard: true,
		BalloonOptions: BalloonOptions{Target: 1 << 20, NoStats: true},
	}
	m, port, _ := bareConfig(t, testguest.Spin, cfg, WithNetwork(func(nic int, b []Backend) ([]Backend, error) {
		wrapped = nic
		return b, nil
	}))
	if wrapped != 0 {
		t.Errorf("card %d was given to whoever wants to be before it", wrapped)
	}
	ops, once := Rate{PerSecond: 10, Interval: 60_000}, Rate{PerSecond: 10, Once: 5}
	change := func(when string) {
		t.Helper()
		for what, err := range map[string]error{
			"disk": m.SetDiskLimits("data", DiskLimits{Ops: ops}), "network card": m.SetNICLimits(0, NICLimits{Bytes: once}, NICLimits{Frames: ops}),
			"persistent memory": m.SetPmemLimits(0, PmemLimits{Ops: ops}),
		} {
			if err != nil {
				t.Errorf("%s, %s: %v", when, what, err)
			}
		}
	}
	change("before the start")
	if err := m.SendCtrlAltDel(); !errors.Is(err, ErrState) {
		t.Errorf("keys before the start: %v", err)
	}
	start(t, m)
	port.wantReport(t, 1)
	change("while it runs")
	if err := m.Pause(); err != nil {
		t.Fatal(err)
	}
	change("in a pause")
	if err := m.Resume(); err != nil {
		t.Fatal(err)
	}
	if l, err := m.DiskLimits("data"); err != nil || l.Ops != ops {
		t.Errorf("limits %+v, %v", l, err)
	}
	if err := m.SendCtrlAltDel(); err != nil {
		t.Error(err)
	}
	for m.keyboard.CtrlAltDel() {
	}
	if err := m.SendCtrlAltDel(); !errors.Is(err, ErrKeyboardBusy) {
		t.Errorf("keys that nobody reads: %v", err)
	}
	if target, actual, err := m.BalloonSize(); target != 1<<20 || actual != 0 || err != nil {
		t.Errorf("balloon %d, %d, %v", target, actual, err)
	}
	counted := m.Metrics()
	if len(counted.CPUs) != 1 || counted.CPUs[0].Exits["io"] == 0 || len(counted.Disks) != 1 || counted.Disks[0].ID != "data" || len(counted.NICs) != 1 {
		t.Errorf("metrics %+v", counted)
	}
	bad := Rate{Burst: 1}
	for what, c := range map[string]struct{ err, want error }{
		"no such disk":         {m.SetDiskLimits("nope", DiskLimits{}), ErrNoDisk},
		"limits of it":         {func() error { _, err := m.DiskLimits("nope"); return err }(), ErrNoDisk},
		"no such card":         {m.SetNICLimits(1, NICLimits{}, NICLimits{}), ErrNoDevice},
		"nor before the first": {m.SetNICLimits(-1, NICLimits{}, NICLimits{}), ErrNoDevice},
		"no such memory":       {m.SetPmemLimits(1, PmemLimits{}), ErrNoDevice},
		"a disk's rate":        {m.SetDiskLimits("data", DiskLimits{Ops: bad}), nil},
		"a card's rate":        {m.SetNICLimits(0, NICLimits{Bytes: bad}, NICLimits{}), nil},
		"a memory's rate":      {m.SetPmemLimits(0, PmemLimits{Bytes: bad}), nil},
	} {
		if c.err == nil || c.want != nil && !errors.Is(c.err, c.want) {
			t.Errorf("%s: %v, want %v", what, c.err, c.want)
		}
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"disk": m.SetDiskLimits("data", DiskLimits{}), "card": m.SetNICLimits(0, NICLimits{}, NICLimits{}), "memory": m.SetPmemLimits(0, PmemLimits{}),
		"keys": m.SendCtrlAltDel(),
	} {
		if !errors.Is(err, ErrState) {
			t.Errorf("%s, after the end: %v", what, err)
		}
	}
	m, _, _ = bare(t, testguest.Idle, 1)
	if _, _, err := m.BalloonSize(); !errors.Is(err, ErrNoBalloon) {
		t.Errorf("no balloon: %v", err)
	}
	if err := m.SendCtrlAltDel(); !errors.Is(err, ErrNoKeyboard) {
		t.Errorf("no keyboard: %v", err)
	}
}

// TestSerialRate: output beyond the rate is dropped and counted, and the rest is what came first.
func TestSerialRate(t *testing.T) {
	var out bytes.Buffer
	var dropped atomic.Uint64
	never := virtio.Rate{PerSecond: 1, Interval: 1 << 30, Burst: 10}
	w := &droppingWriter{to: &out, limit: virtio.NewLimiter(never), dropped: &dropped}
	for _, p := range []string{"1234567", "89abcd", "efg"} {
		if n, err := w.Write([]byte(p)); n != len(p) || err != nil {
			t.Errorf("wrote %d of %q, %v", n, p, err)
		}
	}
	if out.String() != "123456789a" || dropped.Load() != 6 {
		t.Errorf("%q, and %d bytes were dropped", &out, dropped.Load())
	}
	path := filepath.Join(t.TempDir(), "serial")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	m, _, _ := bareConfig(t, testguest.Hello, Config{CPUs: 1, Serial: Serial{Output: &File{Path: path}, Rate: Rate{PerSecond: 1, Interval: 1 << 30, Burst: 2}}})
	start(t, m)
	wait(t, m)
	if got, err := os.ReadFile(path); err != nil || string(got) != "he" || m.Metrics().SerialDropped != 5 {
		t.Errorf("%q, %v, %d dropped", got, err, m.Metrics().SerialDropped)
	}
}

// TestCPUTemplate: bits are put in the place of others, and a leaf that is not there is an error.
func TestCPUTemplate(t *testing.T) {
	leaves := []kvm.CPUIDEntry{{Function: 1, EAX: 0xff, EBX: 0xff, ECX: 0xff, EDX: 0xff}, {Function: 7, Index: 1, EAX: 1}}
	template := &CPUTemplate{CPUID: []CPUIDChange{
		{Leaf: 1, EAX: BitChange{Mask: 0xf, Value: 0x5}, EBX: BitChange{Mask: 0x100, Value: 0x1ff}, ECX: BitChange{Mask: ^uint64(0)}},
		{Leaf: 7, Subleaf: 1, EDX: BitChange{Mask: 1 << 31, Value: 1 << 31}},
	}}
	if err := template.changeCPUID(leaves); err != nil {
		t.Fatal(err)
	}
	if e := leaves[0]; e.EAX != 0xf5 || e.EBX != 0x1ff || e.ECX != 0 || e.EDX != 0xff {
		t.Errorf("leaf 1: %+v", e)
	}
	if e := leaves[1]; e.EAX != 1 || e.EDX != 1<<31 {
		t.Errorf("leaf 7: %+v", e)
	}
	template.CPUID[1].Subleaf = 2
	if err := template.changeCPUID(leaves); err == nil || !strings.Contains(err.Error(), "leaf 0x7 with subleaf 0x2") {
		t.Errorf("no such leaf: %v", err)
	}
	// A vCPU's register, and one that no CPU has.
	m, _, _ := bareConfig(t, testguest.Idle, Config{CPUs: 1, CPUTemplate: &CPUTemplate{MSRs: []MSRChange{{Index: msrMiscEnable, BitChange: BitChange{Mask: 1}}}}})
	err := m.cpus[0].Do(func(v *kvm.VCPU) error {
		msr := []kvm.MSREntry{{Index: msrMiscEnable}}
		if _, err := v.ReadMSRs(msr); err != nil {
			return err
		}
		if msr[0].Data&miscEnableFastString != 0 {
			t.Errorf("MSR %#x: %#x", msr[0].Index, msr[0].Data)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
