package net

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/hullvm/hull/virtio"
	"github.com/hullvm/hull/virtio/virtiotest"
)

// switched is a peer that knows whether its pair is in use.
type switched struct {
	peer
	attached bool
	fail     error // of the next Attach(true)
}

func (s *switched) Attach(on bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if on && s.fail != nil {
		return s.fail
	}
	s.attached = on
	return nil
}

func (s *switched) isAttached() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.attached
}

const (
	testPairs    = 3
	ctrlQueue    = 2 * testPairs // with MQ
	ctrlQueueOne = 2             // without
	pairFeatures = 1<<F_CTRL_VQ | 1<<F_MQ | 1<<F_MRG_RXBUF | virtiotest.Version1
)

// several makes a device of testPairs pairs.
func several(t testing.TB, endless *packet) (*Device, []*switched) {
	t.Helper()
	cfg := Config{MAC: mac}
	var peers []*switched
	for range testPairs {
		s := &switched{peer: peer{offloads: allOffloads, endless: endless}, attached: true}
		peers = append(peers, s)
		cfg.Backends = append(cfg.Backends, s)
	}
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return d, peers
}

// setPairs is the command of 5.1.6.5.5.
func setPairs(n uint16) []byte {
	return binary.LittleEndian.AppendUint16([]byte{ctrlMQ, ctrlMQVQPairsSet}, n)
}

func answer(want byte) func(testing.TB, []byte, int) {
	return func(t testing.TB, in []byte, written int) {
		t.Helper()
		if written != 1 || in[0] != want {
			t.Errorf("%d bytes, ack %d, want %d", written, in[0], want)
		}
	}
}

// anyAnswer is for commands that fail while the suite has some other queue reset.
func anyAnswer(t testing.TB, in []byte, written int) {
	t.Helper()
	if written != 1 || in[0] > ctrlErr {
		t.Errorf("%d bytes, ack %d", written, in[0])
	}
}

// pairSuite is the device with several pairs; requests to the control queue need what gives it its place.
var pairSuite = virtiotest.Suite{
	New: func(t testing.TB) virtio.Device {
		d, _ := several(t, &packet{frame: frame(100, 7)})
		return d
	},
	Connect:   connect,
	ConfigLen: configLen,
	Requests: []virtiotest.Request{
		suite.Requests[0], suite.Requests[2], suite.Requests[3], // the longest frame would take too much memory for nine queues
		{Name: "three pairs", Queue: ctrlQueue, Needs: 1<<F_CTRL_VQ | 1<<F_MQ, Out: setPairs(3), In: 1, Check: anyAnswer},
		{Name: "one pair", Queue: ctrlQueue, Needs: 1<<F_CTRL_VQ | 1<<F_MQ, Out: setPairs(1), In: 1, Check: anyAnswer},
		{Name: "no pair", Queue: ctrlQueue, Needs: 1<<F_CTRL_VQ | 1<<F_MQ, Out: setPairs(0), In: 1, Check: answer(ctrlErr)},
		{Name: "promiscuous", Queue: ctrlQueue, Needs: 1<<F_CTRL_VQ | 1<<F_MQ, Out: []byte{0, 0, 1}, In: 1, Check: answer(ctrlErr)},
		{Name: "transmit by the last pair", Queue: 2*(testPairs-1) + txQueue, Needs: 1<<F_CTRL_VQ | 1<<F_MQ, Out: out(Header{}, frame(60, 1)), Check: transmitted},
	},
}

func TestPairSuite(t *testing.T) { virtiotest.Run(t, pairSuite) }

func FuzzPairRing(f *testing.F)      { pairSuite.FuzzRing(f) }
func FuzzPairRegisters(f *testing.F) { pairSuite.FuzzRegisters(f) }

// pairDriver is a driver of a device with several pairs.
func pairDriver(t *testing.T, features uint64) (*virtiotest.Driver, *Device, []*switched) {
	t.Helper()
	d, peers := several(t, nil)
	s := pairSuite
	s.New = func(testing.TB) virtio.Device { return d }
	drv := s.NewDriver(t)
	drv.Start(features)
	return drv, d, peers
}

// command sends one on the control queue and checks the answer.
func command(r *virtiotest.Ring, cmd []byte, want byte) {
	r.Exchange(virtiotest.Request{Name: "command", Queue: r.Index, Out: cmd, In: 1, Check: answer(want)}, virtiotest.Layout{})
}

func checkAttached(t *testing.T, peers []*switched, want int) {
	t.Helper()
	for i, p := range peers {
		if p.isAttached() != (i < want) {
			t.Errorf("pair %d: in use: %v, with %d pairs", i, p.isAttached(), want)
		}
	}
}

func TestPairs(t *testing.T) {
	drv, _, peers := pairDriver(t, pairFeatures)
	if got := binary.LittleEndian.Uint16(drv.Config(8, 2)); got != testPairs {
		t.Errorf("max_virtqueue_pairs = %d", got)
	}
	checkAttached(t, peers, 1) // 5.1.6.5.5: until the driver says more
	ctrl := drv.Rings[ctrlQueue]
	for i := range testPairs {
		offer(drv.Rings[2*i+rxQueue], 4, 200)
	}
	for round, n := range []uint16{3, 1, 2, 3} {
		command(ctrl, setPairs(n), ctrlOK)
		checkAttached(t, peers, int(n))
		for i, p := range peers {
			r := drv.Rings[2*i+rxQueue]
			p.bring(packet{frame: frame(60+i, byte(round))})
			if i < int(n) {
				if _, written := r.AwaitUsed(); written != HeaderSize+uint32(60+i) {
					t.Fatalf("pair %d of %d: %d bytes", i, n, written)
				}
				continue
			}
			// Nobody serves its queue, so nothing has to be waited for.
			if _, _, ok := r.TakeUsed(); ok {
				t.Fatalf("a frame came by pair %d of %d", i, n)
			}
			p.Drop()
		}
	}
	for i, p := range peers { // each transmit queue has its own backend
		r := drv.Rings[2*i+txQueue]
		r.Exchange(virtiotest.Request{Name: "frame", Queue: r.Index, Out: out(Header{}, frame(60, byte(i))), Check: transmitted}, virtiotest.Layout{})
		if got := p.received(); len(got) != 1 || got[0].frame[0] != frame(1, byte(i))[0] {
			t.Errorf("pair %d: %d frames arrived", i, len(got))
		}
	}
	// A pause keeps the number, a reset does not.
	if err := drv.Dev.Pause(); err != nil {
		t.Fatal(err)
	}
	if err := drv.Dev.Resume(); err != nil {
		t.Fatal(err)
	}
	checkAttached(t, peers, 3)
	drv.Start(pairFeatures)
	checkAttached(t, peers, 1)
}

func TestControlCommands(t *testing.T) {
	drv, d, peers := pairDriver(t, pairFeatures)
	ctrl := drv.Rings[ctrlQueue]
	for name, cmd := range map[string][]byte{
		"nothing":           nil,
		"half a head":       {ctrlMQ},
		"no count":          {ctrlMQ, ctrlMQVQPairsSet},
		"half a count":      {ctrlMQ, ctrlMQVQPairsSet, 1},
		"more than a count": {ctrlMQ, ctrlMQVQPairsSet, 1, 0, 0},
		"no pair":           setPairs(0),
		"one pair too many": setPairs(testPairs + 1),
		"65535 pairs":       setPairs(65535),
		"RSS":               {ctrlMQ, 1, 1, 0},
		"receive mode":      {0, 0, 1, 0},
		"MAC table":         {1, 0, 0, 0},
		"VLAN":              {2, 0, 1, 0},
		"announcement":      {3, 0, 0, 0},
		"offloads":          {5, 0, 1, 0, 0, 0, 0, 0, 0, 0},
		"class of nobody":   {255, 255, 1, 0},
		"a lot of zeros":    make([]byte, 100000),
	} {
		if len(cmd) == 0 { // nothing but room for the answer
			sent := ctrl.Place(virtiotest.Request{Name: name, Queue: ctrlQueue, In: 1, Check: answer(ctrlErr)}, virtiotest.Layout{})
			ctrl.Offer(sent.Head())
			ctrl.Kick()
			sent.Finish(ctrl.AwaitUsed())
			sent.Free()
			continue
		}
		command(ctrl, cmd, ctrlErr)
		if t.Failed() {
			t.Fatal(name)
		}
	}
	checkAttached(t, peers, 1)

	// Without room for an answer nothing is done.
	ctrl.Exchange(virtiotest.Request{Name: "no room", Queue: ctrlQueue, Out: setPairs(2), Check: transmitted}, virtiotest.Layout{})
	checkAttached(t, peers, 1)
	// With more room than the answer needs, only the answer is written.
	ctrl.Exchange(virtiotest.Request{Name: "room", Queue: ctrlQueue, Out: setPairs(2), In: 100, Check: answer(ctrlOK)}, virtiotest.Layout{Piece: 1})
	checkAttached(t, peers, 2)

	// A backend that cannot: the driver hears of it, and all is as before.
	peers[2].fail = errors.New("no")
	command(ctrl, setPairs(3), ctrlErr)
	checkAttached(t, peers, 2)
	if d.used != 2 {
		t.Errorf("%d pairs are in use", d.used)
	}
}

// The control queue comes after the pairs that were negotiated, and is not there without its feature (5.1.2).
func TestControlQueueWithoutMQ(t *testing.T) {
	drv, _, peers := pairDriver(t, pairFeatures&^(1<<F_MQ))
	command(drv.Rings[ctrlQueueOne], setPairs(1), ctrlErr)
	command(drv.Rings[ctrlQueueOne], []byte{0, 0, 1}, ctrlErr)
	checkAttached(t, peers, 1)

	drv.Start(pairFeatures &^ (1<<F_MQ | 1<<F_CTRL_VQ))
	for _, i := range []int{ctrlQueueOne, ctrlQueue} {
		r := drv.Rings[i]
		r.Offer(r.Place(virtiotest.Request{Name: "command", Queue: i, Out: setPairs(1), In: 1}, virtiotest.Layout{}).Head())
		r.Kick()
	}
	if err := drv.Dev.Pause(); err != nil {
		t.Fatal(err)
	}
	for _, i := range []int{ctrlQueueOne, ctrlQueue} {
		if drv.Rings[i].UsedIdx() != 0 {
			t.Errorf("queue %d answers", i)
		}
	}
}

// A pair whose queues are not there cannot be used, and one whose queue is reset is not.
func TestPairWithoutQueues(t *testing.T) {
	drv, _, peers := pairDriver(t, pairFeatures|virtiotest.RingReset)
	reset := func(q int) {
		drv.Write(virtiotest.RegQueueSel, uint32(q))
		drv.Write(virtiotest.RegQueueReset, 1)
	}
	command(drv.Rings[ctrlQueue], setPairs(2), ctrlOK)
	reset(2 + rxQueue)
	checkAttached(t, peers, 1)
	command(drv.Rings[ctrlQueue], setPairs(2), ctrlErr)
	drv.SetUp(2+rxQueue, 0)
	checkAttached(t, peers, 2)
	reset(4 + txQueue)
	command(drv.Rings[ctrlQueue], setPairs(3), ctrlErr)
	checkAttached(t, peers, 2)
}
