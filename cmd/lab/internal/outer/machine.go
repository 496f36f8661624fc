// Package outer is the lab's machine seen from the host: what it is made of, how
// it starts, and how it is known to be alive.
//
// The machine is QEMU emulating an AMD CPU with SVM, in software, so that it runs
// anywhere; Debian's cloud kernel with kvm-amd in it gives a /dev/kvm that behaves
// like the one of a real host. Everything the machine is given comes through file
// descriptors without names (socket pairs, a memfd, an unlinked disk), and QEMU and virtiofsd die with
// the process that started them: nothing is left over, whatever happens to it.
package outer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"sync"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/hullvm/hull/cmd/lab/internal/mux"
)

// ErrMachine is wrapped by the errors of a machine that crashed, hung or did not
// start: a fault of the lab's own, not of what runs in it.
var ErrMachine = errors.New("the outer machine failed")

// A Machine is a running outer machine.
type Machine struct {
	qemu    *process
	files   *process
	session *mux.Session
	console tail

	closing chan struct{} // closed by Close
	once    sync.Once
	ready   chan struct{} // closed when the machine has answered for the first time
	done    chan struct{} // closed when all is released
	err     error         // why it ended; set before done is closed
}

// Start builds a machine and waits until it answers.
func Start(ctx context.Context, config Config) (*Machine, error) {
	if err := config.Check(); err != nil {
		return nil, err
	}
	m := &Machine{
		closing: make(chan struct{}),
		ready:   make(chan struct{}),
		done:    make(chan struct{}),
	}
	if err := m.assemble(config); err != nil {
		m.release()
		return nil, err
	}
	go m.supervise(config)
	select {
	case <-m.ready:
		return m, nil
	case <-m.done:
		return nil, m.err
	case <-ctx.Done():
		m.Close()
		return nil, ctx.Err()
	}
}

// assemble starts the programs that make up the machine.
func (m *Machine) assemble(config Config) error {
	kernel, err := findKernel("/")
	if err != nil {
		return err
	}
	qemu := config.QEMU
	if qemu == "" {
		if qemu, err = find("qemu-system-x86", "qemu-system-x86_64"); err != nil {
			return err
		}
	}
	var files handles
	defer files.close()
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("lab: finding its own program: %w", err)
	}
	// Each takes a tenth of a second or two.
	var initrd, elf, scratch *os.File
	var work errgroup.Group
	work.Go(func() (err error) { initrd, err = initramfs(self, kernel); return err })
	work.Go(func() (err error) { elf, err = kernel.vmlinux(); return err })
	work.Go(func() (err error) { scratch, err = newScratch(); return err })
	err = work.Wait()
	files.add(initrd, elf, scratch)
	if err != nil {
		return err
	}
	image := kernel.image
	if elf != nil {
		image = fmt.Sprintf("/proc/self/fd/%d", fdKernel)
	}
	port, portQEMU, err := files.pair()
	if err != nil {
		return err
	}
	console, consoleQEMU, err := files.pair()
	if err != nil {
		return err
	}
	filesQEMU, err := m.serveFiles(&files, config.Deterministic)
	if err != nil {
		return err
	}
	// In the order of the fd constants.
	handed := []*os.File{portQEMU, consoleQEMU, filesQEMU, initrd, elf, scratch}
	m.qemu, err = spawn(qemu, config.arguments(image, scratch != nil), handed, new(syscall.SysProcAttr))
	if err != nil {
		return err
	}
	files.keep(port, console)
	// Kernel and modules took some 200 MB to unpack, and this process may stay for hours.
	debug.FreeOSMemory()
	m.session = mux.New(port, mux.Host)
	go func() {
		defer console.Close()
		to := io.Writer(&m.console)
		if config.Console != nil {
			to = io.MultiWriter(to, config.Console)
		}
		_, _ = io.Copy(to, console)
	}()
	return nil
}

// Open starts a stream to the machine's agent.
func (m *Machine) Open() (*mux.Stream, error) {
	stream, err := m.session.Open()
	if err != nil {
		<-m.done
		return nil, m.Err()
	}
	return stream, nil
}

// Done is closed when the machine has ended.
func (m *Machine) Done() <-chan struct{} { return m.done }

// Err waits for the end of the machine and tells why it came: nil after Close.
func (m *Machine) Err() error {
	<-m.done
	return m.err
}

// Close ends the machine at once. Nothing in it is worth an orderly end.
func (m *Machine) Close() {
	m.once.Do(func() { close(m.closing) })
	<-m.done
}

// release stops the programs.
func (m *Machine) release() {
	if m.session != nil {
		m.session.Close()
	}
	if m.qemu != nil {
		m.qemu.kill()
	}
	if m.files != nil {
		m.files.kill()
	}
}
