package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/images/bundle"
	"github.com/hullvm/hull/vmm"
)

// BootConfig describes a bare VM: what `hull boot` starts.
type BootConfig struct {
	Kernel   string // path; "" is the built-in one
	Protocol string // how it is started: "" finds out; else "elf", "pvh" or "bzimage"
	// Platform says how the guest learns of its machine: "" and vmm.PlatformACPI,
	// vmm.PlatformMPTable, or vmm.PlatformNone for a bare-metal guest, which is
	// given nothing but itself and works on any KVM.
	Platform vmm.Platform
	Initrd   string // path; "" is hull's own init, with a root disk for its shell
	Disks    []Disk
	Pmems    []Pmem
	Shares   []BootShare
	CID      uint32 // address on a vsock device; 0: none
	CPUs     int
	Memory   uint64 // bytes
	Append   string // more of the kernel command line

	NetworkConfig

	// Serial says where the serial port leads: SerialStdio, SerialPTY, or a
	// file that takes what the guest writes.
	Serial string
	// Console is the guest's console: "" and ConsoleSerial, or ConsoleVirtio, which
	// is the Attach, and follows the size of its terminal. The serial port then has
	// the kernel's messages from before it, and no input from the Attach.
	Console string
}

// Consoles, by the names that Linux has for them.
const (
	ConsoleSerial = "ttyS0"
	ConsoleVirtio = "hvc0"
)

// Places of a serial port besides files.
const (
	SerialStdio = "stdio" // the Attach
	SerialPTY   = "pty"   // a new pseudo-terminal
)

// BootShare is a directory, or a file, of this host that a bare VM can mount by its tag.
type BootShare struct {
	Path, Tag string
	ReadOnly  bool
}

// BootEnd is how a bare VM ended.
type BootEnd struct {
	Reason  string // one of vmm's; "" when the VM process could not say
	Message string // the same in a sentence
	Status  int    // exit status, one of vmm's; 128+n when signal n ended it
}

// Boot runs a bare VM until it ends. Its console is a's Stdin and Stdout unless
// the serial port is it and leads elsewhere; note is told what the user must know,
// such as the name of a pseudo-terminal. An error means that the VM did not run to
// an end of its own.
func (e *Engine) Boot(ctx context.Context, c BootConfig, a Attach, note func(string)) (BootEnd, error) {
	if err := c.check(); err != nil {
		return BootEnd{}, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	relay := startRelay(ctx, a.Signals, interrupt(cancel))
	defer func() {
		cancel(nil)
		relay.wait()
	}()
	if c.Platform != vmm.PlatformNone && e.probe != nil {
		if err := e.probe(); err != nil {
			return BootEnd{}, err
		}
	}
	b := &boot{engine: e, config: c, attach: a, relay: relay, note: note}
	defer b.close()
	return b.run(ctx)
}

func (c *BootConfig) check() error {
	if c.CPUs < 1 || c.CPUs > vmm.MaxCPUs {
		return fmt.Errorf("%d CPUs: must be 1 to %d", c.CPUs, vmm.MaxCPUs)
	}
	if c.Platform == vmm.PlatformNone && c.Kernel == "" {
		return errors.New("a bare-metal guest needs a kernel file")
	}
	if c.Memory%pageSize != 0 {
		return fmt.Errorf("memory of %d bytes: must be a multiple of %d", c.Memory, pageSize)
	}
	if err := CheckMemory(c.Memory); err != nil {
		return err
	}
	if err := c.NetworkConfig.fill(); err != nil {
		return err
	}
	if !slices.Contains([]string{"", ConsoleSerial, ConsoleVirtio}, c.Console) {
		return fmt.Errorf("console %q: must be %s or %s", c.Console, ConsoleSerial, ConsoleVirtio)
	}
	for i := range c.Disks {
		if err := c.Disks[i].check(); err != nil {
			return err
		}
	}
	return nil
}

// boot is a bare VM and what goes when it ends.
type boot struct {
	engine *Engine
	config BootConfig
	attach Attach
	relay  *relay
	note   func(string)
	undo   []func()
}

func (b *boot) later(f func()) { b.undo = append(b.undo, f) }

func (b *boot) close() {
	for i := len(b.undo) - 1; i >= 0; i-- {
		b.undo[i]()
	}
}

func (b *boot) run(ctx context.Context) (BootEnd, error) {
	files, err := b.engine.Files()
	if err != nil {
		return BootEnd{}, err
	}
	table := &fileTable{}
	config, quit, err := b.prepare(ctx, files, table)
	if err != nil {
		table.close()
		return BootEnd{}, err
	}
	vm, err := b.start(files.VMM, config, table)
	if err != nil {
		return BootEnd{}, err
	}
	defer vm.stop()
	if b.attach.Terminal != nil && config.Console != nil {
		b.followSize(vm)
	}
	select {
	case <-vm.done:
	case <-quit:
		vm.stop()
	case <-ctx.Done():
		vm.stop()
	}
	b.close()
	b.undo = nil
	var interrupted *InterruptedError
	if errors.As(context.Cause(ctx), &interrupted) {
		return BootEnd{Reason: vmm.ReasonStopped, Message: interrupted.Error(), Status: signaled(interrupted.Signal)}, nil
	}
	end := vm.result()
	if end.event.Event != "exit" || end.event.Reason == "" {
		failed := end.err()
		failed.Console = "" // it went to where the user wanted it
		return BootEnd{}, failed
	}
	return BootEnd{Reason: end.event.Reason, Message: end.event.Message, Status: end.event.Status}, nil
}

func (b *boot) start(program string, config vmm.Config, table *fileTable) (*vmProcess, error) {
	self, err := ProcessOf(os.Getpid())
	if err != nil {
		table.close()
		return nil, err
	}
	// Its own CPUs are what bounds it: a bare VM may have as much of them as there is.
	group, _, err := b.engine.store.group(bootGroup(self), 0, 0, &config)
	if err != nil {
		table.close()
		return nil, err
	}
	return startVM(vmSpec{program: program, name: "boot", config: config, files: table, group: group})
}

// followSize tells the guest's console when the size of the user's terminal
// changes.
func (b *boot) followSize(vm *vmProcess) {
	others := b.relay.handler()
	follow := func(s unix.Signal) {
		if s != unix.SIGWINCH {
			others(s)
			return
		}
		if rows, cols, err := terminalSize(b.attach.Terminal); err == nil {
			vm.command(vmm.Command{Command: vmm.CommandResize, Rows: rows, Cols: cols})
		}
	}
	b.relay.switchTo(follow)
	follow(unix.SIGWINCH) // it may have changed since the configuration was made
}

// prepare makes the VM's configuration; quit is closed when the user asks at the
// terminal for the end.
func (b *boot) prepare(ctx context.Context, files *bundle.Files, table *fileTable) (_ vmm.Config, quit <-chan struct{}, err error) {
	c := &b.config
	config := vmm.Config{
		ID: "boot", CPUs: c.CPUs, Memory: c.Memory, Protocol: c.Protocol, Platform: c.Platform, RNG: true,
		CommandLine: bootCommandLine(c, b.attach.Terminal),
	}
	if err := b.addKernel(&config, files, table); err != nil {
		return vmm.Config{}, nil, err
	}
	for i := range c.Disks {
		disk, err := c.Disks[i].open(i, &b.engine.store, table)
		if err != nil {
			return vmm.Config{}, nil, err
		}
		config.Disks = append(config.Disks, disk)
	}
	for _, p := range c.Pmems {
		pmem, err := p.open(table)
		if err != nil {
			return vmm.Config{}, nil, err
		}
		config.Pmems = append(config.Pmems, pmem)
	}
	for _, s := range c.Shares {
		f, err := table.open(s.Path, unix.O_PATH)
		if err != nil {
			return vmm.Config{}, nil, fmt.Errorf("share: %w", err)
		}
		config.Shares = append(config.Shares, vmm.Share{Tag: s.Tag, File: f, ReadOnly: s.ReadOnly})
	}
	if c.usesShell() {
		root, err := table.open(files.Uroot, os.O_RDONLY)
		if err != nil {
			return vmm.Config{}, nil, fmt.Errorf("opening the built-in image: %w", err)
		}
		config.Disks = append(config.Disks, vmm.Disk{ID: "hull-uroot", ReadOnly: true, File: &root})
	}
	if c.CID != 0 {
		dir, lock, err := b.engine.store.makeBootDir(ctx)
		if err != nil {
			return vmm.Config{}, nil, err
		}
		b.later(func() {
			os.RemoveAll(dir)
			lock.Close()
		})
		table.lend(lock.file)
		socket := filepath.Join(dir, socketName)
		config.Vsock = &vmm.Vsock{CID: c.CID, Path: socket}
		config.OrphanRemove = []string{dir}
		b.note("vsock device: " + socket)
	}
	if config.Vsock == nil { // with one, whoever serves its sockets decides who may connect
		if err := b.engine.store.lendUser(&config, table); err != nil {
			return vmm.Config{}, nil, err
		}
	}
	network, err := newNetwork(ctx, &c.NetworkConfig, networkGuest{cpus: c.CPUs, bare: true, note: b.note}, table)
	if err != nil {
		return vmm.Config{}, nil, err
	}
	if network != nil {
		b.later(network.close)
		config.NICs = append(config.NICs, network.nics...)
	}
	quit, err = b.consoles(&config, table)
	if err != nil {
		return vmm.Config{}, nil, err
	}
	return config, quit, config.Validate()
}

func (b *boot) addKernel(config *vmm.Config, files *bundle.Files, table *fileTable) error {
	c := &b.config
	if c.usesShell() {
		return guestKernel(config, c.Kernel, "", files, table)
	}
	kernel := c.Kernel
	if kernel == "" {
		kernel = files.Kernel
	}
	var err error
	if config.Kernel, err = table.open(kernel, os.O_RDONLY); err != nil {
		return fmt.Errorf("opening the guest kernel: %w", err)
	}
	if c.Initrd == "" {
		return nil
	}
	initrd, err := table.open(c.Initrd, os.O_RDONLY)
	if err != nil {
		return fmt.Errorf("opening the initial file system: %w", err)
	}
	config.Initrd = []vmm.File{initrd}
	return nil
}

// usesShell tells whether hull's init is to give a shell on the built-in image.
func (c *BootConfig) usesShell() bool { return c.Initrd == "" && c.Platform != vmm.PlatformNone }

// bootCommandLine is the kernel command line of a bare VM. What the user appends
// comes last, and so wins.
func bootCommandLine(c *BootConfig, terminal *os.File) string {
	if c.Platform == vmm.PlatformNone {
		return c.Append
	}
	words := []string{"panic=-1"}
	if c.Kernel == "" && c.Initrd == "" {
		words = append(words, "quiet")
	}
	if c.Console == ConsoleVirtio {
		// What is said before there is a driver for it comes from the serial port, and
		// not again from the console. Words before it hold for that already.
		words = append(words, "console=hvc0", "earlyprintk=ttyS0")
	} else {
		words = append(words, "console=ttyS0")
	}
	if c.usesShell() {
		words = append(words, "hull.root=/dev/vd"+string(rune('a'+len(c.Disks))))
		if term := os.Getenv("TERM"); term != "" && !strings.ContainsAny(term, " \"=\t\n") {
			words = append(words, "TERM="+term)
		}
		if terminal != nil {
			if rows, cols, err := terminalSize(terminal); err == nil && rows > 0 {
				words = append(words, fmt.Sprintf("hull.tty=%dx%d", rows, cols))
			}
		}
	}
	if c.Append != "" {
		words = append(words, c.Append)
	}
	return strings.Join(words, " ")
}

// consoles leads the serial port, and the virtio console if there is to be one, where
// the user wants them.
func (b *boot) consoles(config *vmm.Config, table *fileTable) (quit <-chan struct{}, err error) {
	if b.config.Console == ConsoleVirtio {
		config.Console = &vmm.Console{}
		config.Console.Input, config.Console.Output, quit, err = b.stdio(table)
		if err != nil {
			return nil, err
		}
		if b.attach.Terminal != nil {
			// Without a size the guest does what it does without a terminal.
			config.Console.Rows, config.Console.Cols, _ = terminalSize(b.attach.Terminal)
		}
	}
	switch b.config.Serial {
	case "", SerialStdio:
		if config.Console != nil {
			output := table.lend(b.attach.Stdout.(*os.File)) // stdio has seen that it is one
			config.Serial.Output = &output
			return quit, nil
		}
		config.Serial.Input, config.Serial.Output, quit, err = b.stdio(table)
		return quit, err
	case SerialPTY:
		return quit, b.serialPTY(config, table)
	}
	file, err := table.open(b.config.Serial, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("opening the serial port's file: %w", err)
	}
	config.Serial = vmm.Serial{Output: &file}
	return quit, nil
}

// serialPTY leads the serial port to a new pseudo-terminal.
func (b *boot) serialPTY(config *vmm.Config, table *fileTable) error {
	master, slave, err := pty.Open()
	if err != nil {
		return fmt.Errorf("opening a pseudo-terminal: %w", err)
	}
	// Both ends stay open here: the guest's output must not meet errors while
	// nobody looks, nor be lost when the VM ends before it was looked at.
	b.later(func() {
		waitRead(slave)
		slave.Close()
		master.Close()
	})
	var ends [2]vmm.File
	for i := range ends {
		fd, err := unix.FcntlInt(master.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("opening a pseudo-terminal: %w", err)
		}
		ends[i] = table.add(os.NewFile(uintptr(fd), master.Name()))
	}
	if _, err := makeRaw(slave); err != nil {
		return err
	}
	config.Serial = vmm.Serial{Input: &ends[0], Output: &ends[1]}
	b.note("serial port: " + slave.Name())
	return nil
}

// readPatience is how long the reader of a pseudo-terminal has to read the last
// that the guest wrote, on a host that may have much else to do.
const readPatience = 2 * time.Second

// waitRead waits until what was written to a terminal has been read.
func waitRead(tty *os.File) {
	tick := time.NewTicker(gatePoll)
	defer tick.Stop()
	for end := time.Now().Add(readPatience); time.Now().Before(end); <-tick.C {
		if !unread(tty) {
			return
		}
	}
}

// unread tells whether a terminal has something to read. TIOCINQ would not know of what the kernel has taken from the other end and
// not carried over yet, which poll(2) sees to first.
func unread(tty *os.File) bool {
	fds := []unix.PollFd{{Fd: int32(tty.Fd()), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 0)
		if err != unix.EINTR {
			return err == nil && n > 0 && fds[0].Revents&unix.POLLIN != 0
		}
	}
}

// stdio gives the VM process the user's terminal, or whatever the standard streams
// are. Input is nil without any.
func (b *boot) stdio(table *fileTable) (input, output *vmm.File, quit <-chan struct{}, err error) {
	out, ok := b.attach.Stdout.(*os.File)
	if !ok {
		return nil, nil, nil, errors.New("the console's output must be a file")
	}
	o := table.lend(out)
	if b.attach.Stdin == nil {
		return nil, &o, nil, nil
	}
	if !isTerminal(b.attach.Stdin) {
		i := table.lend(b.attach.Stdin)
		return &i, &o, nil, nil
	}
	i, quit, err := b.keyboard(table)
	if err != nil {
		return nil, nil, nil, err
	}
	return i, &o, quit, nil
}

// keyboard makes the user's terminal raw and passes on what is typed, but for
// commands; quit is closed at the one to end the VM.
func (b *boot) keyboard(table *fileTable) (*vmm.File, <-chan struct{}, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, fmt.Errorf("preparing the terminal: %w", err)
	}
	in, err := newInput(b.attach.Stdin)
	if err != nil {
		r.Close()
		w.Close()
		return nil, nil, err
	}
	restore, err := makeRaw(b.attach.Stdin)
	if err != nil {
		in.Close()
		r.Close()
		w.Close()
		return nil, nil, err
	}
	input := table.add(r)
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		defer w.Close()
		if copyConsole(w, in, b.note) {
			close(quit)
		}
	}()
	b.later(func() {
		in.Cancel()
		<-done
		in.Close()
		restore()
	})
	return &input, quit, nil
}
