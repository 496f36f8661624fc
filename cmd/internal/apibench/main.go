// Command apibench measures what it takes to start a machine over the API, on this host's own KVM with a bare-metal guest that says
// hello and resets itself:
//
//	ready   exec to the first answer on the monitor's socket
//	start   the request that starts the machine to the guest's first word
//	rate    machines started a second, from exec to their ends, as many at once as there are CPUs
//
// QEMU's microvm is beside it, with its own protocol: its machine is made before there is an answer, so that only the sum of the
// first two can be compared. It is killed when the guest has spoken. Rounds are interleaved, one of each monitor a round. "make bench-api" runs all of it.
package main

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/hullvm/hull/vmm/testguest"
)

// patience is how long a monitor may take for anything.
const patience = time.Minute

// memoryMiB is what every machine has.
const memoryMiB = 128

// hello is the guest's first word.
const hello = "hello"

type options struct {
	hull, qemu string
	rounds     int
	machines   int // of a measurement of the rate
}

func main() {
	var o options
	flag.StringVar(&o.hull, "hull", "bin/hull", "hull")
	flag.StringVar(&o.qemu, "qemu", "qemu-system-x86_64", "QEMU, to compare with; left out when empty")
	flag.IntVar(&o.rounds, "n", 21, "rounds")
	flag.IntVar(&o.machines, "machines", 100, "machines to start for the rate")
	flag.Parse()
	if err := bench(o); err != nil {
		fmt.Fprintln(os.Stderr, "apibench:", err)
		os.Exit(1)
	}
}

// monitor is a program to be measured.
type monitor struct {
	name    string
	command func(socket string) *exec.Cmd // whose standard output is the guest's serial port
	// start makes sure that it answers on a new connection, configures the machine, and starts it. It calls ready, and begin before the
	// request that starts.
	start func(c net.Conn, ready, begin func()) error
	// kill says that the guest's reset, which is hull's, does not end it.
	kill  bool
	times []sample
}

// sample is one start, as times from exec, and the most memory that the process had, in KiB.
type sample struct {
	ready, begin, first time.Duration
	memory              int64
}

func bench(o options) error {
	dir, err := os.MkdirTemp("", "apibench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	elf, pvh := filepath.Join(dir, "guest.elf"), filepath.Join(dir, "guest.pvh")
	if err := errors.Join(os.WriteFile(elf, testguest.Hello, 0o600), os.WriteFile(pvh, testguest.PVH, 0o600)); err != nil {
		return err
	}
	hull := func(name string, env ...string) *monitor {
		return &monitor{name: name, command: func(socket string) *exec.Cmd {
			cmd := exec.Command(o.hull, "vmm", "--api-sock", socket, "--platform", "none")
			cmd.Env = append(os.Environ(), env...)
			return cmd
		}, start: func(c net.Conn, ready, begin func()) error { return startHull(c, elf, ready, begin) }}
	}
	// What the jail costs is the difference.
	monitors := []*monitor{hull("hull"), hull("hull without jail", "HULL_JAIL=off")}
	if o.qemu != "" {
		monitors = append(monitors, &monitor{name: "QEMU", command: func(socket string) *exec.Cmd {
			return exec.Command(o.qemu, "-M", "microvm", "-accel", "kvm", "-cpu", "qemu64", "-m", strconv.Itoa(memoryMiB), "-kernel", pvh,
				"-nodefaults", "-no-user-config", "-nographic", "-serial", "stdio", "-no-reboot", "-S", "-qmp", "unix:"+socket+",server=on,wait=off")
		}, start: startQEMU, kill: true})
	}
	for round := range o.rounds + 1 {
		for _, m := range monitors {
			s, err := m.run(filepath.Join(dir, "sock"))
			if err != nil {
				return fmt.Errorf("%s: %w", m.name, err)
			}
			fmt.Fprintf(os.Stderr, "round %d  %-17s ready %7.2f ms, first word %7.2f ms\n", round, m.name, ms(s.ready), ms(s.first))
			if round > 0 { // the first warms up
				m.times = append(m.times, s)
			}
		}
	}
	tw := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "monitor\tready ms\tstart ms\tall ms\tmin–max\tmemory KiB\tVMs/s\t")
	for _, m := range monitors {
		rate, err := m.rate(dir, o.machines)
		if err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		all := m.column(func(s sample) time.Duration { return s.first })
		fmt.Fprintf(tw, "%s\t%.2f\t%.2f\t%.2f\t%.2f–%.2f\t%d\t%.1f\t\n", m.name, ms(m.median(func(s sample) time.Duration { return s.ready })),
			ms(m.median(func(s sample) time.Duration { return s.first - s.begin })), ms(all[len(all)/2]), ms(all[0]), ms(all[len(all)-1]), m.memory(), rate)
	}
	tw.Flush()
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return err
	}
	fmt.Printf("medians of %d interleaved rounds, all: exec to the guest's first word; %d machines for the rate, %d at once; load %s",
		o.rounds, o.machines, runtime.NumCPU(), load)
	return nil
}

// memory is the median of the samples'.
func (m *monitor) memory() int64 {
	var all []int64
	for _, s := range m.times {
		all = append(all, s.memory)
	}
	slices.Sort(all)
	return all[len(all)/2]
}

// run starts a machine and waits for its end.
func (m *monitor) run(socket string) (s sample, err error) {
	cmd := m.command(socket)
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, guestOut, err := os.Pipe()
	if err != nil {
		return s, err
	}
	defer out.Close()
	cmd.Stdout = guestOut
	began := time.Now()
	err = cmd.Start()
	guestOut.Close()
	if err != nil {
		return s, err
	}
	late := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	spoke := make(chan error, 1)
	go func() {
		line, err := bufio.NewReader(out).ReadString('\n')
		s.first = time.Since(began)
		if err != nil || !strings.Contains(line, hello) {
			err = fmt.Errorf("the guest says %q: %v", line, err)
		}
		spoke <- err
	}()
	conn, err := dial(socket, began.Add(patience))
	if err == nil {
		err = m.start(conn, func() { s.ready = time.Since(began) }, func() { s.begin = time.Since(began) })
		defer conn.Close()
	}
	if err != nil {
		_ = cmd.Process.Kill()
	}
	err = errors.Join(err, <-spoke)
	if m.kill {
		_ = cmd.Process.Kill()
	}
	_ = cmd.Wait() // the guest resets, which is an exit status of its own
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		s.memory = usage.Maxrss
	}
	if removed := os.Remove(socket); removed != nil && !errors.Is(removed, fs.ErrNotExist) {
		err = errors.Join(err, removed)
	}
	if err != nil {
		err = fmt.Errorf("%w: %s", err, complaint.String())
	}
	return s, err
}

// rate starts n machines, as many at once as there are CPUs, and returns how many ended in a second.
func (m *monitor) rate(dir string, n int) (float64, error) {
	var next atomic.Int64
	var wait sync.WaitGroup
	errs := make([]error, runtime.NumCPU())
	begin := time.Now()
	for i := range errs {
		wait.Go(func() {
			for next.Add(1) <= int64(n) && errs[i] == nil {
				_, errs[i] = m.run(filepath.Join(dir, fmt.Sprint("sock", i)))
			}
		})
	}
	wait.Wait()
	return float64(n) / time.Since(begin).Seconds(), errors.Join(errs...)
}

// dial connects to a socket as soon as somebody listens there.
func dial(socket string, deadline time.Time) (net.Conn, error) {
	for {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			return conn, conn.SetDeadline(deadline)
		}
		if time.Now().After(deadline) {
			return nil, err
		}
		time.Sleep(100 * time.Microsecond)
	}
}

func startHull(c net.Conn, guest string, ready, begin func()) error {
	answers := bufio.NewReader(c)
	ask := func(method, path, body string) error {
		r, err := http.NewRequest(method, "http://localhost"+path, strings.NewReader(body))
		if err != nil {
			return err
		}
		if err := r.Write(c); err != nil {
			return err
		}
		w, err := http.ReadResponse(answers, r)
		if err != nil {
			return err
		}
		defer w.Body.Close()
		text, err := io.ReadAll(w.Body)
		if err == nil && w.StatusCode >= http.StatusBadRequest {
			err = fmt.Errorf("%s %s: %s: %s", method, path, w.Status, text)
		}
		return err
	}
	if err := ask("GET", "/", ""); err != nil {
		return err
	}
	ready()
	if err := ask("PUT", "/boot-source", fmt.Sprintf(`{"kernel_image_path":%q}`, guest)); err != nil {
		return err
	}
	if err := ask("PUT", "/machine-config", fmt.Sprintf(`{"vcpu_count":1,"mem_size_mib":%d}`, memoryMiB)); err != nil {
		return err
	}
	begin()
	return ask("PUT", "/actions", `{"action_type":"InstanceStart"}`)
}

func startQEMU(c net.Conn, ready, begin func()) error {
	lines := bufio.NewReader(c)
	if _, err := lines.ReadString('\n'); err != nil { // its greeting
		return err
	}
	if _, err := io.WriteString(c, `{"execute":"qmp_capabilities"}`); err != nil {
		return err
	}
	if _, err := lines.ReadString('\n'); err != nil {
		return err
	}
	ready()
	begin()
	_, err := io.WriteString(c, `{"execute":"cont"}`)
	return err
}

func ms(d time.Duration) float64 { return float64(d) / 1e6 }

// column returns one measurement of all rounds in rising order.
func (m *monitor) column(of func(sample) time.Duration) (all []time.Duration) {
	for _, s := range m.times {
		all = append(all, of(s))
	}
	slices.Sort(all)
	return all
}

func (m *monitor) median(of func(sample) time.Duration) time.Duration {
	return m.column(of)[len(m.times)/2]
}
