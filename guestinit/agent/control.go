package agent

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/guestinit/proto"
)

// control is a control connection.
type control struct {
	conn Conn
	mu   sync.Mutex // held while a frame is written
}

// send sends a message. If that fails the connection is at its end, which its reader will see.
func (c *control) send(m proto.Message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := proto.WriteFrame(c.conn, m); err != nil {
		c.conn.Close()
	}
}

// fail answers a request with an error.
func (c *control) fail(id uint64, err error) {
	out := &proto.Error{Code: proto.CodeIO, Message: err.Error()}
	var e *proto.Error
	if errors.As(err, &e) {
		out.Code = e.Code
	}
	c.send(proto.Message{Type: proto.TypeError, ID: id, Error: out})
}

// close ends the connection once the host has what was sent.
func (c *control) close() {
	_ = c.conn.CloseWrite()
	go linger(c.conn)
}

// serve serves a control connection until its end.
func (a *Agent) serve(conn Conn) {
	c := &control{conn: conn}
	defer conn.Close()
	a.mu.Lock()
	a.conns[c] = struct{}{}
	if a.lonely != nil {
		a.lonely.Stop()
		a.lonely = nil
	}
	hello := &proto.Hello{
		Version: proto.Version, MinVersion: proto.MinVersion,
		Features: []string{
			proto.FeatureExec, proto.FeatureWait, proto.FeatureNetwork, proto.FeatureDisks, proto.FeatureShares, proto.FeatureVolumes,
			proto.FeatureFiles, proto.FeatureProcesses, proto.FeatureSnapshots,
		},
		Kernel: a.opts.Kernel, Stages: a.opts.Stages, Now: boottime(),
	}
	a.mu.Unlock()
	c.send(proto.Message{Type: proto.TypeHello, Hello: hello})
	for {
		var m proto.Message
		if err := proto.ReadFrame(conn, &m); err != nil {
			break
		}
		a.handle(c, m)
	}
	a.mu.Lock()
	delete(a.conns, c)
	frozen := a.ice != thawed
	orphaned := a.main != nil && a.main.owner == c
	last := len(a.conns) == 0
	if frozen && last {
		a.lonely = time.AfterFunc(a.opts.Patience, a.abandoned)
	}
	a.mu.Unlock()
	switch {
	case frozen && last:
		go a.call() // this may be another machine
	case !frozen && orphaned:
		a.finish()
	}
}

// handle carries out a request. What takes time goes on beside the next request.
func (a *Agent) handle(c *control, m proto.Message) {
	ok := func(err error) {
		if err != nil {
			c.fail(m.ID, err)
			return
		}
		c.send(proto.Message{Type: proto.TypeOK, ID: m.ID})
	}
	// work is what must not be cut in two by a snapshot. It goes on beside the next request.
	work := func(do func()) {
		if err := a.beginWork(); err != nil {
			c.fail(m.ID, err)
			return
		}
		go func() {
			defer a.endWork()
			do()
		}()
	}
	switch {
	case m.Type == proto.TypeStart && m.Start != nil:
		a.launch(c, m.ID, true, func(container *container) (*process, error) { return a.start(container, m.Start) })
	case m.Type == proto.TypeExec && m.Exec != nil:
		a.launch(c, m.ID, false, func(*container) (*process, error) { return a.exec(m.Exec) })
	case m.Type == proto.TypeSignal && m.Signal != nil:
		ok(a.signal(m.Signal))
	case m.Type == proto.TypeResize && m.Resize != nil:
		ok(a.resize(m.Resize))
	case m.Type == proto.TypeWait && m.Wait != nil:
		go a.wait(c, m.ID, m.Wait)
	case m.Type == proto.TypeShutdown:
		ok(nil)
		a.finish()
	case m.Type == proto.TypeMount && m.Mount != nil:
		if container, err := a.reserve(c); err != nil {
			c.fail(m.ID, err)
		} else {
			work(func() { ok(a.mount(container, m.Mount)) })
		}
	case m.Type == proto.TypeStat && m.Stat != nil:
		work(func() {
			answer(c, m.ID, func(out *proto.Message) (err error) {
				out.Type = proto.TypeFile
				out.File, err = a.stat(m.Stat)
				return err
			})
		})
	case m.Type == proto.TypePack && m.Pack != nil:
		work(func() { ok(a.pack(m.Pack)) })
	case m.Type == proto.TypeUnpack && m.Unpack != nil:
		work(func() { ok(a.unpack(m.Unpack)) })
	case m.Type == proto.TypeChanges && m.Changes != nil:
		work(func() { ok(a.changes(m.Changes)) })
	case m.Type == proto.TypeProcesses:
		go answer(c, m.ID, func(out *proto.Message) (err error) {
			out.Type = proto.TypeProcesses
			out.Processes, err = a.processes()
			return err
		})
	case m.Type == proto.TypeUsage:
		go answer(c, m.ID, func(out *proto.Message) (err error) {
			out.Type = proto.TypeUsage
			out.Usage, err = a.usage()
			return err
		})
	case m.Type == proto.TypeDetach:
		a.streams.detach()
		ok(nil)
	case m.Type == proto.TypeFreeze && m.Freeze != nil:
		go answer(c, m.ID, func(out *proto.Message) (err error) {
			out.Type = proto.TypeFrozen
			out.Frozen, err = a.freeze(m.Freeze)
			return err
		})
	case m.Type == proto.TypeClock && m.Clock != nil:
		answer(c, m.ID, func(out *proto.Message) (err error) {
			out.Type = proto.TypeClock
			out.Clock, err = a.clock(m.Clock)
			return err
		})
	case m.Type == proto.TypeThaw && m.Thaw != nil:
		go func() { ok(a.thaw(c, m.Thaw)) }()
	default:
		c.fail(m.ID, &proto.Error{Code: proto.CodeUnsupported, Message: fmt.Sprintf("request %q: unknown, or without its body", m.Type)})
	}
}

// answer answers a request with what do puts into a message.
func answer(c *control, id uint64, do func(*proto.Message) error) {
	m := proto.Message{ID: id}
	if err := do(&m); err != nil {
		c.fail(id, err)
		return
	}
	c.send(m)
}

// reserve makes the one container that there can be.
func (a *Agent) reserve(owner *control) (*container, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.main != nil {
		return nil, &proto.Error{Code: proto.CodeInvalid, Message: "the container has been started already"}
	}
	a.main = &container{owner: owner}
	return a.main, nil
}

// launch answers a start or exec, first when the process runs, then when it has ended.
func (a *Agent) launch(c *control, id uint64, main bool, start func(*container) (*process, error)) {
	err := a.beginWork()
	if err != nil {
		c.fail(id, err)
		return
	}
	var container *container
	if main {
		if container, err = a.reserve(c); err != nil {
			a.endWork()
			c.fail(id, err)
			return
		}
	}
	go func() {
		p, err := start(container)
		a.endWork()
		if err != nil {
			c.fail(id, err)
			return
		}
		c.send(proto.Message{Type: proto.TypeStarted, ID: id, Started: &proto.Started{Process: p.name, PID: p.pid, Time: boottime(), Stages: p.stages}})
		a.tell(c, id, p)
	}()
}

// tell answers a request when the process has ended.
func (a *Agent) tell(c *control, id uint64, p *process) {
	a.mu.Lock()
	if a.ending {
		a.mu.Unlock()
		return
	}
	a.answers.Add(1)
	a.mu.Unlock()
	defer a.answers.Done()
	<-p.done
	c.send(proto.Message{Type: proto.TypeExited, ID: id, Exited: &p.exit})
}

func (a *Agent) find(name string) (*process, error) {
	p := a.table.get(name)
	if p == nil {
		return nil, &proto.Error{Code: proto.CodeNoProcess, Message: fmt.Sprintf("there is no process %q", name)}
	}
	return p, nil
}

func (a *Agent) signal(s *proto.Signal) error {
	p, err := a.find(s.Process)
	if err != nil {
		return err
	}
	if !s.All {
		return p.signal(s.Signal)
	}
	a.mu.Lock()
	group := a.main.group
	a.mu.Unlock()
	if group == nil || s.Signal < 1 || s.Signal > 64 {
		return p.signal(s.Signal)
	}
	return group.Signal(unix.Signal(s.Signal))
}

func (a *Agent) resize(r *proto.Resize) error {
	p, err := a.find(r.Process)
	if err != nil {
		return err
	}
	return p.resize(r.Rows, r.Cols)
}

func (a *Agent) wait(c *control, id uint64, w *proto.Wait) {
	p, err := a.find(w.Process)
	if err != nil {
		c.fail(id, err)
		return
	}
	a.tell(c, id, p)
}
