package outer

import (
	"fmt"
	"io"
	"time"

	"github.com/hullvm/hull/cmd/lab/internal/wire"
)

// A machine that does not answer is judged by the CPU time its emulator has used
// meanwhile, not by the clock: a busy host makes a machine slow but does not break it, and one that
// hangs does so by spinning in its kernel.
const (
	bootLimit    = 60 * time.Second // some ten times what booting needs
	silenceLimit = 40 * time.Second // 20 s with both CPUs of a machine spinning
	// deterministicFactor is how much slower instructions are counted than run.
	deterministicFactor = 3
	// deadlockLimit is for a machine that neither answers nor does anything: by the clock.
	deadlockLimit = 5 * time.Minute
	// pingInterval is how often the machine is asked, by the clock.
	pingInterval = time.Second
)

// patience decides when a silent machine counts as hung.
type patience struct {
	cpu, wall time.Duration // limits since the last answer
	lastCPU   time.Duration // emulator's CPU time at the last answer
	last      time.Time     // time of the last answer
}

func (p *patience) answered(cpu time.Duration, now time.Time) { p.lastCPU, p.last = cpu, now }

// over says why patience is at its end, or "".
func (p *patience) over(cpu time.Duration, now time.Time) string {
	if used := cpu - p.lastCPU; used > p.cpu {
		return fmt.Sprintf("no answer while its emulator used %.0f s of CPU time", used.Seconds())
	}
	if silent := now.Sub(p.last); silent > p.wall {
		return fmt.Sprintf("no answer for %.0f s and nothing going on", silent.Seconds())
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
	p := patience{cpu: bootLimit * factor, wall: deadlockLimit}
	p.answered(0, time.Now())
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
				p.cpu = silenceLimit * factor
				close(m.ready)
			}
			p.answered(m.qemu.cpuTime(), time.Now())
		case <-tick.C:
			if why := p.over(m.qemu.cpuTime(), time.Now()); why != "" {
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
