package engine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/cmd/internal/engine/timeline"
	"github.com/hullvm/hull/guestinit/proto"
	"github.com/hullvm/hull/vmm"
)

// Exit is how a workload ended.
type Exit struct {
	Code      int  `json:"code"` // as a shell has it: 128+n after signal n
	OOMKilled bool `json:"oom_killed,omitempty"`
}

// Run starts the container's VM and workload, connects it to a, and returns when
// the workload has ended and the VM is gone. An error means that the workload did
// not run, that its end is not known, or that not all of its output came through;
// [ExitCode] says what a command should exit with then. Stages go to line, which
// may be nil.
func (c *Container) Run(ctx context.Context, a Attach, line *timeline.Timeline) (Exit, error) {
	s, err := c.supervise()
	if err != nil {
		return Exit{}, errors.Join(err, c.save(func(st *State) { st.end(Exit{}, false, err) }))
	}
	defer s.close()
	return s.run(ctx, a, line)
}

// ExitCode is the exit status of a command that failed with err, as docker's:
// 126 and 127 when the program cannot be executed or is not there, 128+n when
// signal n ended the work, else 125.
func ExitCode(err error) int {
	var refused *proto.Error
	if errors.As(err, &refused) {
		return refused.ExitCode()
	}
	var interrupted *InterruptedError
	if errors.As(err, &interrupted) {
		return signaled(interrupted.Signal)
	}
	if errors.Is(err, errStopped) {
		return signaled(unix.SIGKILL)
	}
	var told *Failure
	if errors.As(err, &told) {
		return told.Code
	}
	var ended *VMError
	if errors.As(err, &ended) && ended.Signal != 0 {
		return signaled(ended.Signal)
	}
	return vmm.StatusHull
}

func signaled(s unix.Signal) int { return 128 + int(s) }

// run is one life of a container's VM.
type run struct {
	*Container
	record *Record // as it was at the beginning
	attach Attach
	line   *timeline.Timeline
	log    *vmLog
	ended  chan struct{}           // closed when all of it is over and the record says so
	onExit func()                  // called when the workload has ended, before all its output has come
	cancel context.CancelCauseFunc // of all the work
	relay  *relay
	ran    bool // the workload was started
	alone  bool // this process is there for the container alone, and may use of this host what the container may

	probed   chan struct{} // closed when probeErr is known
	probeErr error

	vm          *vmProcess
	network     *guestNetwork     // nil if there is none
	volumes     []proto.Volume    // what the VM has on disks of their own
	shares      []proto.Share     // what the VM shares with this host
	guestDisks  []string          // names of the disks of --disk in the guest
	ownDisks    []vmm.Disk        // these disks, as the VM process has them
	exited      bool              // the workload has, and Exit is known
	listener    *net.UnixListener // for the agent
	clockOffset int64             // host's CLOCK_MONOTONIC less guest's CLOCK_BOOTTIME, ns; see hostTime
	memory      uint64            // of the VM, bytes
	warm        warm
	scratch     *vmm.Disk   // the writable disk, as the VM process has it; nil if there is none
	pumps       *pumps      // of the main process
	checkpoint  *checkpoint // what it goes on from, nil for one that begins

	workload sync.Mutex    // for what follows
	client   *proto.Client // set while the workload runs
	process  *vmProcess    // vm, for other goroutines
}

// agent is the way to the guest's agent while the workload runs, else nil.
func (r *run) agent() *proto.Client {
	r.workload.Lock()
	defer r.workload.Unlock()
	return r.client
}

// machine is the VM's process while the workload runs.
func (r *run) machine() *vmProcess {
	r.workload.Lock()
	defer r.workload.Unlock()
	return r.process
}

func (r *run) setAgent(c *proto.Client) {
	r.workload.Lock()
	defer r.workload.Unlock()
	r.client, r.process = c, r.vm
}

// command has the VM's process carry out a command.
func (r *run) command(ctx context.Context, c vmm.Command) error {
	vm := r.machine()
	if vm == nil {
		return fmt.Errorf("container %s %w", r.id, ErrNotRunning)
	}
	_, err := vm.ask(ctx, c)
	return err
}

// errVMGone is why the context of the work is canceled when its VM has ended.
var errVMGone = errors.New("the VM has ended")

func (r *run) run(ctx context.Context) (Exit, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	r.cancel, r.probed = cancel, make(chan struct{})
	r.relay = startRelay(ctx, r.attach.Signals, interrupt(cancel))
	go r.probeHost()
	defer func() {
		cancel(nil)
		r.relay.wait()
		<-r.probed
	}()
	defer func() { r.network.close() }()
	if err := r.start(ctx); err != nil {
		return Exit{}, err
	}
	defer r.listener.Close()
	watched := make(chan struct{})
	go r.watch(ctx, watched)
	defer func() {
		r.vm.stop()
		<-watched
		r.line.Mark(timeline.Exit, monotonic())
	}()
	exit, err := r.boot(ctx)
	return exit, r.explain(ctx, err)
}

func (r *run) probeHost() {
	defer close(r.probed)
	if r.engine.probe != nil {
		r.probeErr = r.engine.probe()
	}
}

// watch ends the work when the VM ends, or turns out to be impossible here. It
// returns when the VM has ended.
func (r *run) watch(ctx context.Context, done chan<- struct{}) {
	defer close(done)
	select {
	case <-r.probed:
		if r.probeErr != nil {
			r.cancel(r.probeErr)
		}
	case <-r.vm.done:
	}
	<-r.vm.done
	r.log.ended(r.vm.result())
	r.cancel(errVMGone)
}

// boot waits for the guest and has it do its work.
func (r *run) boot(ctx context.Context) (Exit, error) {
	client, err := r.greet(ctx)
	if err != nil {
		return Exit{}, err
	}
	defer client.Close()
	socket := r.socket()
	restore := func() {}
	if r.record.Config.Terminal && isTerminal(r.attach.Stdin) {
		if restore, err = makeRaw(r.attach.Stdin); err != nil {
			return Exit{}, err
		}
	}
	defer restore()
	if c := r.checkpoint; c != nil {
		r.pumps, err = reconnect(ctx, socket, &c.Frozen, proto.InitProcess, r.record.Config.Terminal, &r.attach)
	} else {
		r.pumps, err = connect(ctx, socket, proto.InitProcess, r.record.Config.Terminal, &r.attach)
	}
	if err != nil {
		return Exit{}, err
	}
	defer r.pumps.close()
	return r.work(ctx, client, r.pumps)
}

// greet waits for the agent's hello.
func (r *run) greet(ctx context.Context) (*proto.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, r.record.Config.BootTimeout)
	defer cancel()
	client, err := r.warm.client, error(nil)
	if client == nil {
		client, err = acceptAgent(ctx, r.listener)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, errBootTimeout
	}
	if err != nil {
		return nil, err
	}
	now := monotonic()
	hello := client.Hello()
	if len(r.volumes) > 0 && !hello.Has(proto.FeatureVolumes) {
		client.Close()
		return nil, errors.New("the guest's agent is too old to mount volumes that are disks")
	}
	if len(r.shares) > 0 && !hello.Has(proto.FeatureShares) {
		client.Close()
		return nil, errors.New("the guest's agent is too old to mount directories of this host")
	}
	r.clockOffset = now - hello.Now
	r.line.Mark(timeline.Hello, now)
	for name, stage := range map[string]string{"init": timeline.Init, "agent": timeline.Agent} {
		if at, ok := hello.Stages[name]; ok && !r.warm.opened { // those of a template were before all this
			r.line.Mark(stage, at+r.clockOffset)
		}
	}
	return client, nil
}

// hostTime returns the host's CLOCK_MONOTONIC for a time that the guest has just
// reported. Each report took some time to get here, which is in the clocks'
// difference as it was measured then: the least difference is the truest.
func (r *run) hostTime(guest int64) int64 {
	r.clockOffset = min(r.clockOffset, monotonic()-guest)
	return guest + r.clockOffset
}

// work starts the workload and sees it to its end.
func (r *run) work(ctx context.Context, client *proto.Client, pumps *pumps) (Exit, error) {
	// From here on signals are the workload's, which may run before this
	// process knows: they wait.
	started := make(chan struct{})
	handler := forward(ctx, client, proto.InitProcess, r.attach.Terminal)
	r.relay.switchTo(func(s unix.Signal) {
		select {
		case <-started:
			handler(s)
		case <-ctx.Done():
		}
	})
	if err := r.attach.wait(ctx); err != nil {
		return Exit{}, err
	}
	process, err := r.begin(ctx, client)
	if err != nil {
		return Exit{}, err
	}
	close(started)
	r.ran = true
	r.line.Mark(timeline.Workload, process.began)
	if r.record.Config.Terminal {
		handler(unix.SIGWINCH) // the size may have changed since the request was made
	}
	r.setAgent(client) // first: whoever sees that it runs may want something of it
	defer r.setAgent(nil)
	if err := r.save(func(s *State) {
		s.Status, s.Started, s.Error, s.OOMKilled = StatusRunning, time.Now(), "", false
	}); err != nil {
		return Exit{}, err
	}
	r.emit("start", nil)
	r.log.Info("workload runs")
	r.attach.hasStarted()
	if r.warm.fits && !r.warm.opened {
		r.engine.orderTemplate(r.warm.shape)
	}
	if r.alone { // from here on what is done is done for the workload
		r.vm.group.Join()
	}
	stopChecks := r.watchHealth(ctx, client)
	ended, err := process.wait(ctx)
	stopChecks()
	if err != nil {
		return Exit{}, err
	}
	r.onExit()
	r.relay.switchTo(interrupt(r.cancel))
	if ended.Time != 0 {
		r.line.Mark(timeline.Ended, r.hostTime(ended.Time))
	}
	exit := Exit{Code: ended.Code(), OOMKilled: ended.OOMKilled}
	r.log.Info("workload ended", "status", exit.Code, "oom_killed", exit.OOMKilled)
	r.exited = true
	if exit.OOMKilled {
		r.emit("oom", nil)
	}
	r.emit("die", map[string]string{"exitCode": strconv.Itoa(exit.Code)})
	if err := pumps.drain(ctx); err != nil {
		return exit, err
	}
	return exit, pumps.failure()
}

// begin starts the workload, or lets it go on.
func (r *run) begin(ctx context.Context, client *proto.Client) (*workload, error) {
	if r.checkpoint != nil {
		return r.goOn(ctx, client)
	}
	request, err := r.startRequest()
	if err != nil {
		return nil, err
	}
	process, err := r.startWorkload(ctx, client, request)
	if err != nil {
		return nil, err
	}
	return &workload{began: r.hostTime(process.Time), wait: process.Wait}, nil
}

// startWorkload has the agent start the workload. That takes little, but a disk
// or an agent that does not answer must not take for ever. Where a volume is filled it takes as long as that does.
func (r *run) startWorkload(ctx context.Context, client *proto.Client, request *proto.Start) (*proto.Process, error) {
	patience := r.record.Config.BootTimeout
	if slices.ContainsFunc(request.Shares, func(s proto.Share) bool { return s.Copy }) || slices.ContainsFunc(request.Volumes, func(v proto.Volume) bool { return v.Copy }) {
		patience = max(patience, fillPatience)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return client.Start(ctx, request)
}

// fillPatience is how long it may take to fill volumes with what the image has at their places.
const fillPatience = 15 * time.Minute

// goneSoon is how long the end of a VM may take to be known after its
// connections have broken.
const goneSoon = time.Second

// explain finds out why the work failed: often the error at hand is but a broken
// connection, and the cause is elsewhere.
func (r *run) explain(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if r.exited {
		return err
	}
	if refused, ok := errors.AsType[*proto.Error](err); ok {
		return refused // says all by itself
	}
	if errors.Is(err, errBootTimeout) {
		return r.bootTimeout()
	}
	if ctx.Err() == nil {
		soon, cancel := context.WithTimeout(ctx, goneSoon)
		_ = r.vm.waitDone(soon)
		cancel()
	}
	select {
	case <-r.vm.done:
		<-r.probed // a host that cannot do it is the better explanation
		if r.probeErr != nil {
			return r.probeErr
		}
		if cause := context.Cause(ctx); cause == nil || errors.Is(cause, errVMGone) {
			return r.vm.result().err()
		}
	default:
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, errVMGone) {
		return cause
	}
	return err
}

// bootTimeout says how far the VM has come.
func (r *run) bootTimeout() error {
	last := r.vm.lastEvent()
	what := "the VM process said nothing"
	if last.Event == "stage" {
		what = fmt.Sprintf("the last that the VM reported was %q, %.1f s earlier", last.Name, float64(monotonic()-last.Time)/1e9)
	}
	r.vm.stop() // which brings the console
	end := r.vm.result()
	return &VMError{
		What:    fmt.Sprintf("%v within %v (see --boot-timeout): %s", errBootTimeout, r.record.Config.BootTimeout, what),
		Console: end.event.Console,
	}
}
