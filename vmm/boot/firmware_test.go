package boot

import (
	"bytes"
	"testing"
)

func TestResetVector(t *testing.T) {
	mem := newMemory(t, 16<<20)
	if _, err := Load(mem, Params{Kernel: simple().image()}); err != nil {
		t.Fatal(err)
	}
	got, err := mem.Slice(0xf000<<4+0xfff0, 16)
	if err != nil {
		t.Fatal(err)
	}
	// mov $0x602, %dx; mov $1, %al; out %al, (%dx); 1: hlt; jmp 1b
	if want := []byte("\xba\x02\x06\xb0\x01\xee\xf4\xeb\xfd\x00\x00\x00\x00\x00\x00\x00"); !bytes.Equal(got, want) {
		t.Errorf("% x, want % x", got, want)
	}
}
