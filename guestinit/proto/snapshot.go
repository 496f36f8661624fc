package proto

import (
	"context"
	"fmt"
	"math"
	"time"
)

// FeatureSnapshots: the requests of this file are understood.
const FeatureSnapshots = "snapshots"

// Messages around a snapshot. What a guest is while one is made is what every copy of it begins as: nothing of its container runs
// until the host has said who this copy is.
//
//	detach   When this is answered, the host shuts down its direction of all streams, reads all of them to their ends, those of
//	         input as well, and closes them. Their ends are not the ends of what the processes read and write.
//	freeze   No stream is attached and no process of the container runs any more when this is answered. The VM may be saved now,
//	         and may go on as well.
//	clock    The wall clock is compared and set.
//	thaw     The guest takes on its identity. The container goes on when this is answered.
//
// From freeze to thaw the end of a control connection is not the end of the guest. When none is left, as in a VM that was
// restored, the agent calls the host again, once; and the host may call as ever. Streams are attached again like new ones, before the
// thaw or after it. The connection that brings the thaw becomes the one whose end is the guest's.
const (
	TypeDetach Type = "detach"
	TypeFreeze Type = "freeze" // the answer has the type frozen
	TypeFrozen Type = "frozen"
	TypeClock  Type = "clock" // the answer has the same type
	TypeThaw   Type = "thaw"
)

// CodeBusy: not now. A freeze is refused while something is started or copied, and nearly everything else while frozen.
const CodeBusy Code = "busy"

// Freeze stops the container, if there is one.
type Freeze struct {
	// Sync writes what is in the guest's memory of its file systems to its disks.
	Sync bool `json:"sync,omitempty"`
}

// Frozen tells what there is in a frozen guest.
type Frozen struct {
	// Streams are those that can be attached again.
	Streams []StreamHeader `json:"streams,omitempty"`
}

// Clock asks for the wall clock.
type Clock struct {
	// Adjust is added to the clock first, in ns.
	Adjust int64 `json:"adjust,omitempty"`
	// Now is the clock in ns since 1970, in the answer.
	Now int64 `json:"now,omitempty"`
}

// Thaw is who a guest is from now on. What is not given stays.
type Thaw struct {
	// Entropy is fed to the guest's random generator and credited: 32 bytes or more, known to nobody else. The generator is
	// seeded anew with it at once.
	Entropy []byte `json:"entropy,omitempty"`
	// MachineID, 32 hexadecimal digits, replaces the one in the container's /etc/machine-id, if there is one.
	MachineID string `json:"machineId,omitempty"`
	// BootID, a UUID, is what the container reads in /proc/sys/kernel/random/boot_id.
	BootID string `json:"bootId,omitempty"`
	// Hostname is the container's name for itself. /etc/hostname holds it if Start has given one.
	Hostname string `json:"hostname,omitempty"`
	// Hosts and ResolvConf replace what Start has given.
	Hosts      *string `json:"hosts,omitempty"`
	ResolvConf *string `json:"resolvConf,omitempty"`
	// Interfaces are network cards that are another's now.
	Interfaces []Readdress `json:"interfaces,omitempty"`
	// EndConnections ends TCP connections that leave the guest: those who use them get an error.
	EndConnections bool `json:"endConnections,omitempty"`
	// Disks are disks that are others now. The container must not have been started.
	Disks []ChangedDisk `json:"disks,omitempty"`
	// Forget names processes whose streams nobody will attach again.
	Forget []string `json:"forget,omitempty"`
}

// Readdress gives a network card, and all that depends on it, other addresses.
type Readdress struct {
	Was string `json:"was"` // the MAC address that it has
	Interface
}

// ChangedDisk is a disk of which the guest's kernel is to forget what it knows.
type ChangedDisk struct {
	Disk string `json:"disk"` // its name in the guest's /dev
	// Size is how large it is now, in bytes.
	Size int64 `json:"size"`
}

// MaxThawItems bounds each of Thaw's lists.
const MaxThawItems = 64

// Detach has the agent take the ends of streams for no more than that, until a Freeze, which must follow, has been answered.
func (c *Client) Detach(ctx context.Context) error {
	if _, _, err := c.request(ctx, Message{Type: TypeDetach}); err != nil {
		return fmt.Errorf("detaching from the container: %w", err)
	}
	return nil
}

// Freeze stops the container. All streams must be at their ends, see Detach.
func (c *Client) Freeze(ctx context.Context, f Freeze) (*Frozen, error) {
	_, answer, err := c.request(ctx, Message{Type: TypeFreeze, Freeze: &f})
	if err == nil && (answer.Type != TypeFrozen || answer.Frozen == nil) {
		err = fmt.Errorf("unexpected answer %q", answer.Type)
	}
	if err != nil {
		return nil, fmt.Errorf("freezing the container: %w", err)
	}
	return answer.Frozen, nil
}

// Thaw lets a frozen guest go on as somebody else.
func (c *Client) Thaw(ctx context.Context, t Thaw) error {
	if _, _, err := c.request(ctx, Message{Type: TypeThaw, Thaw: &t}); err != nil {
		return fmt.Errorf("letting the container go on: %w", err)
	}
	return nil
}

const (
	// clockGood is how well the clock must be known to make asking once more needless, clockFair how well after clockSamples.
	clockGood    = time.Millisecond / 2
	clockFair    = 5 * time.Millisecond / 2
	clockSamples = 8

	// clockPatience bounds the asking of a guest, or on a host, that is busy: what is known then is what there is.
	clockPatience = time.Second
)

// SetClock sets the guest's clock to this host's, and returns by how much it may be wrong.
//
// An answer was given after it was asked for and before it came: so much is known of how far the guest's clock is ahead. Each
// answer that took less than others to be asked for, or to come, tells more.
func (c *Client) SetClock(ctx context.Context) (within time.Duration, err error) {
	began := time.Now()
	least, most := int64(math.MinInt64), int64(math.MaxInt64) // by how much it is ahead, ns
	for n := 1; ; n++ {
		before := time.Now()
		now, err := c.clock(ctx, 0)
		if err != nil {
			return 0, err
		}
		asked := before.UnixNano()
		came := asked + int64(time.Since(before)) // whatever happens to this host's clock
		if least, most = max(least, now-came), min(most, now-asked); least > most {
			least, most = now-came, now-asked // one of the clocks was set meanwhile
		}
		within = time.Duration(most-least) / 2
		if within < clockGood || n >= clockSamples && (within < clockFair || time.Since(began) > clockPatience) {
			break
		}
	}
	_, err = c.clock(ctx, -(least + (most-least)/2))
	return within, err
}

func (c *Client) clock(ctx context.Context, adjust int64) (now int64, err error) {
	_, answer, err := c.request(ctx, Message{Type: TypeClock, Clock: &Clock{Adjust: adjust}})
	if err == nil && (answer.Type != TypeClock || answer.Clock == nil) {
		err = fmt.Errorf("unexpected answer %q", answer.Type)
	}
	if err != nil {
		return 0, fmt.Errorf("setting the guest's clock: %w", err)
	}
	return answer.Clock.Now, nil
}
