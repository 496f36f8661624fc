package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/vmm"
	"github.com/hullvm/hull/vmm/jail"
)

const (
	configFD  = 3
	controlFD = 4

	// maxConfig bounds the configuration, in bytes.
	maxConfig = 1 << 20
)

// control is the stream to whoever started the VM.
type control struct {
	mu  sync.Mutex // one event at a time
	f   *os.File
	enc *json.Encoder
}

// send reports an event. An error means that nobody listens any more, which
// the reader of commands notices as well.
func (c *control) send(e vmm.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.enc.Encode(e)
}

// run is the life of the VM; it returns the exit status.
func run(configFD, controlFD int) int {
	began := vmm.Monotonic()
	var st unix.Stat_t
	if err := unix.Fstat(controlFD, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		fmt.Fprintln(os.Stderr, "hull-vmm: descriptor 4, the control stream, is not open: this program is started by hull, not by hand")
		return vmm.StatusHull
	}
	unix.CloseOnExec(controlFD)
	f := os.NewFile(uintptr(controlFD), "control")
	c := &control{f: f, enc: json.NewEncoder(f)}
	c.send(vmm.Event{Event: "stage", Name: vmm.StageProcess, Time: began})
	result, err := runConfigured(configFD, c)
	if err != nil {
		result = vmm.Result{Status: vmm.StatusHull, Message: err.Error()}
	}
	c.send(vmm.Event{Event: "exit", Time: vmm.Monotonic(), Reason: result.Reason, Status: result.Status, Message: result.Message, Console: result.Console})
	return result.Status
}

func runConfigured(configFD int, c *control) (vmm.Result, error) {
	var cfg vmm.Config
	if err := readConfig(configFD, &cfg); err != nil {
		return vmm.Result{}, err
	}
	// Ended by hand, a VM goes in order, so that what it holds is removed.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP)

	confinement, err := jail.ForVM(&cfg, os.Getenv(jail.Env), os.Getenv(jail.EnvIsolated) != "")
	if err != nil {
		return vmm.Result{}, err
	}
	orphan := jail.NewRemoval(cfg.OrphanRemove)
	m, err := vmm.New(cfg, vmm.WithEvents(c.send))
	if err != nil {
		return vmm.Result{}, err
	}
	if err = m.PrepareSnapshots(); err == nil {
		err = confinement.Enter()
	}
	if err == nil {
		err = m.Start()
	}
	if err != nil {
		m.Close()
		return vmm.Result{}, err
	}
	orphaned := make(chan struct{})
	go c.serve(m, orphaned)
	for {
		select {
		case s := <-signals:
			m.Stop(fmt.Sprintf("the VM process got signal %q", s))
		case <-orphaned:
			m.Stop("whoever started the VM is gone")
			_ = orphan.Remove() // the next hull command finds what is left
			orphaned = nil
		case <-m.Done():
			// The kernel gives back memory, KVM and files when the process
			// ends, faster than Close would. What has a name is removed by
			// the engine, or was, above.
			return m.Wait(), m.KeepDisks()
		}
	}
}

func readConfig(fd int, cfg *vmm.Config) error {
	f := os.NewFile(uintptr(fd), "configuration")
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return fmt.Errorf("read the configuration from descriptor %d: %w", fd, err)
	}
	if len(b) > maxConfig {
		return fmt.Errorf("the configuration is longer than %d bytes", maxConfig)
	}
	if err := json.Unmarshal(b, cfg); err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	return nil
}

// serve takes commands until the stream ends.
func (c *control) serve(m *vmm.Machine, orphaned chan<- struct{}) {
	defer close(orphaned)
	in := &commands{f: c.f}
	dec := json.NewDecoder(in)
	for {
		var cmd vmm.Command
		if err := dec.Decode(&cmd); err != nil {
			return
		}
		if cmd.Command == vmm.CommandBalloonStats { // it waits for the guest
			go c.answer(m, cmd, nil)
			continue
		}
		c.answer(m, cmd, in)
	}
}

// answer does what a command says and reports how it went.
func (c *control) answer(m *vmm.Machine, cmd vmm.Command, in *commands) {
	if cmd.Command == vmm.CommandStop { // answered first: the end of the VM is that of this process
		defer m.Stop("asked by the host")
	}
	e := vmm.Event{Event: "ok", Name: cmd.Command}
	if err := do(m, cmd, in, &e); err != nil {
		e.Event, e.Message = "error", err.Error()
	}
	e.Time = vmm.Monotonic()
	c.send(e)
}

// statsPatience is how long a guest may take to report on its memory.
const statsPatience = time.Second

func do(m *vmm.Machine, cmd vmm.Command, in *commands, e *vmm.Event) error {
	switch cmd.Command {
	case vmm.CommandPause:
		return m.Pause()
	case vmm.CommandResume:
		return m.Resume()
	case vmm.CommandStop:
		return nil
	case vmm.CommandResize:
		return m.Resize(cmd.Rows, cmd.Cols)
	case vmm.CommandBalloon:
		return m.SetBalloon(cmd.Bytes)
	case vmm.CommandSnapshot:
		files, err := in.take(2)
		if err != nil {
			return err
		}
		err = m.SnapshotTo(files[0], files[1], vmm.SnapshotOptions{Sync: cmd.Sync, Diff: cmd.Diff})
		return errors.Join(err, files[0].Close(), files[1].Close())
	case vmm.CommandMetrics:
		counts := m.Metrics()
		e.Metrics = &counts
		return nil
	case vmm.CommandBalloonStats:
		ctx, cancel := context.WithTimeout(context.Background(), statsPatience)
		defer cancel()
		s, err := m.BalloonStats(ctx)
		if err == nil {
			e.Balloon = &s
		}
		return err
	}
	return fmt.Errorf("command %q: %w", cmd.Command, errors.ErrUnsupported)
}
