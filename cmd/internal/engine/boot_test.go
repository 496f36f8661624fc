package engine

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/vmm"
)

// screen collects what appears on a terminal and reacts to it.
type screen struct {
	mu   sync.Mutex
	text bytes.Buffer
	when string
	do   func()
}

func (s *screen) collect(r io.Reader) {
	buf := make([]byte, 1024)
	for {
		n, err := r.Read(buf)
		s.mu.Lock()
		s.text.Write(buf[:n])
		if s.do != nil && strings.Contains(s.text.String(), s.when) {
			s.do()
			s.do = nil
		}
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

func bootTest(c BootConfig) BootConfig {
	c.CPUs, c.Memory = 1, 64<<20
	if c.Append == "" {
		c.Append = "fake=serial"
	}
	return c
}

// onTerminal boots on a terminal at which keys are typed once the guest is up.
func onTerminal(t *testing.T, e *Engine, c BootConfig, keys string) (end BootEnd, text string, err error) {
	t.Helper()
	user, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	before, _ := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	s := &screen{when: "booted", do: func() { user.WriteString(keys) }}
	var wg sync.WaitGroup
	wg.Go(func() { s.collect(user) })
	end, err = e.Boot(t.Context(), c, Attach{Stdin: tty, Stdout: tty, Terminal: tty}, func(string) {})
	after, _ := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if *after != *before {
		t.Error("the terminal is not as it was")
	}
	tty.Close()
	wg.Wait()
	user.Close()
	return end, s.String(), err
}

func TestBootOnTerminal(t *testing.T) {
	e := newTestEngine(t)
	if err := os.WriteFile(e.files.Dir+"/uroot", make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	e.files.Uroot = e.files.Dir + "/uroot"
	end, text, err := onTerminal(t, e, bootTest(BootConfig{}), "ls\x01\x01\r")
	if err != nil || end.Status != vmm.StatusReboot || end.Reason != vmm.ReasonReboot {
		t.Errorf("%+v, %v", end, err)
	}
	if !strings.Contains(text, `got "ls\x01\r"`) || !strings.Contains(text, "booted 1 disks") || !strings.Contains(text, "hull.root=/dev/vda") {
		t.Errorf("screen: %q", text)
	}
	end, _, err = onTerminal(t, e, bootTest(BootConfig{}), "ls\x01x")
	if err != nil || end.Status != vmm.StatusStopped || end.Reason != vmm.ReasonStopped {
		t.Errorf("Ctrl-A x: %+v, %v", end, err)
	}
}

// TestBootVirtioConsole: the terminal is the virtio console, which follows its size, and has what the serial port says
// before.
func TestBootVirtioConsole(t *testing.T) {
	e := newTestEngine(t)
	user, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	if err := pty.Setsize(tty, &pty.Winsize{Rows: 25, Cols: 80}); err != nil {
		t.Fatal(err)
	}
	signals := make(chan os.Signal, 1)
	s := &screen{when: "booted", do: func() {
		if err := pty.Setsize(tty, &pty.Winsize{Rows: 50, Cols: 132}); err != nil {
			t.Error(err)
		}
		signals <- unix.SIGWINCH
		user.WriteString("ls\r")
	}}
	var wg sync.WaitGroup
	wg.Go(func() { s.collect(user) })
	c := bootTest(BootConfig{Console: ConsoleVirtio, Initrd: e.files.Kernel})
	end, err := e.Boot(t.Context(), c, Attach{Stdin: tty, Stdout: tty, Terminal: tty, Signals: signals}, func(string) {})
	if err != nil || end.Status != vmm.StatusReboot {
		t.Errorf("%+v, %v", end, err)
	}
	tty.Close()
	wg.Wait()
	user.Close()
	for _, want := range []string{"early\r\n", "terminal of 25x80", "console=hvc0 earlyprintk=ttyS0", "now of 50x132", `got "ls\r"`} {
		if !strings.Contains(s.String(), want) {
			t.Errorf("no %q on the screen: %q", want, s.String())
		}
	}
}

func TestBootSerialFile(t *testing.T) {
	e := newTestEngine(t)
	out := filepath.Join(t.TempDir(), "out")
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(disk, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	c := bootTest(BootConfig{Serial: out, Initrd: disk, Disks: []Disk{{Path: disk, ReadOnly: true}}, CID: 5})
	var notes []string
	end, err := e.Boot(t.Context(), c, Attach{}, func(s string) { notes = append(notes, s) })
	if err != nil || end.Status != vmm.StatusReboot {
		t.Errorf("%+v, %v", end, err)
	}
	text, err := os.ReadFile(out)
	if err != nil || !strings.HasPrefix(string(text), "booted 1 disks") || strings.Contains(string(text), "hull.root") {
		t.Errorf("%q, %v", text, err)
	}
	if len(notes) != 1 || !strings.Contains(notes[0], "vsock.sock") {
		t.Errorf("notes %q", notes)
	}
	mustBeEmpty(t, e)
}

func TestBootErrors(t *testing.T) {
	e := newTestEngine(t)
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	fifo := filepath.Join(dir, "fifo") // to open it would wait for ever
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "out")
	base := BootConfig{CPUs: 1, Memory: 64 << 20, Initrd: empty, Serial: out}
	for want, change := range map[string]func(*BootConfig){
		"0 CPUs":                 func(c *BootConfig) { c.CPUs = 0 },
		"1000 CPUs":              func(c *BootConfig) { c.CPUs = 1000 },
		"memory of 0":            func(c *BootConfig) { c.Memory = 0 },
		"memory of 1":            func(c *BootConfig) { c.Memory = 1 },
		"this host has":          func(c *BootConfig) { c.Memory = 1 << 50 },
		"is empty":               func(c *BootConfig) { c.Disks = []Disk{{Path: empty}} },
		"is a directory":         func(c *BootConfig) { c.Disks = []Disk{{Path: dir}} },
		"neither a regular file": func(c *BootConfig) { c.Disks = []Disk{{Path: fifo, ReadOnly: true}} },
		"no such file":           func(c *BootConfig) { c.Disks = []Disk{{Path: dir + "/none"}} },
		"kernel: open":           func(c *BootConfig) { c.Kernel = dir + "/none" },
		"not a kernel":           func(c *BootConfig) { c.Append = "fake=error" },
		"without a word":         func(c *BootConfig) { c.Append = "fake=crash" },
		"ttyS0 or hvc0":          func(c *BootConfig) { c.Console = "vga" },
		"CID 2":                  func(c *BootConfig) { c.CID = 2 },
	} {
		c := base
		change(&c)
		if end, err := e.Boot(t.Context(), c, Attach{}, func(string) {}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v, %v; want %q", end, err, want)
		}
	}
	if err := e.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustBeEmpty(t, e)
}

func TestBootInterrupted(t *testing.T) {
	e := newTestEngine(t)
	signals := make(chan os.Signal, 1)
	signals <- unix.SIGTERM
	c := bootTest(BootConfig{Append: "fake=silent", Serial: t.TempDir() + "/out", Initrd: e.files.Kernel})
	end, err := e.Boot(t.Context(), c, Attach{Signals: signals}, func(string) {})
	if err != nil || end.Status != 143 {
		t.Errorf("%+v, %v", end, err)
	}
	e.probe = func() error { return errors.New("impossible here") }
	if _, err := e.Boot(t.Context(), c, Attach{}, func(string) {}); err == nil || !strings.Contains(err.Error(), "impossible here") {
		t.Errorf("probe: %v", err)
	}
}

func TestBootPTY(t *testing.T) {
	e := newTestEngine(t)
	s := &screen{when: "booted"}
	var wg sync.WaitGroup
	note := func(text string) {
		name, ok := strings.CutPrefix(text, "serial port: ")
		if !ok {
			return
		}
		tty, err := os.OpenFile(name, os.O_RDWR|unix.O_NOCTTY, 0)
		if err != nil {
			t.Error(err)
			return
		}
		s.do = func() { tty.WriteString("hello\r") }
		wg.Go(func() {
			defer tty.Close()
			s.collect(tty)
		})
	}
	end, err := e.Boot(t.Context(), bootTest(BootConfig{Serial: SerialPTY, Initrd: e.files.Kernel}), Attach{}, note)
	wg.Wait()
	if err != nil || end.Status != vmm.StatusReboot {
		t.Errorf("%+v, %v", end, err)
	}
	if !strings.Contains(s.String(), `got "hello\r"`) {
		t.Errorf("screen: %q", s.String())
	}
}

// TestUnread: what was just written to one end of a pseudo-terminal has not been read at the other.
func TestUnread(t *testing.T) {
	master, slave, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	defer slave.Close()
	if _, err := makeRaw(slave); err != nil {
		t.Fatal(err)
	}
	for round := range 2000 {
		if _, err := master.WriteString("x"); err != nil {
			t.Fatal(err)
		}
		if !unread(slave) {
			t.Fatalf("round %d: nothing to read", round)
		}
		if _, err := slave.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if unread(slave) {
			t.Fatalf("round %d: something to read", round)
		}
	}
}

func TestEscapes(t *testing.T) {
	for _, test := range []struct {
		typed      []string
		want       string
		quit, help bool
	}{
		{[]string{"abc"}, "abc", false, false},
		{[]string{"a\x01x", "b"}, "a", true, false},
		{[]string{"a\x01", "x"}, "a", true, false},
		{[]string{"\x01\x01x"}, "\x01x", false, false},
		{[]string{"\x01e"}, "\x01e", false, false},
		{[]string{"\x01h!"}, "!", false, true},
		{[]string{"\x01"}, "", false, false},
	} {
		var e escapes
		var got []byte
		quit, help := false, false
		for _, typed := range test.typed {
			out, q, h := e.filter([]byte(typed))
			got = append(got, out...)
			quit, help = quit || q, help || h
			if q {
				break
			}
		}
		if string(got) != test.want || quit != test.quit || help != test.help {
			t.Errorf("%q: %q, quit %v, help %v", test.typed, got, quit, help)
		}
	}
}
