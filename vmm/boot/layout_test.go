package boot

import (
	"errors"
	"testing"

	"github.com/hullvm/hull/vmm/memory"
)

func TestLayout(t *testing.T) {
	l := &loader{mem: newMemory(t, minMemory)}
	if err := l.claimFixed(); err != nil {
		t.Fatal(err) // two structures at one place
	}
	for _, c := range l.used {
		if c.start < 0x1_0000 {
			t.Errorf("%s at %#x takes the memory that small test guests use", c.what, c.start)
		}
		if c.end > BaseMemoryEnd && c.start < ACPITables {
			t.Errorf("%s ends at %#x, in what is no RAM for the guest", c.what, c.end)
		}
		if c.end > HighMemory || c.start%memory.PageSize != 0 {
			t.Errorf("%s at %#x to %#x", c.what, c.start, c.end)
		}
	}
	if StackTop%16 != 0 || StackTop > PageTables {
		t.Errorf("stack from %#x", StackTop)
	}
	last := VirtioDevice(MaxDevices - 1)
	if last.GSI >= IOAPICPins || last.Base+last.Size > DeviceEnd {
		t.Errorf("last device %+v", last)
	}
	if VirtioBase < memory.LowEnd || KVMIdentityMap < LocalAPIC || KVMTSS != KVMIdentityMap+memory.PageSize || KVMTSS+3*memory.PageSize > memory.HighStart {
		t.Error("KVM's pages or the devices are not in the hole")
	}

	small := &loader{mem: newMemory(t, minMemory-memory.PageSize)}
	if err := small.claimFixed(); !errors.Is(err, ErrNoRoom) {
		t.Errorf("too little memory: %v", err)
	}
}
