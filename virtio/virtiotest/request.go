package virtiotest

import (
	"bytes"
)

// Layout is a way to put the bytes of a request into descriptors. All layouts of the same bytes are the same request
// (2.7.4.1).
type Layout struct {
	Name string
	// Piece is the largest number of bytes in a descriptor; 0 for as large as it goes.
	Piece int
	// Table puts all descriptors but the first Direct ones into an indirect table.
	Table  bool
	Direct int
	// Odd puts the table at an address that is not aligned; Write sets the flag WRITE on the descriptor that points at
	// it, which means nothing (2.7.5.3.2).
	Odd, Write bool
	// Empty adds descriptors of no bytes.
	Empty bool
}

// Needs are the features that a layout takes.
func (l Layout) Needs() uint64 {
	if l.Table {
		return IndirectDesc
	}
	return 0
}

// Layouts are the ways in which the conformance suite sends requests.
var layouts = []Layout{
	{Name: "plain"},
	{Name: "pieces of 7", Piece: 7},
	{Name: "single bytes", Piece: 1},
	{Name: "empty descriptors", Empty: true, Piece: 100},
	{Name: "table", Table: true},
	{Name: "table of single bytes", Table: true, Piece: 1},
	{Name: "odd table with WRITE", Table: true, Odd: true, Write: true, Piece: 13},
	{Name: "direct, then table", Table: true, Direct: 1, Piece: 11},
}

const guard = 16 // untouchable bytes around each buffer

type span struct {
	gpa uint64
	n   int
}

// Sent is a request in memory.
type Sent struct {
	Request
	r        *Ring
	head     uint16
	used     []uint16 // descriptors of the ring
	out, in  []span
	table    span
	tableWas []byte
}

// Head is the index of the chain's first descriptor.
func (s *Sent) Head() uint16 { return s.head }

// pieces spreads n bytes over memory.
func (r *Ring) pieces(n, piece int) []span {
	var s []span
	for n > 0 {
		k := min(n, piece)
		a := r.d.Mem.Alloc(k+2*guard, 1)
		whole := r.d.Mem.Bytes(a, k+2*guard)
		for i := range whole {
			whole[i] = Untouched
		}
		s = append(s, span{a + guard, k})
		n -= k
	}
	return s
}

// Place puts a request into memory without making it available.
func (r *Ring) Place(req Request, l Layout) *Sent {
	piece := l.Piece
	total := len(req.Out) + req.In
	if piece == 0 {
		piece = max(total, 1)
	}
	// No more than half of the descriptors that are left: there may be other requests, empty descriptors and borders.
	if budget := max(r.unused()/2-2, 1); total/piece >= budget {
		piece = total/budget + 1
	}
	s := &Sent{Request: req, r: r, out: r.pieces(len(req.Out), piece), in: r.pieces(req.In, piece)}
	left := req.Out
	for _, o := range s.out {
		copy(r.d.Mem.Bytes(o.gpa, o.n), left)
		left = left[o.n:]
	}
	var descs []Desc
	if l.Empty {
		descs = append(descs, Desc{Addr: s.out0()})
	}
	for _, o := range s.out {
		descs = append(descs, Desc{Addr: o.gpa, Len: uint32(o.n)})
	}
	for _, o := range s.in {
		descs = append(descs, Desc{Addr: o.gpa, Len: uint32(o.n), Flags: WriteTo})
	}
	if l.Empty {
		descs = append(descs, Desc{Addr: s.out0(), Flags: WriteTo})
	}
	s.write(descs, l)
	return s
}

func (s *Sent) out0() uint64 {
	if len(s.out) > 0 {
		return s.out[0].gpa
	}
	return s.in[0].gpa
}

// write writes descriptors to the ring, and to a table if the layout has one.
func (s *Sent) write(descs []Desc, l Layout) {
	r := s.r
	if l.Table && len(descs) > l.Direct {
		inTable := descs[l.Direct:]
		n := 16 * len(inTable)
		odd := uint64(0)
		if l.Odd {
			odd = 3
		}
		a := r.d.Mem.Alloc(n+int(odd), 16) + odd
		s.table = span{a, n}
		// Back to front, so that the entries' order is not that of the chain: the first stays first.
		last := len(inTable) - 1
		place := func(i int) uint16 {
			if i == 0 {
				return 0
			}
			return uint16(last + 1 - i)
		}
		for i, d := range inTable {
			if i < last {
				d.Flags |= Next
				d.Next = place(i + 1)
			}
			r.setDesc(a, place(i), d)
		}
		s.tableWas = bytes.Clone(r.d.Mem.Bytes(a, n))
		t := Desc{Addr: a, Len: uint32(n), Flags: Indirect}
		if l.Write {
			t.Flags |= WriteTo
		}
		descs = append(append([]Desc(nil), descs[:l.Direct]...), t)
	}
	for range descs {
		s.used = append(s.used, r.allocDesc())
	}
	for i, d := range descs {
		if i < len(descs)-1 {
			d.Flags |= Next
			d.Next = s.used[i+1]
		}
		r.SetDesc(s.used[i], d)
	}
	s.head = s.used[0]
}

// unused counts the descriptors of the ring that are not in use.
func (r *Ring) unused() int {
	n := int(r.Size)
	for _, in := range r.inUse {
		if in {
			n--
		}
	}
	return n
}

// allocDesc takes a descriptor of the ring that is not in use.
func (r *Ring) allocDesc() uint16 {
	if r.inUse == nil {
		r.inUse = make([]bool, r.Size)
	}
	for i := range r.Size {
		// 5 is coprime to any power of two, so that neighbours in a chain are not neighbours in the table.
		k := (i*5 + 3) % r.Size
		if !r.inUse[k] {
			r.inUse[k] = true
			return k
		}
	}
	r.d.T.Fatalf("queue %d: out of descriptors", r.Index)
	return 0
}

// Answer collects the bytes that the device may write.
func (s *Sent) Answer() []byte {
	var p []byte
	for _, o := range s.in {
		p = append(p, s.r.d.Mem.Bytes(o.gpa, o.n)...)
	}
	return p
}

// Finish checks a request that has come back: its answer, and that nothing else was written.
func (s *Sent) Finish(id, n uint32) {
	t := s.r.d.T
	t.Helper()
	if id != uint32(s.head) {
		t.Fatalf("%s: used entry for %d, want %d", s.Name, id, s.head)
	}
	if int(n) > s.In {
		t.Errorf("%s: device says that it has written %d bytes of %d", s.Name, n, s.In)
		n = uint32(s.In)
	}
	s.checkUntouched()
	if s.Check != nil {
		s.Check(t, s.Answer(), int(n))
	}
}

// checkUntouched checks that what is not the device's to write is as it was (2.7.5.1).
func (s *Sent) checkUntouched() {
	t, m := s.r.d.T, s.r.d.Mem
	t.Helper()
	left := s.Out
	for _, o := range s.out {
		if !bytes.Equal(m.Bytes(o.gpa, o.n), left[:o.n]) {
			t.Errorf("%s: a device-readable buffer was written", s.Name)
		}
		left = left[o.n:]
	}
	for _, o := range append(append([]span(nil), s.out...), s.in...) {
		for _, g := range [][]byte{m.Bytes(o.gpa-guard, guard), m.Bytes(o.gpa+uint64(o.n), guard)} {
			if bytes.Count(g, []byte{Untouched}) != guard {
				t.Errorf("%s: bytes beside a buffer were written", s.Name)
			}
		}
	}
	if s.table.n > 0 && !bytes.Equal(m.Bytes(s.table.gpa, s.table.n), s.tableWas) {
		t.Errorf("%s: the indirect table was written", s.Name)
	}
}

// Again makes the request ready to be offered once more.
func (s *Sent) Again() {
	for _, o := range s.in {
		p := s.r.d.Mem.Bytes(o.gpa, o.n)
		for i := range p {
			p[i] = Untouched
		}
	}
}

// Free gives back the request's descriptors.
func (s *Sent) Free() {
	for _, i := range s.used {
		s.r.inUse[i] = false
	}
}

// Exchange sends a request, waits for the answer and checks it.
func (r *Ring) Exchange(req Request, l Layout) {
	r.d.T.Helper()
	s := r.Place(req, l)
	r.Offer(s.head)
	r.KickIfWanted()
	id, n := r.AwaitUsed()
	s.Finish(id, n)
	s.Free()
}
