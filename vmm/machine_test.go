package vmm

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hullvm/hull/devices"
	"github.com/hullvm/hull/kvm"
	"github.com/hullvm/hull/vmm/testguest"
)

// needKVM skips a test where there is no KVM at all. Bare-metal guests need no
// more than that.
func needKVM(t testing.TB) {
	t.Helper()
	s, err := kvm.Open()
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		t.Skipf("needs KVM: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
}

// access is one access of the guest to a test device.
type access struct {
	write bool
	off   uint64
	width int
	value uint64
}

// probe is a device that hands every access to the test.
type probe struct {
	accesses chan access
	answer   uint64 // what reads see
}

func newProbe(answer uint64) *probe { return &probe{accesses: make(chan access, 1024), answer: answer} }

func (p *probe) Read(off uint64, b []byte) {
	var v [8]byte
	binary.LittleEndian.PutUint64(v[:], p.answer)
	copy(b, v[:])
	p.send(access{off: off, width: len(b), value: p.answer})
}

func (p *probe) Write(off uint64, b []byte) {
	var v [8]byte
	copy(v[:], b)
	p.send(access{write: true, off: off, width: len(b), value: binary.LittleEndian.Uint64(v[:])})
}

// send drops what a flooding guest has no reader for.
func (p *probe) send(a access) {
	select {
	case p.accesses <- a:
	default:
	}
}

const patience = 20 * time.Second

// next is the guest's next access.
func (p *probe) next(t testing.TB) access {
	t.Helper()
	select {
	case a := <-p.accesses:
		return a
	case <-time.After(patience):
		t.Fatal("the guest does not report")
		return access{}
	}
}

// wantReport takes the next access and checks that it is a write of value.
func (p *probe) wantReport(t testing.TB, value uint64) {
	t.Helper()
	if a := p.next(t); !a.write || a.value != value {
		t.Fatalf("the guest reported %+v, want %#x", a, value)
	}
}

// bare makes a machine that runs a bare-metal guest with a probe on its port
// and memory buses.
func bare(t testing.TB, guest []byte, cpus int) (*Machine, *probe, *probe) {
	t.Helper()
	return bareConfig(t, guest, Config{CPUs: cpus})
}

// bareConfig is bare with a configuration to which the guest is added.
func bareConfig(t testing.TB, guest []byte, cfg Config, more ...Option) (*Machine, *probe, *probe) {
	t.Helper()
	port, mem := newProbe(0x1000), newProbe(0x2000)
	m := bareMachine(t, guest, cfg, append(more, WithPort(testguest.Port, 4, port), WithMMIO(testguest.MMIO, 0x1000, mem))...)
	return m, port, mem
}

// bareMachine is bareConfig without probes.
func bareMachine(t testing.TB, guest []byte, cfg Config, options ...Option) *Machine {
	t.Helper()
	needKVM(t)
	path := filepath.Join(t.TempDir(), "guest.elf")
	if err := os.WriteFile(path, guest, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg.Memory, cfg.Kernel, cfg.Platform = 16<<20, File{Path: path}, PlatformNone
	m, err := New(cfg, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func start(t testing.TB, m *Machine) {
	t.Helper()
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
}

// wait is how the guest ended.
func wait(t testing.TB, m *Machine) Result {
	t.Helper()
	select {
	case <-m.Done():
		return m.Wait()
	case <-time.After(patience):
		t.Fatal("the guest does not end")
		return Result{}
	}
}

func TestExitsOfEveryWidth(t *testing.T) {
	m, port, mem := bare(t, testguest.Exits, 1)
	start(t, m)
	for _, want := range []access{
		{true, 0, 4, 0x11223344}, {true, 0, 1, 0x55}, {true, 0, 2, 0x6677},
		{false, 0, 4, 0x1000}, {true, 0, 4, 0x1001},
		{true, 0, 4, 1}, {true, 0, 4, 2}, {true, 0, 4, 3}, {true, 0, 4, testguest.Finished},
	} {
		if got := port.next(t); got != want {
			t.Fatalf("port: got %+v, want %+v", got, want)
		}
	}
	for _, want := range []access{
		{true, 0, 1, 0x88}, {true, 2, 2, 0x99aa}, {true, 4, 4, 0xbbccddee}, {true, 8, 8, 0x0102030405060708},
		{false, 16, 8, 0x2000}, {true, 24, 8, 0x2001},
	} {
		if got := mem.next(t); got != want {
			t.Fatalf("memory: got %+v, want %+v", got, want)
		}
	}
}

func TestTripleFaultEndsWithRegisters(t *testing.T) {
	m, port, _ := bare(t, testguest.Fault, 1)
	start(t, m)
	port.wantReport(t, 1)
	r := wait(t, m)
	if r.Reason != ReasonTripleFault || r.Status != StatusTripleFault {
		t.Errorf("ended as %+v", r)
	}
	wants := []string{"triple fault", "RAX 0000000000000001", "bytes at RIP: 0f 0b"}
	if strings.Contains(r.Message, "AMD-V keeps nothing") {
		wants = []string{"triple fault", "those after a reset", "RIP 000000000000fff0"}
	}
	for _, want := range wants {
		if !strings.Contains(r.Message, want) {
			t.Errorf("the message lacks %q:\n%s", want, r.Message)
		}
	}
}

// TestHello covers both ways into an ELF guest, the serial port on its way to a
// file, and the keyboard controller's reset.
func TestHello(t *testing.T) {
	for name, guest := range map[string][]byte{"elf": testguest.Hello, "pvh": testguest.PVH} {
		t.Run(name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "serial")
			if err := os.WriteFile(out, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			m, _, _ := bareConfig(t, guest, Config{CPUs: 1, Serial: Serial{Output: &File{Path: out}}})
			start(t, m)
			if r := wait(t, m); r.Reason != ReasonReboot || r.Status != StatusReboot {
				t.Errorf("ended as %+v", r)
			}
			if got, err := os.ReadFile(out); err != nil || string(got) != "hello\r\n" {
				t.Errorf("serial port: %q, %v", got, err)
			}
		})
	}
}

func TestPauseAndResumeOfAGuestThatNeverExits(t *testing.T) {
	m, port, _ := bare(t, testguest.Spin, 1)
	start(t, m)
	port.wantReport(t, 1)
	counter, err := m.mem.Slice(testguest.Counter, 8)
	if err != nil {
		t.Fatal(err)
	}
	var last uint64
	for range 50 {
		if err := m.Pause(); err != nil {
			t.Fatal(err)
		}
		at := binary.LittleEndian.Uint64(counter)
		if at < last {
			t.Fatalf("the counter went back from %d to %d", last, at)
		}
		last = at
		if err := m.Resume(); err != nil {
			t.Fatal(err)
		}
	}
	m.Stop("enough")
	if r := wait(t, m); r.Reason != ReasonStopped || r.Message != "enough" {
		t.Errorf("ended as %+v", r)
	}
}

func TestHaltedCPUWakesUpByInterrupt(t *testing.T) {
	m, port, _ := bare(t, testguest.IRQ, 1)
	line, err := newIRQLine(func(fd int) error { return m.vm.IRQFD(fd, testguest.IRQPin) })
	if err != nil {
		t.Fatal(err)
	}
	defer line.Close()
	start(t, m)
	port.wantReport(t, 1)
	for range 20 {
		line.Trigger()
		port.wantReport(t, 2)
	}
}

// chain is a device that raises its interrupt again at each report of the guest's, as a keyboard does for each byte that is
// read while more are waiting.
type chain struct {
	line  devices.IRQ
	more  atomic.Int32
	ended chan struct{}
}

func (*chain) Read(uint64, []byte) {}

func (c *chain) Write(_ uint64, p []byte) {
	switch left := c.more.Add(-1); {
	case left > 0:
		c.line.Trigger()
	case left == 0:
		c.ended <- struct{}{}
	}
}

func TestPinOfTwoThreads(t *testing.T) {
	c := &chain{ended: make(chan struct{}, 1)}
	m := bareMachine(t, testguest.IRQ, Config{CPUs: 1}, WithPort(testguest.Port, 4, c))
	c.line = newPin(m.vm, testguest.IRQPin)
	c.more.Store(1) // the guest is ready
	start(t, m)
	for round := range 2000 {
		select {
		case <-c.ended:
		case <-time.After(patience):
			t.Fatalf("round %d: the last %d interrupts were lost", round, c.more.Load())
		}
		c.more.Store(4)
		c.line.Trigger()
	}
}

func TestAllCPUsStart(t *testing.T) {
	m, port, _ := bare(t, testguest.SMP, 4)
	start(t, m)
	seen := map[uint64]int{}
	for range 5 {
		seen[port.next(t).value]++
	}
	for _, want := range []uint64{1, testguest.Finished, 0x101, 0x102, 0x103} {
		if seen[want] != 1 {
			t.Errorf("report %#x came %d times: %v", want, seen[want], seen)
		}
	}
}

func TestCodeAtPrivilegeLevel3(t *testing.T) {
	m, port, _ := bare(t, testguest.User, 1)
	start(t, m)
	for i := range uint64(100) {
		port.wantReport(t, i)
	}
}

func TestIOEventFDTakesItsDoorbell(t *testing.T) {
	m, port, mem := bare(t, testguest.Notify, 1)
	line, err := newIRQLine(func(fd int) error { return m.vm.IOEventFD(fd, testguest.MMIO+0x50, 1) })
	if err != nil {
		t.Fatal(err)
	}
	defer line.Close()
	start(t, m)
	port.wantReport(t, testguest.Finished)
	for _, want := range []uint64{0, 2} {
		if got := mem.next(t); got.value != want {
			t.Fatalf("exit for doorbell %d, want %d", got.value, want)
		}
	}
}
