package virtiotest

import (
	"math/rand/v2"
	"testing"
)

// Hostile checks that what a malicious driver may try ends in an error for that driver alone: nothing panics or hangs,
// and after a reset the device works.
func (s Suite) Hostile(t *testing.T) {
	t.Run("registers", s.hostileRegisters)
	t.Run("queue set-up", s.hostileSetUp)
	t.Run("rings", s.hostileRings)
	t.Run("truncated requests", s.hostileTruncated)
	t.Run("status order", s.hostileStatus)
	t.Run("reset in the middle", s.hostileReset)
	t.Run("memory that changes", s.hostileFlip)
}

// recovers checks that a reset brings the device back.
func (s Suite) recovers(d *Driver) {
	d.T.Helper()
	d.Mem.next = 0x1000
	d.Start(all(d))
	s.each(d, Layout{})
}

// queues lists the queues that requests go to.
func (s Suite) queues() []int {
	var q []int
	seen := map[int]bool{}
	for _, r := range s.Requests {
		if !seen[r.Queue] {
			seen[r.Queue] = true
			q = append(q, r.Queue)
		}
	}
	return q
}

// A ringCase puts something bad into a ring that is running.
type ringCase struct {
	name string
	// without are features that must not be negotiated.
	without uint64
	// bad makes something bad available.
	bad func(r *Ring)
	// harmless means that the device may also go on as if nothing was.
	harmless bool
}

const bufAddr = 0x180000 // some RAM that nothing else uses

// chain writes descriptors 0, 1, 2, … and offers 0.
func chain(ds ...Desc) func(*Ring) {
	return func(r *Ring) {
		for i, d := range ds {
			r.SetDesc(uint16(i), d)
		}
		r.Offer(0)
	}
}

// table writes an indirect table at bufAddr and offers a descriptor that points at it.
func table(length uint32, flags uint16, ds ...Desc) func(*Ring) {
	return func(r *Ring) {
		for i, d := range ds {
			r.setDesc(bufAddr, uint16(i), d)
		}
		chain(Desc{Addr: bufAddr, Len: length, Flags: Indirect | flags})(r)
	}
}

var ringCases = []ringCase{
	{name: "6 buffer outside of RAM", bad: chain(Desc{Addr: highBase + highSize, Len: 16})},
	{name: "6 writable buffer outside of RAM", bad: chain(Desc{Addr: highBase + highSize, Len: 16, Flags: WriteTo})},
	{name: "6 buffer over the end of RAM", bad: chain(Desc{Addr: highBase + highSize - 8, Len: 16})},
	{name: "6 buffer across two regions", bad: chain(Desc{Addr: midBase - 8, Len: 16})},
	{name: "6 buffer into the hole", bad: chain(Desc{Addr: midBase + midSize - 1, Len: 2})},
	{name: "7 address + length wraps", bad: chain(Desc{Addr: ^uint64(0) - 7, Len: 16})},
	{name: "7 address + length is 2^64", bad: chain(Desc{Addr: ^uint64(0) - 15, Len: 16})},
	{name: "7 length of 2^32-1", bad: chain(Desc{Addr: bufAddr, Len: ^uint32(0)})},
	{name: "9 descriptor that follows itself", bad: chain(Desc{bufAddr, 16, Next, 0})},
	{name: "9 loop of two", bad: chain(Desc{bufAddr, 16, Next, 1}, Desc{bufAddr, 16, Next, 0})},
	{name: "9 loop of empty descriptors", bad: chain(Desc{bufAddr, 0, Next, 1}, Desc{bufAddr, 0, Next, 0})},
	{name: "9 loop of writable descriptors", bad: chain(Desc{bufAddr, 16, Next | WriteTo, 1}, Desc{bufAddr, 16, Next | WriteTo, 1})},
	{name: "9 loop in a table", bad: table(32, 0, Desc{bufAddr, 16, Next, 1}, Desc{bufAddr, 16, Next, 0})},
	{name: "9 table entry that follows itself", bad: table(16, 0, Desc{bufAddr, 1, Next, 0})},
	{name: "10 next is the size", bad: func(r *Ring) { chain(Desc{bufAddr, 16, Next, r.Size})(r) }},
	{name: "10 next is 65535", bad: chain(Desc{bufAddr, 16, Next, 0xffff})},
	{name: "10 head is the size", bad: func(r *Ring) { r.Offer(r.Size) }},
	{name: "10 head is 65535", bad: func(r *Ring) { r.Offer(0xffff) }},
	{name: "10 next outside of the table", bad: table(32, 0, Desc{bufAddr, 16, Next, 2})},
	{name: "10 next 65535 in a table", bad: table(32, 0, Desc{bufAddr, 16, Next, 0xffff})},
	{name: "11 available index jumps by size + 1", bad: func(r *Ring) { r.SetAvailIdx(r.availIdx + r.Size + 1) }},
	{name: "11 available index goes back", bad: func(r *Ring) { r.SetAvailIdx(r.availIdx - 1) }},
	{name: "11 available index jumps by half its range", bad: func(r *Ring) { r.SetAvailIdx(r.availIdx + 0x8000) }},
	{name: "12 the same chain all over the ring", harmless: true, bad: func(r *Ring) {
		r.SetDesc(0, Desc{bufAddr, 16, 0, 0})
		for range r.Size {
			r.Offer(0)
		}
	}},
	{name: "13 no bytes at all", harmless: true, bad: chain(Desc{Addr: bufAddr})},
	{name: "13 no bytes, nowhere", harmless: true, bad: chain(Desc{^uint64(0), 0, Next, 1}, Desc{deviceBase, 0, WriteTo, 0})},
	{name: "13 more than 2^32 bytes in all", bad: func(r *Ring) {
		var ds []Desc
		for range 4 {
			ds = append(ds, Desc{Addr: bufAddr, Len: 0x7fffffff, Flags: Next, Next: uint16(len(ds) + 1)})
		}
		chain(ds...)(r)
	}},
	{name: "14 table in a table", bad: table(32, 0, Desc{bufAddr + 64, 16, Indirect, 0})},
	{name: "14 table of no bytes", bad: table(0, 0)},
	{name: "14 table of 15 bytes", bad: table(15, 0, Desc{Addr: bufAddr, Len: 1})},
	{name: "14 table of 17 bytes", bad: table(17, 0, Desc{Addr: bufAddr, Len: 1})},
	{name: "14 table with NEXT", bad: table(16, Next, Desc{Addr: bufAddr, Len: 1})},
	{name: "14 table over the end of RAM", bad: chain(Desc{highBase + highSize - 16, 32, Indirect, 0})},
	{name: "14 table of 2^32-16 bytes", bad: chain(Desc{bufAddr, ^uint32(0) &^ 15, Indirect, 0})},
	{name: "14 chain of 1,025 in a table", bad: func(r *Ring) {
		const n = 1025
		for i := range uint16(n) {
			r.setDesc(bufAddr, i, Desc{bufAddr, 1, Next, i + 1})
		}
		r.setDesc(bufAddr, n-1, Desc{bufAddr, 1, 0, 0})
		chain(Desc{bufAddr, 16 * n, Indirect, 0})(r)
	}},
	{name: "14 table without the feature", without: IndirectDesc, bad: table(16, 0, Desc{Addr: bufAddr, Len: 1})},
	{name: "27 buffer at device registers", bad: chain(Desc{Addr: deviceBase, Len: 16})},
	{name: "27 table at device registers", bad: chain(Desc{deviceBase, 16, Indirect, 0})},
	{name: "readable after writable", bad: chain(Desc{bufAddr, 16, Next | WriteTo, 1}, Desc{bufAddr, 16, 0, 0})},
	{name: "8 buffer is the used ring", harmless: true, bad: func(r *Ring) {
		chain(Desc{r.Desc, 16, Next, 1}, Desc{r.Used, uint32(6 + 8*int(r.Size)), WriteTo, 0})(r)
	}},
	{name: "8 buffer is the available ring", harmless: true, bad: func(r *Ring) {
		chain(Desc{r.Desc, 16, Next, 1}, Desc{r.Avail, uint32(6 + 2*int(r.Size)), WriteTo, 0})(r)
	}},
	{name: "8 buffer is the descriptor table", harmless: true, bad: func(r *Ring) {
		chain(Desc{r.Desc, 16, Next, 1}, Desc{r.Desc, uint32(16 * int(r.Size)), WriteTo, 0})(r)
	}},
}

func (s Suite) hostileRings(t *testing.T) {
	d := s.NewDriver(t)
	for _, c := range ringCases {
		for _, q := range s.queues() {
			t.Run(c.name, func(t *testing.T) {
				d.T = t
				d.Mem.next = 0x1000
				d.Start(all(d) &^ c.without)
				r, edges := d.Rings[q], d.Line.Edges()+1
				c.bad(r) // a device that still looks needs no kick
				if c.harmless {
					r.Quiesce()
				} else {
					r.Kick()
					d.AwaitNeedsReset()
					d.await("the interrupt", func() bool { return d.Line.Edges() >= edges }) // its cause is set before
					if n := r.UsedIdx(); n != 0 {
						t.Errorf("%d used buffers, want none", n)
					}
					// It stays broken until it is reset, and says nothing more.
					r.Kick()
					d.Write(RegStatus, Acknowledge|DriverBit|FeaturesOK|DriverOK)
					if d.Status()&NeedsReset == 0 || d.Line.Edges() != edges {
						t.Error("a broken device came back without a reset")
					}
				}
				s.recovers(d)
			})
		}
	}
}

func (s Suite) hostileRegisters(t *testing.T) {
	d := s.NewDriver(t)
	d.Start(all(d))
	poke := func() {
		p := make([]byte, 24)
		for _, width := range []int{0, 1, 2, 3, 4, 5, 8, 16, 24} {
			for off := uint64(0); off < 0x140; off++ {
				d.Dev.Read(off, p[:width])
				if width == 4 && off%4 == 0 {
					continue // proper writes have effects
				}
				for i := range p {
					p[i] = byte(rand.Uint32())
				}
				if off+uint64(width) <= RegConfig {
					d.Dev.Write(off, p[:width])
				}
			}
			// 4: past the end of the configuration and of the window, and over the end of the address space.
			for _, off := range []uint64{RegConfig + uint64(s.ConfigLen), 0xfff, 0x1000, 1 << 32, ^uint64(0) - 3, ^uint64(0)} {
				for i := range p {
					p[i] = 0xaa
				}
				d.Dev.Read(off, p[:width])
				for i, v := range p[:width] {
					if v != 0 && off != RegConfig+uint64(s.ConfigLen)-1 {
						t.Errorf("byte %d of %d read at %#x = %#x, want 0", i, width, off, v)
					}
				}
				d.Dev.Write(off, p[:width])
			}
		}
	}
	poke()
	// 3: queues that are not there.
	for _, q := range []uint32{uint32(len(d.Rings)), 0xffff, 0x10000, 0x80000000, ^uint32(0)} {
		d.Write(RegQueueNotify, q)
		d.Write(RegQueueSel, q)
		for _, reg := range []uint64{RegQueueNum, RegQueueReady, RegQueueReset, RegQueueDescLow, RegQueueDriverLow, RegQueueDeviceLow} {
			d.Write(reg, 1)
			if got := d.Read(reg); got != 0 {
				t.Errorf("register %#x of queue %#x = %#x, want 0", reg, q, got)
			}
		}
		poke()
	}
	if got := d.Status(); got != Acknowledge|DriverBit|FeaturesOK|DriverOK {
		t.Errorf("status = %#x after accesses that mean nothing: %v", got, d.Dev.Failure())
	}
	s.each(d, Layout{})
	// 1: the set-up rewritten while the queue runs.
	for i := range d.Rings {
		d.Write(RegQueueSel, uint32(i))
		d.Write(RegQueueNum, 1)
		for _, reg := range []uint64{RegQueueDescLow, RegQueueDriverLow, RegQueueDeviceLow} {
			d.Write64(reg, deviceBase)
		}
		d.Write(RegQueueReady, 1)
	}
	s.each(d, Layout{})
	if got := d.Status(); got&NeedsReset != 0 {
		t.Errorf("status = %#x: %v", got, d.Dev.Failure())
	}
}

func (s Suite) hostileSetUp(t *testing.T) {
	d := s.NewDriver(t)
	refused := func(what string, q int, change func(r *Ring), num uint32) {
		t.Helper()
		d.Mem.next = 0x1000
		if !d.Negotiate(all(d)) {
			t.Fatal("features refused")
		}
		d.Write(RegQueueSel, uint32(q))
		r := newRing(d, q, uint16(d.Read(RegQueueNumMax)))
		change(r)
		d.Write64(RegQueueDescLow, r.Desc)
		d.Write64(RegQueueDriverLow, r.Avail)
		d.Write64(RegQueueDeviceLow, r.Used)
		d.Write(RegQueueNum, num)
		d.Write(RegQueueReady, 1)
		if got := d.Read(RegQueueReady); got != 0 {
			t.Errorf("queue %d with %s: QueueReady = %d, want 0", q, what, got)
		}
		d.Write(RegStatus, Acknowledge|DriverBit|FeaturesOK|DriverOK)
		d.Write(RegQueueNotify, uint32(q))
	}
	for q := range d.Rings {
		d.Write(RegQueueSel, uint32(q))
		max := d.Read(RegQueueNumMax)
		for _, n := range []uint32{0, 3, max + 1, max * 2, max - 1, 0x8000_0000, 0x10000, 0x10000 | max, ^uint32(0)} {
			if n&(n-1) == 0 && n != 0 && n <= max {
				continue
			}
			refused("a bad size", q, func(*Ring) {}, n)
		}
		for _, a := range []struct {
			what string
			addr uint64
		}{
			{"hole", deviceBase}, {"end of RAM", highBase + highSize - 16}, {"wrap", ^uint64(0) - 15}, {"two regions", midBase - 16},
		} {
			size := max
			if size < 16 {
				continue // the smallest rings may fit
			}
			refused("descriptors at "+a.what, q, func(r *Ring) { r.Desc = a.addr }, size)
			refused("available ring at "+a.what, q, func(r *Ring) { r.Avail = a.addr }, size)
			refused("used ring at "+a.what, q, func(r *Ring) { r.Used = a.addr &^ 3 }, size)
		}
		refused("descriptors misaligned", q, func(r *Ring) { r.Desc += 8 }, max)
		refused("available ring misaligned", q, func(r *Ring) { r.Avail++ }, max)
		refused("used ring misaligned", q, func(r *Ring) { r.Used += 2 }, max)
	}
	s.recovers(d)

	// 8: rings over each other. Whatever comes of it, it ends.
	for _, q := range s.queues() {
		d.Mem.next = 0x1000
		if !d.Negotiate(all(d)) {
			t.Fatal("features refused")
		}
		r := newRing(d, q, 16)
		r.Avail, r.Used = r.Desc, r.Desc
		d.enable(r)
		d.Write(RegStatus, Acknowledge|DriverBit|FeaturesOK|DriverOK)
		r.SetAvailIdx(1)
		r.Settle()
		s.recovers(d)
	}
}

// hostileTruncated sends every request with bytes missing at its ends, and with the directions swapped (17).
func (s Suite) hostileTruncated(t *testing.T) {
	d := s.NewDriver(t)
	for _, req := range s.Requests {
		if req.Needs&^all(d) != 0 {
			continue
		}
		try := func(out []byte, in int) {
			d.Mem.next = 0x1000
			if d.Status()&(DriverOK|NeedsReset) != DriverOK {
				d.Start(all(d))
			}
			r := d.Rings[req.Queue]
			if len(out)+in == 0 {
				return
			}
			d.Mem.next = 0x100000
			sent := r.Place(Request{Name: req.Name, Queue: req.Queue, Out: out, In: in}, Layout{})
			r.Offer(sent.head)
			r.Settle()
			sent.checkUntouched()
			if _, n, ok := r.TakeUsed(); ok && int(n) > in {
				t.Errorf("%s with %d + %d bytes: device says that it has written %d", req.Name, len(out), in, n)
			}
			sent.Free()
		}
		for _, n := range steps(len(req.Out)) {
			try(req.Out[:n], req.In)
			try(req.Out[:n], 0)
		}
		for _, n := range steps(req.In) {
			try(req.Out, n)
			try(nil, n)
		}
		try(make([]byte, req.In), len(req.Out))
		try(make([]byte, 70000), 70000)
	}
	s.recovers(d)
}

// steps are the numbers up to n, thinned out when there are many.
func steps(n int) []int {
	var s []int
	for i := 0; i <= n; i++ {
		if i < 64 || i > n-20 || i%509 == 0 {
			s = append(s, i)
		}
	}
	return s
}

// hostileStatus breaks the order of 3.1.1 (26).
func (s Suite) hostileStatus(t *testing.T) {
	d := s.NewDriver(t)
	for _, c := range []struct {
		write []uint32
		want  uint32
	}{
		{[]uint32{DriverBit}, 0},
		{[]uint32{DriverOK}, 0},
		{[]uint32{FeaturesOK}, 0},
		{[]uint32{NeedsReset}, 0},
		{[]uint32{Acknowledge, Acknowledge | DriverOK}, Acknowledge},
		{[]uint32{Acknowledge | DriverBit, Acknowledge | DriverBit | DriverOK}, Acknowledge | DriverBit},
		// VERSION_1 was not negotiated.
		{[]uint32{Acknowledge | DriverBit | FeaturesOK | DriverOK}, Acknowledge | DriverBit},
		// A driver cannot clear single bits, nor set what is the device's or nobody's.
		{[]uint32{Acknowledge | DriverBit, Acknowledge}, Acknowledge | DriverBit},
		{[]uint32{0xffffff30 | Acknowledge}, Acknowledge},
		{[]uint32{Acknowledge, Failed}, Acknowledge | Failed},
		{[]uint32{Acknowledge, 0}, 0},
	} {
		d.Reset()
		for _, v := range c.write {
			d.Write(RegStatus, v)
		}
		if got := d.Status(); got != c.want {
			t.Errorf("status after %#x = %#x, want %#x", c.write, got, c.want)
		}
	}
	// DRIVER_OK after FAILED starts nothing.
	if !d.Negotiate(all(d)) {
		t.Fatal("features refused")
	}
	d.Write(RegStatus, Failed)
	d.Write(RegStatus, Acknowledge|DriverBit|FeaturesOK|DriverOK)
	if d.Status()&DriverOK != 0 {
		t.Error("DRIVER_OK was accepted after FAILED")
	}
	// Queues configured before FEATURES_OK are not.
	d.Reset()
	d.Write(RegStatus, Acknowledge|DriverBit)
	d.enable(newRing(d, 0, 1))
	if d.Read(RegQueueReady) != 0 {
		t.Error("a queue became ready before FEATURES_OK")
	}
	s.recovers(d)
	// DRIVER_OK twice is once.
	d.Write(RegStatus, Acknowledge|DriverBit|FeaturesOK|DriverOK)
	s.each(d, Layout{})
}

// hostileReset resets while requests are under way, over and over, and starts on the same memory (26).
func (s Suite) hostileReset(t *testing.T) {
	d := s.NewDriver(t)
	for range 60 {
		d.Mem.next = 0x1000
		d.Start(all(d))
		for _, req := range s.Requests {
			if req.Needs&^d.Features == 0 {
				r := d.Rings[req.Queue]
				r.Offer(r.Place(req, Layout{Table: d.Features&IndirectDesc != 0}).head)
			}
		}
		for _, r := range d.Rings {
			r.Kick()
		}
	}
	s.recovers(d)
}
