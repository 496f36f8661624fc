package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// bench is what all measurements share.
type bench struct {
	dir        string // temporary files
	hull, qemu string // programs
	guest      string // files in dir, as are the next
	disk       string
	vsock      string // the Unix socket of the guest's socket device
	clock      *clock
	drain      func(io.Reader) error // what reads streams
}

// sample is one measurement. All figures are those of one request.
type sample struct {
	took       time.Duration
	cpu        time.Duration // of all threads of the monitor but the vCPU's
	exits      float64
	interrupts float64
}

// patience is how long a guest may take for one row.
const patience = time.Minute

// measure runs the guest once under m.
func (b *bench) measure(ctx context.Context, m monitor, r row) (_ sample, err error) {
	defer func() {
		if err != nil && ctx.Err() == nil {
			err = fmt.Errorf("%s under %s: %w", r.name, m.name, err)
		}
	}()
	file := filepath.Join(b.dir, "work")
	if err := os.WriteFile(file, r.work.bytes(m.window), 0o600); err != nil {
		return sample{}, err
	}
	peer, err := b.newPeer(r.work)
	if err != nil {
		return sample{}, err
	}
	p, err := m.start(b, r, file, peer.files())
	if err != nil {
		return sample{}, errors.Join(err, peer.end())
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	// Ended from outside, the guest's serial port ends.
	stop := context.AfterFunc(ctx, func() { _ = p.cmd.Process.Kill() })
	defer stop()
	s, err := b.converse(p, peer, r.work)
	said := p.end()
	if err != nil {
		return sample{}, errors.Join(fmt.Errorf("%w\n%s", err, strings.TrimSpace(said)), ctx.Err(), peer.end())
	}
	return s, peer.end()
}

// converse talks to the guest on its serial port.
func (b *bench) converse(p *process, peer peer, w work) (sample, error) {
	out := bufio.NewReader(p.out)
	if _, err := listen(out, 'R', 0); err != nil {
		return sample{}, err
	}
	peer.start()
	before, err := readAccount(p.cmd.Process.Pid)
	if err != nil {
		return sample{}, err
	}
	began := rdtsc()
	if _, err := p.in.Write([]byte{'g'}); err != nil {
		return sample{}, err
	}
	said, err := listen(out, 'E', 5)
	if err != nil {
		return sample{}, err
	}
	wall := rdtsc() - began
	after, err := readAccount(p.cmd.Process.Pid)
	if err != nil {
		return sample{}, err
	}
	ticks, requests, wrong, kicks, interrupts := said[0], said[1], said[2], said[3], said[4]
	switch {
	case wrong != 0:
		return sample{}, fmt.Errorf("%d of %d requests failed or brought wrong data", wrong, requests)
	case requests < w.Count*w.unit():
		return sample{}, fmt.Errorf("%d requests of %d were answered", requests, w.Count*w.unit())
	case ticks > wall: // neither monitor is known to scale the counter, which a processor can do
		return sample{}, fmt.Errorf("the guest's clock does not agree with the host's: it counted %d ticks, the host %d", ticks, wall)
	}
	if w.Kind == kindRegister {
		kicks = requests // each is an exit
	}
	n := float64(requests) / float64(w.unit())
	return sample{
		took: b.clock.duration(float64(ticks) / n),
		cpu:  time.Duration(float64(after.cpuSince(before)) / n),
		// A notification each, or an interrupt's InterruptStatus and InterruptACK.
		exits:      float64(kicks+2*interrupts) / n,
		interrupts: float64(interrupts) / n,
	}, nil
}

// listen reads a line of the guest that begins with kind and has that many
// numbers.
func listen(out *bufio.Reader, kind byte, numbers int) ([]uint64, error) {
	line, err := out.ReadString('\n')
	if err != nil {
		return nil, fmt.Errorf("the guest fell silent: %q: %w", line, err)
	}
	fields := strings.Fields(line)
	if len(fields) == 2 && fields[0] == "F" {
		return nil, fmt.Errorf("the guest failed with code 0x%s (guest.S has the codes)", strings.TrimLeft(fields[1], "0"))
	}
	if len(fields) != 1+numbers || fields[0] != string(kind) {
		return nil, fmt.Errorf("the guest said %q", line)
	}
	values := make([]uint64, numbers)
	for i := range values {
		if _, err := fmt.Sscanf(fields[1+i], "%x", &values[i]); err != nil {
			return nil, fmt.Errorf("the guest said %q: %w", line, err)
		}
	}
	return values, nil
}
