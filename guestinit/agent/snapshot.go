package agent

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/guestinit/proto"
)

// ice is how far the guest is from doing its work.
type ice uint8

const (
	thawed   ice = iota
	freezing     // the container is being stopped: nothing new is begun
	frozen       // nothing runs but the agent
	thawing      // the guest is being made somebody
)

// detachTimeout bounds the wait for the host to take what streams still hold.
const detachTimeout = 10 * time.Second

// beginWork notes that there is something that a snapshot must not cut in two, unless there is to be one.
func (a *Agent) beginWork() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ice != thawed {
		return &proto.Error{Code: proto.CodeBusy, Message: "the container is frozen"}
	}
	a.working++
	return nil
}

func (a *Agent) endWork() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.working--
}

// freeze stops the container.
func (a *Agent) freeze(f *proto.Freeze) (*proto.Frozen, error) {
	a.turn.Lock() // a thaw by a host that has lost its patience comes after it
	defer a.turn.Unlock()
	a.mu.Lock()
	switch {
	case a.ice != thawed:
		a.mu.Unlock()
		return nil, &proto.Error{Code: proto.CodeInvalid, Message: "the container is frozen already"}
	case a.working > 0:
		defer a.mu.Unlock()
		return nil, &proto.Error{Code: proto.CodeBusy, Message: fmt.Sprintf("%d requests are being carried out", a.working)}
	}
	a.ice = freezing
	a.mu.Unlock()
	streams, err := a.stopContainer(f.Sync)
	a.streams.setDetaching(false) // what comes from now on is for who goes on
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil {
		a.ice = thawed
		return nil, err
	}
	a.ice = frozen
	return &proto.Frozen{Streams: streams}, nil
}

// stopContainer has the streams let go of the host, and then the container's processes stop. On error they go on.
func (a *Agent) stopContainer(sync bool) ([]proto.StreamHeader, error) {
	a.streams.detach()
	streams, err := a.streams.parked(detachTimeout)
	if err != nil {
		return nil, err
	}
	if err := a.freezeGroup(); err != nil {
		return nil, err
	}
	if sync {
		unix.Sync()
	}
	return streams, nil
}

func (a *Agent) freezeGroup() error {
	c, p, err := a.mounted()
	var none *proto.Error
	switch {
	case errors.As(err, &none) && c == nil && a.container() == nil:
		return nil // a guest that waits for its container
	case err != nil:
		return err
	case p == nil:
		return nil // a container that is only looked into
	case c.group == nil:
		return &proto.Error{Code: proto.CodeUnsupported, Message: "freezing the container: this kernel has no cgroups"}
	}
	return c.group.Freeze(freezeTimeout)
}

func (a *Agent) container() *container {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.main
}

// clock adjusts the wall clock and tells it.
func (a *Agent) clock(c *proto.Clock) (*proto.Clock, error) {
	if c.Adjust != 0 {
		if a.opts.AdjustClock == nil {
			return nil, unsupported("set its clock")
		}
		if err := a.opts.AdjustClock(c.Adjust); err != nil {
			return nil, fmt.Errorf("setting the clock: %w", err)
		}
	}
	return &proto.Clock{Now: time.Now().UnixNano()}, nil
}

func unsupported(what string) error {
	return &proto.Error{Code: proto.CodeUnsupported, Message: "this agent cannot " + what}
}

// thaw makes the guest who the host says it is, and then lets the container go on. On error it stays frozen.
func (a *Agent) thaw(c *control, t *proto.Thaw) error {
	if err := checkThaw(t); err != nil {
		return &proto.Error{Code: proto.CodeInvalid, Message: err.Error()}
	}
	a.turn.Lock()
	defer a.turn.Unlock()
	a.mu.Lock()
	if a.ice != frozen {
		a.mu.Unlock()
		return &proto.Error{Code: proto.CodeInvalid, Message: "the container is not frozen"}
	}
	a.ice = thawing
	a.mu.Unlock()
	err := a.become(t)
	if err == nil {
		err = a.thawGroup()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil {
		a.ice = frozen
		return err
	}
	a.ice = thawed
	if a.main != nil {
		a.main.owner = c
		if _, ok := a.conns[c]; !ok {
			a.finish() // the owner has gone meanwhile
		}
	}
	return nil
}

// abandoned ends a guest that is frozen still and has nobody to let it go on: one that was restored by somebody who does not know
// what is in it, or whose host was killed.
func (a *Agent) abandoned() {
	a.mu.Lock()
	wanted := a.ice == thawed || len(a.conns) > 0
	a.mu.Unlock()
	if wanted {
		return
	}
	a.opts.Log(fmt.Sprintf("this guest goes on from a snapshot, and no host has called it for %v to say who it is: it powers off", a.opts.Patience))
	a.finish()
}

func (a *Agent) thawGroup() error {
	if c := a.container(); c != nil && c.group != nil {
		return c.group.Thaw()
	}
	return nil
}

// become gives the guest its identity.
func (a *Agent) become(t *proto.Thaw) error {
	c, p, _ := a.mounted() // none, or one that was killed while it was frozen, needs none
	if len(t.Disks) > 0 && a.container() != nil {
		return &proto.Error{Code: proto.CodeInvalid, Message: "a container uses the disks that are to be others"}
	}
	for _, d := range t.Disks {
		if a.opts.Reread == nil {
			return unsupported("read disks again")
		}
		if err := a.opts.Reread(a.opts.Dev, d); err != nil {
			return fmt.Errorf("disk %s: %w", d.Disk, err)
		}
	}
	if len(t.Entropy) > 0 {
		if a.opts.Reseed == nil {
			return unsupported("seed its random generator")
		}
		if err := a.opts.Reseed(t.Entropy); err != nil {
			return fmt.Errorf("seeding the random generator: %w", err)
		}
	}
	if t.EndConnections {
		if a.opts.EndConnections == nil {
			return unsupported("end connections")
		}
		if err := a.opts.EndConnections(); err != nil {
			return fmt.Errorf("ending the connections that leave the guest: %w", err)
		}
	}
	if len(t.Interfaces) > 0 {
		if a.opts.Readdress == nil {
			return unsupported("change addresses")
		}
		if err := a.opts.Readdress(t.Interfaces); err != nil {
			return err
		}
	}
	if err := a.rename(c, p, t); err != nil {
		return err
	}
	for _, process := range t.Forget {
		a.streams.forget(process)
	}
	return nil
}

// Bounds of what names a guest.
const (
	maxSeed     = 4096
	maxHostname = 64
	machineID   = 32 // hexadecimal digits, machine-id(5)
)

// checkThaw checks everything before anything is changed.
func checkThaw(t *proto.Thaw) error {
	switch {
	case len(t.Entropy) > maxSeed:
		return fmt.Errorf("%d bytes of entropy: at most %d are taken", len(t.Entropy), maxSeed)
	case t.MachineID != "" && !isMachineID(t.MachineID):
		return fmt.Errorf("machine ID %.40q: want %d hexadecimal digits", t.MachineID, machineID)
	case t.BootID != "" && !isUUID(t.BootID):
		return fmt.Errorf("boot ID %.40q: want a UUID", t.BootID)
	case len(t.Hostname) > maxHostname || strings.ContainsAny(t.Hostname, "\x00\n/"):
		return fmt.Errorf("host name %.70q: want at most %d characters of a name", t.Hostname, maxHostname)
	}
	for what, n := range map[string]int{"network cards": len(t.Interfaces), "disks": len(t.Disks), "processes": len(t.Forget)} {
		if n > proto.MaxThawItems {
			return fmt.Errorf("%d %s: at most %d are allowed", n, what, proto.MaxThawItems)
		}
	}
	if slices.ContainsFunc(t.Disks, func(d proto.ChangedDisk) bool { return d.Size < 0 }) {
		return errors.New("a disk has a size below zero")
	}
	return nil
}

func isMachineID(s string) bool {
	_, err := hex.DecodeString(s)
	return err == nil && len(s) == machineID
}

// isUUID tells whether s is a UUID as the kernel writes one.
func isUUID(s string) bool {
	groups := strings.Split(s, "-")
	_, err := hex.DecodeString(strings.Join(groups, ""))
	return err == nil && s == strings.ToLower(s) && slices.Equal(lengths(groups), []int{8, 4, 4, 4, 12})
}

func lengths(list []string) []int {
	n := make([]int, len(list))
	for i, s := range list {
		n[i] = len(s)
	}
	return n
}
