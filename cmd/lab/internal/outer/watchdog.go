package outer

import (
	"fmt"
	"io"
	"time"

	"github.com/hullvm/hull/cmd/lab/internal/wire"
)

// A machine that does not answer is judged by what its emulator does meanwhile, not
// by the clock alone: a busy host makes a machine slow but does not break it, and one
// that hangs either spins in its kernel or waits for something that never comes.
const (
	bootLimit    = 60 * time.Second // of CPU time: some ten times what booting needs
	silenceLimit = 40 * time.Second // of CPU time: 20 s with both CPUs of a machine spinning
	// deterministicFactor is how much slower instructions are counted than run.
	deterministicFactor = 3
	// idleLimit is for a machine that neither answers nor does anything: time by the clock without the
	// time that its emulator waited for one of the host's CPUs.
	idleLimit = time.Minute
	// pingInterval is how often the machine is asked, by the clock.
	pingInterval = time.Second
)

// patience decides when a silent machine counts as hung.
type patience struct {
	busy, idle time.Duration // limits since the last answer
	last       time.Time     // time of the last answer, and
	usage      usage         // what the emulator had used by then
}

func (p *patience) answered(u usage, now time.Time) { p.usage, p.last = u, now }

// over says why patience is at its end, or "".
func (p *patience) over(u usage, now time.Time) string {
	ran, queued, silent := u.ran-p.usage.ran, u.queued-p.usage.queued, now.Sub(p.last)
	if ran > p.busy {
		return fmt.Sprintf("no answer while its emulator used %.0f s of CPU time", ran.Seconds())
	}
	if silent-queued-ran > p.idle {
		return fmt.Sprintf("no answer for %.0f s, of which its emulator ran %.0f s and waited for a CPU %.0f s",
			silent.Seconds(), ran.Seconds(), queued.Seconds())
	}
	return ""
}

// supervise watches the machine until it ends, and ends it when it hangs.
func (m *Machine) supervise(config Config) {
	defer close(m.done)
	defer m.release()
	factor := time.Duration(1)
	if config.Deterministic {
		factor = deterministicFactor
	}
	p := patience{busy: bootLimit * factor, idle: idleLimit}
	p.answered(usage{}, time.Now())
	answers := make(chan struct{})
	go m.ping(answers, pingInterval*factor)
	tick := time.NewTicker(pingInterval)
	defer tick.Stop()
	booted := false
	for {
		select {
		case <-m.closing:
			return
		case <-m.qemu.done:
			m.err = m.failure("QEMU ended")
			return
		case <-m.files.done:
			m.err = m.failure("virtiofsd ended")
			return
		case <-answers:
			if !booted {
				booted = true
				p.busy = silenceLimit * factor
				close(m.ready)
			}
			p.answered(m.qemu.usage(), time.Now())
		case <-tick.C:
			if why := p.over(m.qemu.usage(), time.Now()); why != "" {
				if !booted {
					why = "it did not start: " + why
				}
				m.err = m.failure(why)
				return
			}
		}
	}
}

// ping asks the machine again and again, one question at a time, and reports each answer.
// It has a goroutine of its own because writing to a hung machine may block.
func (m *Machine) ping(answers chan<- struct{}, interval time.Duration) {
	stream, err := m.session.Open()
	if err != nil {
		return
	}
	defer stream.Close()
	next := time.NewTicker(interval)
	defer next.Stop()
	for {
		if wire.Write(stream, wire.KindPing, nil) != nil {
			return
		}
		if kind, _, err := wire.Read(io.Reader(stream)); err != nil || kind != wire.KindPong {
			return
		}
		select {
		case answers <- struct{}{}:
		case <-m.done:
			return
		}
		select {
		case <-next.C:
		case <-m.done:
			return
		}
	}
}

// failure describes the end of a machine with what its programs and its console
// said last.
func (m *Machine) failure(why string) error {
	text := ""
	for _, part := range []struct{ who, said string }{
		{"QEMU", m.qemu.tail.lines(5)},
		{"virtiofsd", m.files.tail.lines(3)},
		{"console", m.console.lines(12)},
	} {
		if part.said != "" {
			text += fmt.Sprintf("\n%s: %s", part.who, part.said)
		}
	}
	return fmt.Errorf("%w: %s%s", ErrMachine, why, text)
}
