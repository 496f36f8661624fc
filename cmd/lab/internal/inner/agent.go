package inner

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/cmd/lab/internal/mux"
	"github.com/hullvm/hull/cmd/lab/internal/wire"
)

// AgentCommand is the argument that makes the program the agent.
const AgentCommand = "agent"

// Agent serves the host over the machine's virtio-serial port until the host
// closes it.
func Agent() error {
	ports, err := filepath.Glob("/dev/vport*")
	if err != nil || len(ports) != 1 {
		return fmt.Errorf("lab agent: want one virtio-serial port, have %q", ports)
	}
	port, err := os.OpenFile(ports[0], os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("lab agent: %w", err)
	}
	cpus, err := watchCPUs()
	if err != nil {
		return err
	}
	session := mux.New(port, mux.Guest)
	defer session.Close()
	for {
		stream, err := session.Accept()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("lab agent: %w", err)
		}
		go serve(stream, cpus)
	}
}

// serve looks at the first frame of a stream to know what it is for.
func serve(stream *mux.Stream, cpus *cpuWatch) {
	defer stream.Close()
	kind, payload, err := wire.Read(stream)
	if err != nil {
		return
	}
	switch kind {
	case wire.KindPing:
		for err == nil && kind == wire.KindPing {
			cpus.visit()
			if err = wire.Write(stream, wire.KindPong, payload); err == nil {
				kind, payload, err = wire.Read(stream)
			}
		}
	case wire.KindRequest:
		request, err := wire.ReadRequest(payload)
		exit := wire.Exit{Status: 125}
		if err != nil {
			exit.Error = err.Error()
		} else {
			exit = run(stream, request)
		}
		if wire.WriteJSON(stream, wire.KindExit, exit) == nil && stream.CloseWrite() == nil {
			// The host closes when it has read all; a Close before that would take
			// back what is still on its way.
			_, _ = io.Copy(io.Discard, stream)
		}
	}
}

// A cpuWatch has a thread bound to each CPU. A CPU whose kernel spins, which is
// how a lab machine hangs, runs no thread.
type cpuWatch struct {
	mu   sync.Mutex
	wake []chan struct{}
	ran  chan struct{}
}

func watchCPUs() (*cpuWatch, error) {
	w := &cpuWatch{ran: make(chan struct{})}
	ready := make(chan error)
	for cpu := range runtime.NumCPU() {
		wake := make(chan struct{})
		w.wake = append(w.wake, wake)
		go func() {
			runtime.LockOSThread()
			var set unix.CPUSet
			set.Set(cpu)
			ready <- unix.SchedSetaffinity(0, &set)
			for range wake {
				w.ran <- struct{}{}
			}
		}()
		if err := <-ready; err != nil {
			return nil, fmt.Errorf("lab agent: binding a thread to CPU %d: %w", cpu, err)
		}
	}
	return w, nil
}

// visit returns when every CPU has run its thread.
func (w *cpuWatch) visit() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, wake := range w.wake {
		wake <- struct{}{}
		<-w.ran
	}
}
