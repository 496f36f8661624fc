package virtio

import (
	"bytes"
	"encoding/binary"
	"testing"
	"unsafe"
)

// unsafe because the fields under test are reached by pointers.
//
// Each field is read and written alone, wherever it lies in its word: the neighbours may be the guest's.
func TestRingFields(t *testing.T) {
	const size = 4
	mem := make([]byte, 1<<17) // so large that it is on the heap, and aligned
	for _, shift := range []int{0, 2} {
		for i := range mem {
			mem[i] = byte(i * 3)
		}
		// The available ring may begin in the upper half of a word.
		desc, avail, used := mem[0:64], mem[128+shift:128+shift+availBytes(size)], mem[256:256+usedBytes(size)]
		r, err := newRing(size, desc, avail, used)
		if err != nil {
			t.Fatal(err)
		}
		le := binary.LittleEndian
		for i, f := range []struct {
			got  uint16
			want []byte
		}{
			{r.availFlags(), avail[0:]}, {r.availIdx(), avail[2:]}, {r.usedEvent(), avail[4+2*size:]},
			{r.availHead(0), avail[4:]}, {r.availHead(3), avail[10:]}, {r.availHead(5), avail[6:]}, {r.availHead(0xffff), avail[10:]},
		} {
			if want := le.Uint16(f.want); f.got != want {
				t.Errorf("shift %d, field %d = %#x, want %#x", shift, i, f.got, want)
			}
		}
		for i := range uint16(size) {
			want := makeDescriptor(le.Uint64(desc[16*i:]), le.Uint64(desc[16*i+8:]))
			if got := r.descriptor(i); got != want || got.len != le.Uint32(desc[16*i+8:]) || got.next != le.Uint16(desc[16*i+14:]) {
				t.Errorf("descriptor %d = %+v", i, got)
			}
			if got := decodeDescriptor(desc, int(i)); got != want {
				t.Errorf("descriptor %d in a table = %+v, want %+v", i, got, want)
			}
		}
		wrote := func(what string, off, n int, v uint64, write func()) {
			t.Helper()
			want := bytes.Clone(mem)
			var b [8]byte
			le.PutUint64(b[:], v)
			copy(want[256+off:], b[:n])
			if write(); !bytes.Equal(mem, want) {
				t.Errorf("%s wrote something else than %d bytes at %d", what, n, off)
			}
		}
		wrote("setUsed", 4+8*2, 8, 0x1122334455667788, func() { r.setUsed(6, 0x55667788, 0x11223344) })
		wrote("publish", 0, 4, 0xbeef0001, func() { r.publish(1, 0xbeef) })
		wrote("setAvailEvent", 4+8*size, 2, 0xcafe, func() { r.setAvailEvent(0xcafe) })
	}
	upper := mem[2:]
	exchange16((*uint16)(unsafe.Pointer(&upper[0])), 0x1234)
	if got := load16(unsafe.Pointer(&upper[0])); got != 0x1234 {
		t.Errorf("upper half = %#x, want 0x1234", got)
	}
}
