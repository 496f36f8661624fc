package boot

import (
	"errors"
	"strings"
	"testing"
)

func TestAddDeviceWords(t *testing.T) {
	two := []Device{VirtioDevice(0), VirtioDevice(1)}
	const words = "virtio_mmio.device=4096@0xd0000000:5 virtio_mmio.device=4096@0xd0001000:6"
	for _, tt := range []struct{ cmdline, want string }{
		{"", words},
		{"quiet", "quiet " + words},
		{"quiet -- init words", "quiet " + words + " -- init words"},
		{"quiet   -- x", "quiet " + words + " -- x"},
		{"-- x", words + " -- x"},
		{"quiet --", "quiet " + words + " --"},
		{"--x a--b y--", "--x a--b y-- " + words},
		{`a="b -- c" d`, `a="b -- c" d ` + words},
		{`a="b -- c" -- d`, `a="b -- c" ` + words + " -- d"},
	} {
		if got := addDeviceWords(tt.cmdline, two); got != tt.want {
			t.Errorf("%q: %q, want %q", tt.cmdline, got, tt.want)
		}
		if got := addDeviceWords(tt.cmdline, nil); strings.Join(strings.Fields(got), " ") != strings.Join(strings.Fields(tt.cmdline), " ") {
			t.Errorf("%q without devices: %q", tt.cmdline, got)
		}
	}
}

func TestCommandLine(t *testing.T) {
	long := strings.Repeat("x", 2047)
	load := func(cmdline string, platform Platform) (*State, error) {
		return Load(newMemory(t, 16<<20), Params{
			Kernel: simple().image(), CommandLine: cmdline, Platform: platform, Devices: []Device{VirtioDevice(0)},
		})
	}
	if s, err := load(long, PlatformACPI); err != nil || s.CommandLine != long {
		t.Errorf("2047 bytes: %v", err)
	}
	if _, err := load(long+"x", PlatformACPI); !errors.Is(err, ErrCommandLine) {
		t.Errorf("2048 bytes: %v", err)
	}
	if _, err := load(long, PlatformMPTable); !errors.Is(err, ErrCommandLine) {
		t.Errorf("2047 bytes and the device words: %v", err)
	}
	if _, err := load("a\x00b", PlatformACPI); !errors.Is(err, ErrCommandLine) {
		t.Errorf("NUL: %v", err)
	}
	s, err := load("quiet", PlatformMPTable)
	if err != nil {
		t.Fatal(err)
	}
	if want := "quiet virtio_mmio.device=4096@0xd0000000:5"; s.CommandLine != want {
		t.Errorf("command line %q, want %q", s.CommandLine, want)
	}
}
