package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

// contender is a command line to be measured. Its standard output is watched
// for the marker.
type contender struct {
	name   string
	note   string // shown beside the name: a version or what it stands for
	argv   []string
	marker string
	// endsByItself tells whether the process is expected to end after the
	// marker; else it is killed, and its end is not measured.
	endsByItself bool
	// run replaces argv: a measurement inside this process.
	run func() (marker, end time.Duration, err error)
}

// patience is how long a monitor may take from exec to its end. The lab's
// counted clock leaps ahead while a first round waits for files.
const patience = 5 * time.Minute

// measure runs c once: the time from exec to the marker and to the end.
func (c *contender) measure() (marker, end time.Duration, err error) {
	if c.run != nil {
		return c.run()
	}
	cmd := exec.Command(c.argv[0], c.argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, 0, err
	}
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, 0, err
	}
	kill := func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	watchdog := time.AfterFunc(patience, kill)
	defer watchdog.Stop()
	seen := false
	var said bytes.Buffer
	for r := bufio.NewReader(out); ; {
		line, err := r.ReadString('\n')
		said.WriteString(line)
		if !seen && strings.Contains(line, c.marker) {
			marker, seen = time.Since(begin), true
			if !c.endsByItself {
				kill()
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, os.ErrClosed) {
			break
		}
		if err != nil {
			break
		}
	}
	_ = cmd.Wait() // the marker tells success; every monitor has its own exit status
	end = time.Since(begin)
	if !seen {
		return 0, 0, fmt.Errorf("%s: no marker %q in its output:\n%s%s", strings.Join(c.argv, " "), c.marker, said.String(), complaint.String())
	}
	return marker, end, nil
}

// samples are the measurements of one contender.
type samples struct {
	c            *contender
	marker, ends []time.Duration
}

func milliseconds(d time.Duration) float64 { return float64(d) / 1e6 }

func median(d []time.Duration) time.Duration {
	if len(d) == 0 {
		return 0
	}
	d = slices.Clone(d)
	slices.Sort(d)
	return d[len(d)/2]
}

// compete measures all contenders in turn, n rounds after one to warm up, and
// writes each measurement to progress as it is made.
func compete(progress io.Writer, contenders []*contender, n int) ([]*samples, error) {
	var all []*samples
	for _, c := range contenders {
		all = append(all, &samples{c: c})
	}
	for round := range n + 1 {
		for _, s := range all {
			marker, end, err := s.c.measure()
			if err != nil {
				return nil, err
			}
			fmt.Fprintf(progress, "round %d/%d  %-14s %8.1f ms, end %8.1f ms\n", round, n, s.c.name, milliseconds(marker), milliseconds(end))
			if round == 0 {
				continue
			}
			s.marker = append(s.marker, marker)
			if s.c.endsByItself || s.c.run != nil {
				s.ends = append(s.ends, end)
			}
		}
	}
	return all, nil
}

// table prints medians, and ratios to the contender of that name.
func table(w io.Writer, title, unit string, all []*samples, reference string) {
	var ref *samples
	for _, s := range all {
		if s.c.name == reference {
			ref = s
		}
	}
	fmt.Fprintf(w, "\n%s\n", title)
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(tw, "monitor\tmarker %s\tmin–max\tratio\tend %s\tratio\t\n", unit, unit)
	ms := func(d time.Duration) string { return fmt.Sprintf("%.1f", milliseconds(d)) }
	for _, s := range all {
		m, e := median(s.marker), median(s.ends)
		ratio, endRatio := "", ""
		end := "–"
		if ref != nil && median(ref.marker) > 0 {
			ratio = fmt.Sprintf("%.2f", float64(m)/float64(median(ref.marker)))
		}
		if e > 0 {
			end = ms(e)
			if ref != nil && median(ref.ends) > 0 {
				endRatio = fmt.Sprintf("%.2f", float64(e)/float64(median(ref.ends)))
			}
		}
		fmt.Fprintf(tw, "%s %s\t%s\t%s–%s\t%s\t%s\t%s\t\n", s.c.name, s.c.note, ms(m), ms(slices.Min(s.marker)), ms(slices.Max(s.marker)), ratio, end, endRatio)
	}
	tw.Flush()
	fmt.Fprintf(w, "medians of %d interleaved rounds; ratios to %s\n", len(all[0].marker), reference)
}

// version is the first line that a command prints with an argument.
func version(program string, arg string) string {
	out, err := exec.Command(program, arg).CombinedOutput()
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return "(" + strings.TrimSpace(line) + ")"
}
