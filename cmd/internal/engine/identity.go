package engine

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"

	"github.com/hullvm/hull/guestinit/proto"
)

// What this host does around a snapshot, besides the VM process's part:
//
//	frozen, err := freeze(ctx, client, socket, pumps)      // the VM may be saved now
//	err = resume(ctx, client, socket, frozen, pumps)       // it goes on as before
//
// and with a VM that was restored from it, which has called on a new socket:
//
//	pumps, err := reconnect(ctx, socket, frozen, process, terminal, attach)
//	thaw, err := r.identity(cards)
//	err = become(ctx, client, thaw)

// errNoSnapshots says that a guest cannot be saved.
var errNoSnapshots = errors.New("the guest's agent is too old for snapshots")

// freeze stops the container of client, if it has one, for a snapshot. All its streams are detached then: nothing is on its way, and
// what the guest still holds of them comes after they are attached again. These are those of list and no others: somebody else's, such
// as an exec's, keep the container from being frozen. On error it goes on and the streams are attached.
func freeze(ctx context.Context, client *proto.Client, socket string, list ...*pumps) (*proto.Frozen, error) {
	hello := client.Hello()
	if !hello.Has(proto.FeatureSnapshots) {
		return nil, errNoSnapshots
	}
	if err := client.Detach(ctx); err != nil {
		return nil, err
	}
	var errs []error
	for _, p := range list {
		errs = append(errs, p.detach(ctx))
	}
	frozen, err := client.Freeze(ctx, proto.Freeze{Sync: true})
	if err := errors.Join(append(errs, err)...); err != nil {
		return nil, errors.Join(err, unfreeze(ctx, client, socket, frozen, list))
	}
	return frozen, nil
}

// unfreeze undoes what has been done of a freeze.
func unfreeze(ctx context.Context, client *proto.Client, socket string, frozen *proto.Frozen, list []*pumps) error {
	ctx = context.WithoutCancel(ctx)
	ctx, cancel := context.WithTimeout(ctx, relayPatience)
	defer cancel()
	err := resume(ctx, client, socket, frozen, list...)
	if refused, ok := errors.AsType[*proto.Error](err); ok && refused.Code == proto.CodeInvalid {
		return nil // it has not come to be frozen
	}
	return err
}

// resume lets the container of client go on in the VM that it was frozen in. Without frozen, all streams are attached that there may be.
func resume(ctx context.Context, client *proto.Client, socket string, frozen *proto.Frozen, list ...*pumps) error {
	for _, p := range list {
		if err := p.reattach(ctx, socket, frozen); err != nil {
			return err
		}
	}
	return client.Thaw(ctx, proto.Thaw{})
}

// reconnect is connect for a process that is frozen, in a VM that was restored.
func reconnect(ctx context.Context, socket string, frozen *proto.Frozen, process string, terminal bool, a *Attach) (*pumps, error) {
	p := &pumps{process: process, attach: a, names: a.names(terminal)}
	if slices.Contains(frozen.Streams, proto.StreamHeader{Process: process, Stream: proto.StreamStdin}) && !slices.Contains(p.names, proto.StreamStdin) {
		p.names = append(p.names, proto.StreamStdin) // nobody has input here: the process is to see its end
		p.inputOver = true
	}
	return p, p.open(ctx, socket, p.alive(frozen))
}

// become makes a restored guest somebody of its own, with this host's time, and lets its container go on.
func become(ctx context.Context, client *proto.Client, t *proto.Thaw) error {
	hello := client.Hello()
	if !hello.Has(proto.FeatureSnapshots) {
		return errNoSnapshots
	}
	if _, err := client.SetClock(ctx); err != nil {
		return err
	}
	return client.Thaw(ctx, *t)
}

// identity is who the container of r is to be in a VM that was restored. cards are the network cards of the VM that was saved, in the order
// of this one's.
func (r *run) identity(cards []proto.Interface) (*proto.Thaw, error) {
	s, err := r.startRequest()
	if err != nil {
		return nil, err
	}
	t := anonymous()
	t.Hosts, t.ResolvConf = s.Hosts, s.ResolvConf
	t.Hostname = r.record.Hostname()
	if len(cards) != len(s.Interfaces) {
		return nil, fmt.Errorf("the container has %d network cards, and had %d when it was saved", len(s.Interfaces), len(cards))
	}
	for i, card := range s.Interfaces {
		t.Interfaces = append(t.Interfaces, proto.Readdress{Was: cards[i].MAC, Interface: card})
	}
	return t, nil
}

// anonymous is what every restored guest needs, with a container or without.
func anonymous() *proto.Thaw {
	var id [32]byte
	rand.Read(id[:]) // never fails
	boot := id[16:]
	boot[6], boot[8] = boot[6]&0x0f|0x40, boot[8]&0x3f|0x80 // RFC 9562, 5.4
	entropy := make([]byte, entropyBytes)
	rand.Read(entropy)
	return &proto.Thaw{
		Entropy: entropy, MachineID: hex.EncodeToString(id[:16]),
		BootID:         fmt.Sprintf("%x-%x-%x-%x-%x", boot[:4], boot[4:6], boot[6:8], boot[8:10], boot[10:]),
		EndConnections: true,
	}
}

// errDetached says that streams were detached twice, or have ended.
var errDetached = errors.New("the streams of the workload are not attached")

// detach ends this host's direction of all streams, waits for what the guest has still to say, and closes them. The guest has been told:
// they are not at their ends. Nothing of the input is lost: what has been read was sent.
func (p *pumps) detach(ctx context.Context) error {
	p.mu.Lock()
	if p.closed || p.detached {
		p.mu.Unlock()
		return errDetached
	}
	l := p.link
	p.detached = true
	p.out.Add(1) // there is more to come
	p.mu.Unlock()

	stop := context.AfterFunc(ctx, l.close)
	defer stop()
	if l.input != nil {
		l.input.Cancel()
	}
	l.in.Wait()
	for name, conn := range l.conns {
		_ = conn.CloseWrite() // fails for one that has ended
		if name == proto.StreamStdin {
			_, _ = io.Copy(io.Discard, conn) // the guest closes it when it has taken all
		}
	}
	l.out.Wait()
	l.close()
	if l.input != nil {
		l.input.Close()
	}
	if ctx.Err() != nil {
		return fmt.Errorf("detaching from the workload: %w", context.Cause(ctx))
	}
	return nil
}

// alive are the names of the streams that can be attached again: all of them without frozen.
func (p *pumps) alive(frozen *proto.Frozen) []string {
	return slices.DeleteFunc(slices.Clone(p.names), func(name string) bool {
		return frozen != nil && !slices.Contains(frozen.Streams, proto.StreamHeader{Process: p.process, Stream: name})
	})
}

// reattach goes on after detach, with the guest whose device is at socket.
func (p *pumps) reattach(ctx context.Context, socket string, frozen *proto.Frozen) error {
	p.mu.Lock()
	detached := p.detached
	p.mu.Unlock()
	if !detached {
		return errDetached
	}
	err := p.open(ctx, socket, p.alive(frozen))
	p.mu.Lock()
	defer p.mu.Unlock()
	if errors.Is(err, net.ErrClosed) || !p.detached {
		return nil // the container has ended
	}
	if err == nil {
		p.detached = false
		p.out.Done()
	}
	return err
}
