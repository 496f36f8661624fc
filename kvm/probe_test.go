package kvm

import (
	"errors"
	"io/fs"
	"os"
	"testing"
	"time"
)

// open opens /dev/kvm or skips the test with the reason.
func open(t testing.TB) *System {
	t.Helper()
	s, err := Open()
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		t.Skipf("needs KVM: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestProbeAgreesWithTheLoadedModule(t *testing.T) {
	s := open(t)
	start := time.Now()
	info, err := s.Probe()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v in %v", info, time.Since(start))
	for module, kind := range map[string]Kind{"kvm_pvm": KindSoftware, "kvm_intel": KindHardware, "kvm_amd": KindHardware} {
		if _, err := os.Stat("/sys/module/" + module + "/refcnt"); err == nil && len(info.Modules) == 2 && info.Kind != kind {
			t.Errorf("module %s: kind %d, want %d (%s)", module, info.Kind, kind, info.Reason)
		}
	}
	if (info.Require() == nil) != info.BootsLinux() {
		t.Errorf("Require = %v, BootsLinux = %v", info.Require(), info.BootsLinux())
	}
	if info.Kind == KindSoftware && !errors.Is(info.Require(), ErrSoftwareKVM) && len(info.Missing) == 0 {
		t.Errorf("Require = %v, want ErrSoftwareKVM", info.Require())
	}
}
