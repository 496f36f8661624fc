package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// result is a row's samples.
type result struct {
	row        row
	floor      []time.Duration
	hull, qemu []sample
	qemuName   string // the settings that were the fastest
}

// compete measures r, n rounds after one to warm up, in which QEMU's settings are
// tried; the fastest of them go on.
func (b *bench) compete(ctx context.Context, progress io.Writer, r row, n int) (result, error) {
	res := result{row: r}
	rivals := qemus(r)
	if b.qemu == "" {
		rivals = nil
	}
	for round := range n + 1 {
		floor, err := r.floor(b, r.work)
		if err != nil {
			return res, err
		}
		ours, err := b.once(ctx, progress, round, hull(), r)
		if err != nil {
			return res, err
		}
		theirs := make([]sample, len(rivals))
		for i, m := range rivals {
			if theirs[i], err = b.once(ctx, progress, round, m, r); err != nil {
				return res, err
			}
		}
		if round == 0 {
			if len(rivals) > 0 {
				best := slices.Index(theirs, slices.MinFunc(theirs, func(x, y sample) int { return cmp.Compare(x.took, y.took) }))
				rivals = rivals[best : best+1]
				res.qemuName = strings.TrimPrefix(rivals[0].name, "QEMU ")
			}
			continue
		}
		res.floor, res.hull = append(res.floor, floor), append(res.hull, ours)
		res.qemu = append(res.qemu, theirs...)
	}
	return res, nil
}

// once is a measurement that progress is told of. What it wrote is on disk
// afterwards, lest the next one pays for it.
func (b *bench) once(ctx context.Context, progress io.Writer, round int, m monitor, r row) (sample, error) {
	s, err := b.measure(ctx, m, r)
	if err != nil {
		return s, err
	}
	fmt.Fprintf(progress, "round %d  %-32s %-24s %8.2f µs, CPU %8.2f µs\n", round, r.name, m.name, micro(s.took), micro(s.cpu))
	if r.work.Write != 0 {
		f, err := os.Open(b.disk)
		if err != nil {
			return s, err
		}
		defer f.Close()
		return s, os.NewSyscallError("fdatasync", unix.Fdatasync(int(f.Fd())))
	}
	return s, nil
}

func micro(d time.Duration) float64 { return float64(d) / 1e3 }

// median is the middle of what get takes from the samples.
func median[S any, V cmp.Ordered](samples []S, get func(S) V) V {
	values := make([]V, len(samples))
	for i, s := range samples {
		values[i] = get(s)
	}
	slices.Sort(values)
	return values[len(values)/2]
}

func took(s sample) float64       { return micro(s.took) }
func cpu(s sample) float64        { return micro(s.cpu) }
func exits(s sample) float64      { return s.exits }
func interrupts(s sample) float64 { return s.interrupts }

// table prints medians, and how many times hull is as fast as QEMU.
func (b *bench) table(w io.Writer, results []result, rounds int) error {
	figure := func(v float64) string { return fmt.Sprintf("%.2f", v) }
	fmt.Fprintf(w, "\nµs a request on this host's KVM\n")
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "request\tfloor\thull\tmin–max\tQEMU\tmin–max\tratio\tCPU hull\tQEMU\texits hull\tQEMU\tirqs hull\tQEMU\tQEMU's settings\t")
	logs, compared := 0.0, 0
	for _, r := range results {
		h := median(r.hull, took)
		floor := "–"
		if f := median(r.floor, micro); f > 0 {
			floor = figure(f)
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t", r.row.name, floor, figure(h), span(r.hull))
		if len(r.qemu) == 0 {
			fmt.Fprintf(tw, "–\t\t\t%s\t–\t%s\t–\t%s\t–\t\t\n",
				figure(median(r.hull, cpu)), figure(median(r.hull, exits)), figure(median(r.hull, interrupts)))
			continue
		}
		q := median(r.qemu, took)
		logs, compared = logs+math.Log(q/h), compared+1
		fmt.Fprintf(tw, "%s\t%s\t%s\t", figure(q), span(r.qemu), figure(q/h))
		for _, get := range []func(sample) float64{cpu, exits, interrupts} {
			fmt.Fprintf(tw, "%s\t%s\t", figure(median(r.hull, get)), figure(median(r.qemu, get)))
		}
		fmt.Fprintf(tw, "%s\t\n", r.qemuName)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	if compared > 0 {
		fmt.Fprintf(w, "geometric mean of %d ratios: %.2f\n", compared, math.Exp(logs/float64(compared)))
	}
	fmt.Fprint(w, footnotes(rounds, b.version()))
	return nil
}

func footnotes(rounds int, version string) string {
	return fmt.Sprintf(`medians of %d interleaved rounds; ratio: how many times hull is as fast as QEMU (%s)
floor: the same preadv, pwritev, read or write calls without a VM, one after the other on one thread
CPU: of all threads of the monitor but the vCPU's, which polls; kernel threads of its own are counted, vhost is not used
exits: one for each notification, which KVM turns into an eventfd's, and two, to the monitor, for each interrupt
irqs: interrupts that the guest took. It waits for them where the row says so, without halting, and polls the used ring else
QEMU's settings are the fastest of those tried in a round before the others. It has no vsock device of its own.
`, rounds, version)
}

// span is the fastest and the slowest sample.
func span(samples []sample) string {
	by := func(x, y sample) int { return cmp.Compare(x.took, y.took) }
	return fmt.Sprintf("%.1f–%.1f", took(slices.MinFunc(samples, by)), took(slices.MaxFunc(samples, by)))
}

// version is the first line that QEMU has to say of itself.
func (b *bench) version() string {
	if b.qemu == "" {
		return "left out"
	}
	out, err := exec.Command(b.qemu, "--version").Output()
	if err != nil {
		return err.Error()
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return line
}
