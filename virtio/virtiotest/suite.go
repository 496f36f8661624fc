package virtiotest

import (
	"bytes"
	"testing"
)

// Conformance checks what every device must keep. The names of the subtests carry the sections of VIRTIO 1.2.
func (s Suite) Conformance(t *testing.T) {
	for _, c := range []struct {
		name string
		run  func(*Driver, *testing.T)
	}{
		{"4.2.2 identity", s.testIdentity},
		{"2.2 negotiation", s.testNegotiation},
		{"2.5 configuration", s.testConfig},
		{"2.1.2 nothing before DRIVER_OK", s.testNothingBeforeDriverOK},
		{"2.4.1 nothing after reset", s.testNothingAfterReset},
		{"4.2.2 reset clears registers", s.testResetClears},
		{"4.2.2 interrupt status", s.testInterruptStatus},
		{"4.2.2 queue not ready", s.testQueueNotReady},
		{"2.7 ring sizes", s.testRingSizes},
		{"2.7.4.1 layouts", s.testLayouts},
		{"2.7 many requests", s.testManyRequests},
		{"2.7.7 interrupt suppression", s.testInterruptSuppression},
		{"2.7.10 notification suppression", s.testNotificationSuppression},
		{"2.7.10.2 spurious kicks", s.testSpuriousKicks},
		{"2.6.1 queue reset", s.testQueueReset},
		{"pause and resume", s.testPauseResume},
		{"pause and resume under load", s.testPauseUnderLoad},
		{"saved and restored", s.testSaveAndRestore},
		{"state is not trusted", s.testRestoreDoesNotTrust},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(s.NewDriver(t), t) })
	}
}

// all is the device's features, each time asked anew.
func all(d *Driver) uint64 { return d.Offered() }

// first returns the first request that may be sent with features.
func (s Suite) first(features uint64) Request {
	for _, r := range s.Requests {
		if r.Needs&^features == 0 {
			return r
		}
	}
	panic("virtiotest: the suite has no request for these features")
}

// each sends every request that features allow once.
func (s Suite) each(d *Driver, l Layout) {
	d.T.Helper()
	for _, req := range s.Requests {
		if req.Needs&^d.Features == 0 {
			d.Rings[req.Queue].Exchange(req, l)
		}
	}
}

func (s Suite) testIdentity(d *Driver, t *testing.T) {
	for _, w := range []struct {
		name      string
		reg, want uint64
	}{
		{"MagicValue", RegMagicValue, 0x74726976},
		{"Version", RegVersion, 2},
		{"DeviceID", RegDeviceID, uint64(s.New(t).ID())},
		{"Status", RegStatus, 0},
		{"InterruptStatus", RegInterruptStatus, 0},
	} {
		if got := d.Read(w.reg); uint64(got) != w.want {
			t.Errorf("%s = %#x, want %#x", w.name, got, w.want)
		}
	}
	for i, want := range s.New(t).QueueSizes() {
		d.Write(RegQueueSel, uint32(i))
		if got := d.Read(RegQueueNumMax); got != uint32(want) {
			t.Errorf("QueueNumMax of queue %d = %d, want %d", i, got, want)
		}
	}
	d.Write(RegQueueSel, uint32(len(d.Rings)))
	if got := d.Read(RegQueueNumMax); got != 0 {
		t.Errorf("QueueNumMax of a queue that is not there = %d, want 0", got)
	}
	// 4.2.2: a shared memory region that is not there has a length of all ones.
	d.Write(RegSHMSel, 77)
	for _, reg := range []uint64{RegSHMLenLow, RegSHMLenLow + 4, RegSHMBaseLow, RegSHMBaseLow + 4} {
		if got := d.Read(reg); got != ^uint32(0) {
			t.Errorf("register %#x of a shared memory region that is not there = %#x, want all ones", reg, got)
		}
	}
}

func (s Suite) testNegotiation(d *Driver, t *testing.T) {
	offered := d.Offered()
	if offered&Version1 == 0 {
		t.Error("VIRTIO_F_VERSION_1 is not offered (6.1)")
	}
	d.Write(RegDeviceFeaturesSel, 2)
	if got := d.Read(RegDeviceFeatures); got != 0 {
		t.Errorf("features 64 to 95 = %#x, want none", got)
	}
	if d.Negotiate(offered &^ Version1) {
		t.Error("accepted a driver without VIRTIO_F_VERSION_1")
	}
	for bit := range 64 {
		if extra := uint64(1) << bit; offered&extra == 0 && d.Negotiate(offered|extra) {
			t.Errorf("accepted bit %d, which was not offered", bit)
		}
	}
	// Bits that a driver writes beyond those that there are.
	d.Reset()
	d.Write(RegStatus, Acknowledge|DriverBit)
	d.Write(RegDriverFeaturesSel, 1)
	d.Write(RegDriverFeatures, uint32(Version1>>32))
	d.Write(RegDriverFeaturesSel, 3)
	d.Write(RegDriverFeatures, 1)
	d.Write(RegStatus, Acknowledge|DriverBit|FeaturesOK)
	if d.Status()&FeaturesOK != 0 {
		t.Error("accepted bit 96")
	}
	// The same set again after a reset (2.2.2), and each set served.
	for _, f := range []uint64{Version1, offered, Version1 | EventIdx, Version1 | IndirectDesc, offered, Version1} {
		if f &= offered; !s.serves(f) {
			continue
		}
		d.Start(f)
		s.each(d, Layout{})
		// After FEATURES_OK the features stand (3.1.1).
		d.Write(RegDriverFeaturesSel, 0)
		d.Write(RegDriverFeatures, 0)
		s.each(d, Layout{})
	}
}

// serves reports whether there is a request for features.
func (s Suite) serves(features uint64) bool {
	for _, r := range s.Requests {
		if r.Needs&^features == 0 {
			return true
		}
	}
	return false
}

func (s Suite) testConfig(d *Driver, t *testing.T) {
	want := d.Config(0, s.ConfigLen)
	for _, width := range []int{1, 2, 4, 8} {
		for off := 0; off+width <= s.ConfigLen; off++ {
			p := make([]byte, width)
			d.Dev.Read(RegConfig+uint64(off), p)
			if !bytes.Equal(p, want[off:off+width]) {
				t.Errorf("%d bytes of configuration at %d = %x, want %x", width, off, p, want[off:off+width])
			}
		}
	}
	gen := d.Read(RegConfigGeneration)
	d.Start(all(d))
	if got := d.Config(0, s.ConfigLen); !bytes.Equal(got, want) {
		t.Errorf("configuration after DRIVER_OK = %x, before %x", got, want)
	}
	if got := d.Read(RegConfigGeneration); got != gen {
		t.Errorf("ConfigGeneration went from %d to %d though nothing has changed", gen, got)
	}
}

func (s Suite) testNothingBeforeDriverOK(d *Driver, t *testing.T) {
	features := all(d)
	req := s.first(features)
	if !d.Negotiate(features) {
		t.Fatal("features refused")
	}
	for i := range d.Rings {
		d.SetUp(i, 0)
	}
	r := d.Rings[req.Queue]
	sent := r.Place(req, Layout{})
	r.Offer(sent.head)
	before := d.Mem.Snapshot()
	r.Kick()
	if n := d.Line.Edges(); n != 0 {
		t.Errorf("%d interrupts before DRIVER_OK", n)
	}
	if at, changed := d.Mem.Changed(before); changed {
		t.Errorf("memory at %#x was written before DRIVER_OK", at)
	}
	d.Write(RegStatus, Acknowledge|DriverBit|FeaturesOK|DriverOK)
	id, n := r.AwaitUsed()
	sent.Finish(id, n)
}

func (s Suite) testNothingAfterReset(d *Driver, t *testing.T) {
	d.Start(all(d))
	req := s.first(d.Features)
	r := d.Rings[req.Queue]
	for range 4 {
		r.Offer(r.Place(req, Layout{}).head)
	}
	r.Kick()
	d.Write(RegStatus, 0) // in the midst of it
	if got := d.Status(); got != 0 {
		t.Errorf("status after reset = %#x", got)
	}
	edges := d.Line.Edges()
	r.Offer(r.Place(req, Layout{}).head)
	before := d.Mem.Snapshot()
	r.Kick()
	d.Write(RegStatus, Acknowledge|DriverBit)
	r.Kick()
	if err := d.Dev.Pause(); err != nil { // and nothing runs that could come late
		t.Fatal(err)
	}
	if at, changed := d.Mem.Changed(before); changed {
		t.Errorf("memory at %#x was written after reset", at)
	}
	if n := d.Line.Edges(); n != edges {
		t.Errorf("%d interrupts after reset", n-edges)
	}
	if err := d.Dev.Resume(); err != nil {
		t.Fatal(err)
	}
	// 2.4: the driver may start all over.
	d.Start(all(d))
	s.each(d, Layout{})
}

func (s Suite) testResetClears(d *Driver, t *testing.T) {
	d.Start(all(d))
	s.each(d, Layout{})
	d.Reset()
	if got := d.Read(RegInterruptStatus); got != 0 {
		t.Errorf("InterruptStatus after reset = %#x, want 0", got)
	}
	for i := range d.Rings {
		d.Write(RegQueueSel, uint32(i))
		if d.Read(RegQueueReady) != 0 {
			t.Errorf("queue %d is ready after reset", i)
		}
	}
}

func (s Suite) testInterruptStatus(d *Driver, t *testing.T) {
	d.Start(all(d))
	req := s.first(d.Features)
	d.Rings[req.Queue].Exchange(req, Layout{})
	// The bit is set before the edge, but the entry of the used ring comes before both.
	d.await("InterruptStatus", func() bool { return d.Read(RegInterruptStatus) != 0 })
	if got := d.Read(RegInterruptStatus); got != 1 {
		t.Errorf("InterruptStatus after a used buffer = %#x, want 1", got)
	}
	d.Write(RegInterruptACK, 2)
	if got := d.Read(RegInterruptStatus); got != 1 {
		t.Errorf("InterruptStatus after another bit was acknowledged = %#x, want 1", got)
	}
	d.Write(RegInterruptACK, 1)
	if got := d.Read(RegInterruptStatus); got != 0 {
		t.Errorf("InterruptStatus after ACK = %#x, want 0", got)
	}
}

func (s Suite) testQueueNotReady(d *Driver, t *testing.T) {
	d.Start(all(d))
	req := s.first(d.Features)
	r := d.Rings[req.Queue]
	r.Exchange(req, Layout{})
	r.Quiesce()
	d.Write(RegQueueSel, uint32(req.Queue))
	d.Write(RegQueueReady, 0)
	if got := d.Read(RegQueueReady); got != 0 {
		t.Errorf("QueueReady = %d after 0 was written", got)
	}
	r.Offer(r.Place(req, Layout{}).head)
	before := d.Mem.Snapshot()
	r.Kick()
	if err := d.Dev.Pause(); err != nil {
		t.Fatal(err)
	}
	if at, changed := d.Mem.Changed(before); changed {
		t.Errorf("memory at %#x was written though the queue is not ready", at)
	}
}

func (s Suite) testRingSizes(d *Driver, t *testing.T) {
	for i := range d.Rings {
		d.Write(RegQueueSel, uint32(i))
		for size := d.Read(RegQueueNumMax); size > 0; size >>= 1 {
			if !d.Negotiate(all(d)) {
				t.Fatal("features refused")
			}
			for j := range d.Rings {
				n := uint16(1)
				if j == i {
					n = uint16(size)
				}
				d.SetUp(j, n)
			}
			d.Write(RegStatus, Acknowledge|DriverBit|FeaturesOK|DriverOK)
			for _, req := range s.Requests {
				if req.Queue == i && req.Needs&^d.Features == 0 && d.Features&IndirectDesc != 0 {
					for range 3 {
						d.Rings[i].Exchange(req, Layout{Table: true})
					}
				}
			}
			d.Write(RegQueueSel, uint32(i))
		}
	}
}

func (s Suite) testLayouts(d *Driver, t *testing.T) {
	for _, l := range layouts {
		d.Start(all(d))
		if l.Needs()&^d.Features != 0 {
			continue
		}
		d.T = t
		s.each(d, l)
		if t.Failed() {
			t.Fatalf("with layout %q", l.Name)
		}
	}
}

// testManyRequests keeps the ring full for a few rounds and takes the answers in any order.
func (s Suite) testManyRequests(d *Driver, t *testing.T) {
	for _, features := range []uint64{Version1, all(d)} {
		if !s.serves(features) {
			continue
		}
		d.Mem = freshAllocator(d.Mem)
		d.StartSize(features, 16)
		req := s.first(features)
		r := d.Rings[req.Queue]
		flying := map[uint32]*Sent{}
		for r.unused() >= 6 {
			one := r.Place(req, Layout{})
			flying[uint32(one.head)] = one
		}
		for _, one := range flying {
			r.Offer(one.head)
		}
		r.KickIfWanted()
		for range 40 * len(flying) {
			id, n := r.AwaitUsed()
			one := flying[id]
			if one == nil {
				t.Fatalf("used entry for %d, which is not in flight", id)
			}
			one.Finish(id, n)
			one.Again()
			r.Offer(one.head)
			r.KickIfWanted()
		}
	}
}

// freshAllocator returns the same memory with nothing allocated.
func freshAllocator(m *Memory) *Memory {
	m.next = 0x1000
	return m
}

func (s Suite) testPauseResume(d *Driver, t *testing.T) {
	d.Start(all(d))
	for range 3 {
		s.each(d, Layout{})
		if err := d.Dev.Pause(); err != nil {
			t.Fatal(err)
		}
		req := s.first(d.Features)
		r := d.Rings[req.Queue]
		sent := r.Place(req, Layout{})
		r.Offer(sent.head)
		before := d.Mem.Snapshot()
		r.Kick()
		if at, changed := d.Mem.Changed(before); changed {
			t.Errorf("memory at %#x was written while the device was paused", at)
		}
		if err := d.Dev.Resume(); err != nil {
			t.Fatal(err)
		}
		id, n := r.AwaitUsed()
		sent.Finish(id, n)
	}
	if got := d.Status(); got&NeedsReset != 0 {
		t.Errorf("status = %#x: %v", got, d.Dev.Failure())
	}
}

// testPauseUnderLoad stops and starts the device while requests come: every one is answered exactly once.
func (s Suite) testPauseUnderLoad(d *Driver, t *testing.T) {
	d.Start(all(d))
	req := s.first(d.Features)
	r := d.Rings[req.Queue]
	var sent []*Sent
	for range min(8, int(r.Size)/8) {
		sent = append(sent, r.Place(req, Layout{}))
	}
	byHead := map[uint32]*Sent{}
	for _, one := range sent {
		byHead[uint32(one.head)] = one
	}
	for round := range 50 {
		for _, one := range sent {
			one.Again()
			r.Offer(one.head)
		}
		r.Kick()
		if err := d.Dev.Pause(); err != nil {
			t.Fatal(err)
		}
		if err := d.Dev.Resume(); err != nil {
			t.Fatal(err)
		}
		answered := map[uint32]bool{}
		for range sent {
			id, n := r.AwaitUsed()
			if byHead[id] == nil || answered[id] {
				t.Fatalf("round %d: a second or a wrong answer for %d", round, id)
			}
			answered[id] = true
			byHead[id].Finish(id, n)
		}
	}
}
