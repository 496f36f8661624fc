// Package agent does in the guest what the host asks for: it starts the
// container's main process and further ones beside it, passes their streams,
// tells of their ends, and brings everything to an orderly end.
//
// Start reading at [Agent.Run]. control.go answers requests, start.go and
// process.go carry them out with package stage, streams.go moves bytes. The protocol is package
// proto's. The agent knows nothing of vsock nor of being PID 1, so that it can be tested without a
// virtual machine.
package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hullvm/hull/guestinit/cgroup"
	"github.com/hullvm/hull/guestinit/proto"
)

// Options are what an agent needs from its surroundings.
type Options struct {
	Transport Transport
	// Program is the path of a binary whose main function hands over to stage.Main when
	// argv[0] is stage.Name.
	Program string
	// Dir is an empty directory of the agent's own, on a tmpfs.
	Dir string
	// Dev is the directory with block devices.
	Dev string
	// Prepare returns when all is ready for a container. It returns the root of a
	// cgroup2 hierarchy, or "" if there is none. It may be called again.
	Prepare func() (cgroup string)
	// Kernel is the kernel's release, and Stages what has been reached when; for the hello.
	Kernel string
	Stages map[string]int64
	// SetClock sets the wall clock (ns since 1970), AddEntropy credits random bytes.
	SetClock   func(ns int64) error
	AddEntropy func([]byte) error
	// Network sets up network cards.
	Network func([]proto.Interface) error
	// AdjustClock adds ns to the wall clock, and Reseed adds random bytes and has the generator start from them.
	AdjustClock func(ns int64) error
	Reseed      func([]byte) error
	// Readdress gives network cards new addresses, EndConnections ends TCP connections that leave the guest.
	Readdress      func([]proto.Readdress) error
	EndConnections func() error
	// Reread has the kernel forget what it knows of a disk, once that has its size.
	Reread func(dev string, d proto.ChangedDisk) error
	// Share mounts the file system with a tag on a directory.
	Share func(tag, dir string, readOnly bool) error
	// Volume mounts the ext4 on a disk on a directory.
	Volume func(disk, dir string, readOnly bool) error
	// Mount mounts a root filesystem.
	Mount func(cfg proto.RootFS, dir, dev string) (Root, error)
	// Log takes a line for whoever watches the guest's console.
	Log func(line string)
	// Patience is how long a frozen guest whose host is gone waits for another one; 0 stands for DefaultPatience.
	Patience time.Duration
}

// DefaultPatience is many times what a host needs to start a VM that goes on from a snapshot.
const DefaultPatience = 2 * time.Minute

// Root is a mounted root filesystem.
type Root interface {
	Dir() string
	Upper() string         // the directory in which overlayfs keeps what the container writes
	Layers() []string      // the image's layers, the lowest first
	Base() (string, error) // all layers of the image over each other
	Sync() error
	Unmount() error
}

const (
	// killTimeout bounds the wait for killed processes to end.
	killTimeout = 10 * time.Second
	// answerTimeout bounds the wait for the last answers to be sent.
	answerTimeout = time.Second
)

// Agent is an agent at work.
type Agent struct {
	opts    Options
	streams *streams
	table   *table
	stop    chan struct{}  // closed when the guest is to end
	once    sync.Once      // closes stop
	answers sync.WaitGroup // answers that wait for the end of a process
	turn    sync.Mutex     // held while the container is frozen, or thawed

	mu      sync.Mutex
	conns   map[*control]struct{}
	main    *container // nil before the start request
	ending  bool       // no more answers are begun
	ice     ice
	working int         // requests under way that must not be cut in two by a snapshot
	lonely  *time.Timer // ends a frozen guest that nobody calls; nil unless there is no connection
	bootID  string      // what containers read for the kernel's; "" for that
}

// container is what the main process lives in. Agent.mu guards its fields while it is started.
type container struct {
	owner    *control // the connection it was started over
	process  *process // nil until it is started
	root     Root     // nil until it is mounted
	shares   []string // where the host's directories, and volumes' disks, are mounted
	view     *view    // of a container that is only looked into; else nil
	volatile bool
	newPID   bool
	group    *cgroup.Group     // nil without cgroups
	files    map[string]string // path in the container to the file of ours that is mounted there
	cleared  sync.Once
}

// New makes an agent.
func New(opts Options) *Agent {
	if opts.Log == nil {
		opts.Log = func(string) {}
	}
	if opts.Patience == 0 {
		opts.Patience = DefaultPatience
	}
	table := newTable()
	return &Agent{
		opts:    opts,
		streams: newStreams(func(process string) bool { return table.get(process) != nil }),
		table:   table,
		stop:    make(chan struct{}),
		conns:   make(map[*control]struct{}),
	}
}

// Run serves the host. It returns when the guest is to power off: because the host has asked
// for it, or because the connection over which the main process was started has ended. Then no process
// of the container is left, and what it has written is on its disk.
func (a *Agent) Run() error {
	controls, err := a.opts.Transport.Listen(proto.PortControl)
	if err != nil {
		return fmt.Errorf("listening for control connections: %w", err)
	}
	defer controls.Close()
	streams, err := a.opts.Transport.Listen(proto.PortStream)
	if err != nil {
		return fmt.Errorf("listening for streams: %w", err)
	}
	defer streams.Close()
	go a.table.reap()
	go a.streams.serve(streams)
	go func() {
		for {
			conn, err := controls.Accept()
			if err != nil {
				return
			}
			go a.serve(conn)
		}
	}()
	a.mu.Lock()
	if a.opts.Stages == nil {
		a.opts.Stages = make(map[string]int64)
	}
	a.opts.Stages["agent"] = boottime()
	a.mu.Unlock()
	go a.call()
	<-a.stop
	a.end()
	return nil
}

// call calls the host and serves it. When that fails nobody waits for us. Somebody may still call.
func (a *Agent) call() {
	conn, err := a.opts.Transport.Dial(proto.PortControl)
	if err != nil {
		a.opts.Log(fmt.Sprintf("calling the host: %v", err))
		return
	}
	a.serve(conn)
}

// finish makes Run come to its end.
func (a *Agent) finish() { a.once.Do(func() { close(a.stop) }) }

// end kills what runs, saves what is written, and says goodbye.
func (a *Agent) end() {
	a.mu.Lock()
	c := a.main
	var p *process
	if c != nil {
		p = c.process
	}
	a.mu.Unlock()
	a.table.killAll()
	if p != nil {
		<-p.done // it clears
	} else if c != nil {
		a.clear(c)
	}
	// Who waits for the end of a process is told of it before the goodbye.
	a.mu.Lock()
	a.ending = true
	a.mu.Unlock()
	told := make(chan struct{})
	go func() {
		a.answers.Wait()
		close(told)
	}()
	select {
	case <-told:
	case <-time.After(answerTimeout):
	}
	a.mu.Lock()
	conns := make([]*control, 0, len(a.conns))
	for conn := range a.conns {
		conns = append(conns, conn)
	}
	a.mu.Unlock()
	for _, conn := range conns {
		conn.send(proto.Message{Type: proto.TypeBye})
		conn.close()
	}
}

// clear ends what the container's main process has left: its other processes,
// and writes that are not on the disk. It does so once.
func (a *Agent) clear(c *container) {
	c.cleared.Do(func() {
		a.mu.Lock()
		group, root, volatile, shares, view := c.group, c.root, c.volatile, c.shares, c.view
		a.mu.Unlock()
		view.close()
		if group != nil {
			if err := group.Kill(killTimeout); err != nil {
				a.opts.Log(fmt.Sprintf("ending the container: %v", err))
			}
		}
		for _, dir := range shares {
			if err := unmountShare(dir); err != nil {
				a.opts.Log(err.Error())
			}
		}
		if root == nil || volatile {
			return
		}
		if err := root.Sync(); err != nil {
			a.opts.Log(err.Error())
		}
		if err := root.Unmount(); err != nil {
			a.opts.Log(err.Error())
		}
	})
}

// writeFiles puts files that replace the image's into the agent's directory, and returns path in the
// container to path here.
func (a *Agent) writeFiles(s *proto.Start) (map[string]string, error) {
	files := make(map[string]string)
	if a.bootID != "" && mountsProc(s.Spec) {
		path, err := a.writeFile(bootIDFile, a.bootID+"\n")
		if err != nil {
			return nil, err
		}
		files[bootIDFile] = path
	}
	for target, content := range map[string]*string{
		"/etc/hosts": s.Hosts, "/etc/resolv.conf": s.ResolvConf, "/etc/hostname": s.Hostname,
	} {
		if content == nil {
			continue
		}
		path, err := a.writeFile(target, *content)
		if err != nil {
			return nil, err
		}
		files[target] = path
	}
	return files, nil
}

// writeFile writes the file that is, or is to be, mounted at target, and returns its path. One that is there stays the same file.
func (a *Agent) writeFile(target, content string) (path string, err error) {
	path = filepath.Join(a.opts.Dir, filepath.Base(target))
	return path, os.WriteFile(path, []byte(content), 0o644)
}
