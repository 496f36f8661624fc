package virtio_test

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"

	"github.com/hullvm/hull/virtio"
	"github.com/hullvm/hull/virtio/virtiotest"
)

// Whatever the layout, buffers behave like the bytes in them.
func TestBuffersBehaveLikeBytes(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		out := rapid.SliceOfN(rapid.Byte(), 1, 200).Draw(rt, "out")
		in := rapid.IntRange(1, 200).Draw(rt, "in")
		l := virtiotest.Layout{
			Piece: rapid.IntRange(1, 50).Draw(rt, "piece"), Table: rapid.Bool().Draw(rt, "table"), Empty: rapid.Bool().Draw(rt, "empty"),
		}
		p := newPair(t, 64, allRing, 0)
		s := p.Place(virtiotest.Request{Out: out, In: in}, l)
		p.Offer(s.Head())
		c := p.pop(t)
		if c.Readable.Len() != len(out) || c.Writable.Len() != in {
			rt.Fatalf("%d + %d bytes, want %d + %d", c.Readable.Len(), c.Writable.Len(), len(out), in)
		}
		want := bytes.Repeat([]byte{virtiotest.Untouched}, in)
		end, at := in, 0
		for c.Readable.Len() > 0 || c.Writable.Len() > 0 {
			n := rapid.IntRange(1, 60).Draw(rt, "n")
			switch rapid.IntRange(0, 5).Draw(rt, "operation") {
			case 0, 1:
				buf := make([]byte, n)
				k := c.Readable.Read(buf)
				if k != min(n, len(out)) || !bytes.Equal(buf[:k], out[:k]) {
					rt.Fatalf("read %x, want %x", buf[:k], out[:k])
				}
				out = out[k:]
			case 2:
				k := c.Readable.Skip(n)
				if k != min(n, len(out)) {
					rt.Fatalf("skipped %d, want %d", k, min(n, len(out)))
				}
				out = out[k:]
			case 3:
				buf := bytes.Repeat([]byte{byte(n)}, n)
				k := c.Writable.Write(buf)
				at += copy(want[at:end], buf[:k])
			case 4:
				k := c.Writable.Zero(n)
				clear(want[at : at+k])
				at += k
			case 5:
				b := c.Writable.CutByte()
				if (b == nil) != (at == end) {
					rt.Fatalf("CutByte = %v with %d bytes left", b, end-at)
				}
				if b != nil {
					end--
					b[0], want[end] = 0x5e, 0x5e
				}
			}
			if c.Writable.Len() != end-at || c.Readable.Len() != len(out) {
				rt.Fatalf("%d + %d bytes left, want %d + %d", c.Readable.Len(), c.Writable.Len(), len(out), end-at)
			}
		}
		if got := s.Answer(); !bytes.Equal(got, want) {
			rt.Fatalf("memory holds %x, want %x", got, want)
		}
		p.q.Push(c, in)
		_, n, _ := p.TakeUsed()
		s.Finish(uint32(s.Head()), n)
	})
}

func TestEmptyBuffers(t *testing.T) {
	var b virtio.Buffers
	if b.Len() != 0 || b.Read(make([]byte, 1)) != 0 || b.Write([]byte{1}) != 0 || b.Skip(1) != 0 || b.Zero(1) != 0 || b.CutByte() != nil {
		t.Error("empty buffers gave something")
	}
}
