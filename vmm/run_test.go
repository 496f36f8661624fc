package vmm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/hullvm/hull/vmm/testguest"
)

// TestRun: a context that has ended starts nothing, one that ends stops the guest, and what cannot be is an error.
func TestRun(t *testing.T) {
	needKVM(t)
	path := filepath.Join(t.TempDir(), "guest.elf")
	if err := os.WriteFile(path, testguest.Spin, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := Config{CPUs: 1, Memory: 16 << 20, Kernel: File{Path: path}, Platform: PlatformNone}
	ctx, cancel := context.WithCancelCause(context.Background())
	probe := newProbe(0)
	go func() {
		<-probe.accesses // the guest runs
		cancel(errors.New("seen enough"))
	}()
	if end, err := Run(ctx, cfg, WithPort(testguest.Port, 4, probe)); !errors.Is(err, context.Canceled) || end.Reason != ReasonStopped || end.Message != "seen enough" {
		t.Errorf("%+v, %v", end, err)
	}
	if _, err := Run(ctx, cfg, WithPort(testguest.Port, 4, probe)); !errors.Is(err, context.Canceled) || len(probe.accesses) != 0 {
		t.Errorf("after the context's end: %v", err)
	}
	if _, err := Run(context.Background(), Config{}); err == nil {
		t.Error("a machine of nothing ran")
	}
	if err := os.WriteFile(path, testguest.Hello, 0o600); err != nil {
		t.Fatal(err)
	}
	if end, err := Run(context.Background(), cfg); err != nil || end.Reason != ReasonReboot {
		t.Errorf("%+v, %v", end, err)
	}
}
