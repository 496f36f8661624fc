package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"time"

	"github.com/hullvm/hull/guestinit/proto"
)

// inside is a connection to the agent of a container's guest, for looking into it from any process.
type inside struct {
	record *Record
	client *proto.Client
	socket string       // of the VM's vsock device
	end    func() error // ends the connection, and the VM if it was started for this
	moved  int64        // bytes of all transfers
	emit   func(action string, attributes map[string]string)
}

const (
	// greetPatience is how long the agent of a running container may take to answer a call.
	greetPatience = 10 * time.Second
	// transferPatience is how long the agent may take to answer for a transfer whose bytes are all here.
	transferPatience = 30 * time.Second
)

// errOldAgent says that a running container's agent was made by an older hull.
var errOldAgent = errors.New("the guest's agent is too old for this: start the container again")

// enter connects to the agent of a running container.
func (e *Engine) enter(ctx context.Context, r *Record, feature string) (*inside, error) {
	switch r.State.Status {
	case StatusRunning:
	case StatusPaused:
		return nil, fmt.Errorf("container %s is paused: unpause it first", r.Name)
	case StatusRestarting:
		return nil, fmt.Errorf("container %s is restarting: wait until it is running", r.Name)
	default:
		return nil, fmt.Errorf("container %s %w", r.ID, ErrNotRunning)
	}
	socket := filepath.Join(e.store.vmDir(r.ID), socketName)
	client, err := dialAgent(ctx, socket)
	if err != nil && e.endsSoon(ctx, r.ID) {
		return nil, fmt.Errorf("container %s %w", r.ID, ErrNotRunning)
	}
	if err != nil {
		return nil, fmt.Errorf("container %s: %w", r.Name, err)
	}
	hello := client.Hello()
	if !hello.Has(feature) {
		client.Close()
		return nil, fmt.Errorf("container %s: %w", r.Name, errOldAgent)
	}
	return &inside{record: r, client: client, socket: socket, end: client.Close, emit: e.emitter(r)}, nil
}

// emitter notes what is done with a container.
func (e *Engine) emitter(r *Record) func(string, map[string]string) {
	return func(action string, attributes map[string]string) { e.emit(r, action, attributes) }
}

// endsSoon tells whether a container whose agent does not answer is one that ends: its VM is gone before its record says so.
func (e *Engine) endsSoon(ctx context.Context, id string) bool {
	ctx, cancel := context.WithTimeout(ctx, goneSoon)
	defer cancel()
	tick := time.NewTicker(busyPoll)
	defer tick.Stop()
	for {
		if r, err := e.store.current(ctx, id); err != nil || !r.State.Up() {
			return true
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
	}
}

func dialAgent(ctx context.Context, socket string) (*proto.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, greetPatience)
	defer cancel()
	conn, err := dialGuest(ctx, socket, proto.PortControl)
	if err != nil {
		return nil, err
	}
	return proto.Dial(ctx, conn, nil)
}

// enterAny connects to the agent of a container that runs, or boots the VM of one that does not for as long as it is looked
// into, with what it mounts of this host if mounts says so. Somebody else who does that is waited for.
func (e *Engine) enterAny(ctx context.Context, ref string, mounts bool) (*inside, error) {
	r, err := e.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, r.Config.BootTimeout+busyPatience)
	defer cancel()
	tick := time.NewTicker(busyPoll)
	defer tick.Stop()
	for {
		if r.State.Up() {
			g, err := e.enter(ctx, r, proto.FeatureFiles)
			if !errors.Is(err, ErrNotRunning) {
				return g, err
			}
		}
		if r.State.Status == StatusDead {
			return nil, fmt.Errorf("container %s: %s", r.Name, r.State.Error)
		}
		lock, err := e.store.lock(r.ID)
		if err == nil {
			return e.serve(ctx, r.ID, lock, mounts)
		}
		if !errors.Is(err, errLocked) {
			return nil, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("container %s: something else is done with it: %w", r.Name, context.Cause(ctx))
		}
		if r, err = e.store.current(ctx, r.ID); err != nil {
			return nil, err
		}
	}
}

const (
	// busyPatience is how long others may look into a container that does not run, beyond the time of a boot.
	busyPatience = time.Minute
	busyPoll     = 20 * time.Millisecond
)

// receive opens a transfer, has request ask the agent for it, and take read what comes.
func (g *inside) receive(ctx context.Context, request func(ctx context.Context, transfer string) error, take func(io.Reader) error) error {
	return g.transfer(ctx, request, func(c *transferConn) error { return take(c) }, transferPatience)
}

// send opens a transfer, has request announce it to the agent, and give write what goes there.
func (g *inside) send(ctx context.Context, request func(ctx context.Context, transfer string) error, give func(io.Writer) error) error {
	return g.transfer(ctx, request, func(c *transferConn) error {
		if err := give(c); err != nil {
			return err
		}
		return c.conn.CloseWrite()
	}, 0)
}

// transfer moves bytes while a request is under way. patience, if not 0, is how long its answer may take after that.
func (g *inside) transfer(ctx context.Context, request func(context.Context, string) error, move func(*transferConn) error, patience time.Duration) error {
	name := "files-" + newID()
	conn, err := openStream(ctx, g.socket, name, proto.StreamData)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	asking, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	answer := make(chan error, 1)
	go func() { answer <- request(asking, name) }()
	c := &transferConn{conn: conn, moved: &g.moved}
	moved := move(c)
	if moved != nil {
		conn.Close() // the agent has nothing to wait for
		patience = transferPatience
	}
	if patience != 0 {
		timer := time.AfterFunc(patience, func() { giveUp(errNoAnswer) })
		defer timer.Stop()
	}
	answered := <-answer
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case moved != nil && (!c.ended || answered == nil):
		return moved // not the agent's doing, or not one that it knows of
	case asking.Err() != nil:
		return context.Cause(asking)
	}
	return answered
}

// errNoAnswer says that the agent has moved all bytes and does not say whether that was all.
var errNoAnswer = fmt.Errorf("the guest's agent has not answered within %v", transferPatience)

// transferConn is the stream of a transfer. It remembers whether it was what ended.
type transferConn struct {
	conn  *net.UnixConn
	moved *int64
	ended bool
}

func (c *transferConn) Read(p []byte) (int, error) {
	n, err := c.conn.Read(p)
	*c.moved += int64(n)
	c.ended = c.ended || err != nil
	return n, err
}

func (c *transferConn) Write(p []byte) (int, error) {
	n, err := c.conn.Write(p)
	*c.moved += int64(n)
	c.ended = c.ended || err != nil
	return n, err
}
