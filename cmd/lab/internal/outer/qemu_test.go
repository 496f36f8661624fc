package outer

import (
	"slices"
	"strings"
	"testing"
)

func TestConfigCheck(t *testing.T) {
	for name, c := range map[string]struct {
		config Config
		ok     bool
	}{
		"usual":             {Config{CPUs: 2, Memory: 2048}, true},
		"deterministic":     {Config{CPUs: 1, Memory: 2048, Deterministic: true}, true},
		"deterministic SMP": {Config{CPUs: 2, Memory: 2048, Deterministic: true}, false},
		"no CPU":            {Config{CPUs: 0, Memory: 2048}, false},
		"too many CPUs":     {Config{CPUs: 1000, Memory: 2048}, false},
		"no memory":         {Config{CPUs: 1, Memory: 0}, false},
		"little memory":     {Config{CPUs: 1, Memory: MinMemory - 1}, false},
		"absurd memory":     {Config{CPUs: 1, Memory: MaxMemory + 1}, false},
		"negative":          {Config{CPUs: -1, Memory: -1}, false},
	} {
		if err := c.config.Check(); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestArguments(t *testing.T) {
	args := Config{CPUs: 1, Memory: 1024, Deterministic: true}.arguments("/boot/k", false)
	for _, want := range []string{"tcg,thread=single", "shift=0,sleep=off", "/boot/k", "1024M"} {
		if !slices.Contains(args, want) {
			t.Errorf("no %q in %q", want, args)
		}
	}
	if slices.ContainsFunc(args, func(s string) bool { return strings.HasPrefix(s, "virtio-blk") }) {
		t.Error("a disk although there is none")
	}
	if line := (Config{CPUs: 1, Memory: 1024, Deterministic: true}).commandLine(); !strings.Contains(line, "tsc_early_khz=1000000") {
		t.Errorf("command line %q", line)
	}
	args = Config{CPUs: 4, Memory: 1024}.arguments("/boot/k", true)
	if !slices.Contains(args, "tcg,thread=multi") || slices.Contains(args, "-icount") || !slices.Contains(args, "virtio-blk-pci,drive=scratch") {
		t.Errorf("%q", args)
	}
}

func TestCPUInfoTSC(t *testing.T) {
	const constant = "flags\t\t: fpu tsc constant_tsc nonstop_tsc\nbugs\t\t:\nbogomips\t: 5200.00\n\n"
	for name, c := range map[string]struct {
		text string
		want int
	}{
		"constant":     {"processor\t: 0\n" + constant + "bogomips\t: 1.00\n", 2600000},
		"not constant": {strings.ReplaceAll(constant, "nonstop_tsc", ""), 0},
		"nonsense":     {strings.ReplaceAll(constant, "5200.00", "many"), 0},
		"empty":        {"", 0},
	} {
		if got := cpuinfoTSC(strings.NewReader(c.text)); got != c.want {
			t.Errorf("%s: %d kHz, want %d", name, got, c.want)
		}
	}
}
