package virtiotest

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
)

// hostileFlip has a second thread change descriptors, tables, headers and ring fields while requests are served (15).
// The device may give up; it must not do anything else, and after a reset it works.
func (s Suite) hostileFlip(t *testing.T) {
	d := s.NewDriverIn(t, NewMappedMemory(t))
	rounds := 40
	if testing.Short() {
		rounds = 5
	}
	gaveUp := 0
	for round := range rounds {
		d.Mem.next = 0x1000
		d.StartSize(all(d), 0)
		var sent []*Sent
		for _, req := range s.Requests {
			if req.Needs&^d.Features == 0 {
				l := layouts[rand.IntN(len(layouts))]
				if l.Needs()&^d.Features != 0 {
					l = Layout{Piece: 5}
				}
				sent = append(sent, d.Rings[req.Queue].Place(req, l))
			}
		}
		stop, wg := flip(d.Mem, targets(d, sent, round))
		for range 100 {
			for _, one := range sent {
				one.r.Offer(one.head)
				one.r.Kick()
			}
			if d.Status()&NeedsReset != 0 {
				gaveUp++
				break
			}
		}
		if round%2 == 0 {
			d.Write(RegStatus, 0) // in the midst of it
		} else {
			for _, q := range s.queues() {
				d.Rings[q].Settle()
			}
		}
		stop.Store(true)
		wg.Wait()
		d.Reset()
	}
	t.Logf("the device gave up in %d of %d rounds", gaveUp, rounds)
	s.recovers(d)
}

// targets lists the memory to flip: more in later rounds.
func targets(d *Driver, sent []*Sent, round int) []span {
	var ts []span
	for _, s := range sent {
		for _, o := range s.out {
			ts = append(ts, span{o.gpa, min(o.n, 64)})
		}
		if round%4 > 0 && s.table.n > 0 {
			ts = append(ts, s.table)
		}
		if round%4 > 1 {
			for _, i := range s.used {
				ts = append(ts, span{s.r.Desc + 16*uint64(i), 16})
			}
		}
		if round%4 > 2 {
			ts = append(ts, span{s.r.Avail, 6 + 2*int(s.r.Size)})
		}
	}
	return ts
}

// flip changes random bytes of the targets and puts them back, until stop is set.
func flip(m *Memory, targets []span) (stop *atomic.Bool, wg *sync.WaitGroup) {
	stop, wg = new(atomic.Bool), new(sync.WaitGroup)
	if len(targets) == 0 {
		return stop, wg
	}
	rng := rand.New(rand.NewPCG(1, uint64(len(targets))))
	wg.Go(func() {
		for !stop.Load() {
			s := targets[rng.IntN(len(targets))]
			p := m.Bytes(s.gpa, s.n)
			i, was := rng.IntN(len(p)), byte(0)
			was = p[i]
			p[i] = byte(rng.Uint32())
			for range rng.IntN(200) { // a while that the device can see it in
				_ = stop.Load()
			}
			if rng.IntN(8) > 0 {
				p[i] = was
			}
		}
	})
	return stop, wg
}
