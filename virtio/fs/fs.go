// Package fs is the file system device (VIRTIO 1.2, section 5.11): FUSE messages, in queues, between a driver in the
// guest and a FileSystem on the host.
//
// Start reading at requests.serve in request.go. A message is copied out of guest memory once and checked as that copy
// (message.go): its lengths, its names, the room for its answer. Then go-fuse's protocol server takes it apart and calls
// the FileSystem. Data of READ and WRITE is not copied: the FileSystem is given the pieces of guest memory.
package fs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/hullvm/hull/virtio"
)

const (
	// TagSize is the length of the name that the guest mounts the file system by, in bytes (5.11.4).
	TagSize = 36
	// MaxQueues bounds Config.Queues.
	MaxQueues = 16

	// The longest request of Linux is a page for each descriptor, one or two for headers, and MaxTransfer in pages:
	// a queue shorter than that would make it send less at a time.
	queueSize = 512

	configLen = TagSize + 4 // tag, num_request_queues; notify_buf_size is there with a feature only (5.11.4)
)

// Queues (5.11.2): hiprio, and the first of the request queues; there is no notification queue between them without its
// feature. Linux sends FORGET over the first, so that it waits for nothing.
const (
	hiprioQueue = iota
	requestQueue
)

// FileSystem is what a Device serves. Its methods are called from as many goroutines as there are queues, but Reset
// never beside another. Node numbers in the header of a request have NodeBit set. All lengths in a request have been
// checked, and that names are neither empty nor have a zero byte; whatever else there is in it may be anything.
type FileSystem interface {
	fuse.RawFileSystem

	// Reset forgets all nodes but the root, and closes all files: the guest has unmounted the file system, or the
	// driver has reset the device.
	Reset()

	// Save returns what Restore needs for the guest to go on with the nodes that it knows and the files that it has open. An
	// error says why that cannot be. No request is under way, here and in Restore, which must not trust what it gets.
	Save() ([]byte, error)
	Restore(p []byte) error
}

// NodeBit is set in the node numbers of requests' headers as a FileSystem sees them: go-fuse has a file of its own in
// the directory with the number 1, which would hide one of the same name.
const NodeBit = 1 << 62

// Config is what makes a Device.
type Config struct {
	// Tag names the file system in the guest: 1 to TagSize bytes without a zero byte.
	Tag string
	// Queues is the number of request queues, 1 to MaxQueues. Each has a goroutine of its own; Linux since 6.11
	// spreads requests over them by vCPU, older ones use the first.
	Queues int
	// ReadDirPlus lets the guest ask for a directory's entries together with their attributes, which pays if it may
	// keep them.
	ReadDirPlus bool
	FileSystem  FileSystem
}

// ErrConfig is wrapped by the error of a Config that no device can have.
var ErrConfig = errors.New("not a file system device")

// CheckTag tells whether a device can have this tag.
func CheckTag(tag string) error {
	if tag == "" || len(tag) > TagSize || strings.Contains(tag, "\x00") {
		return fmt.Errorf("tag %q: must be 1 to %d bytes without a zero byte", tag, TagSize)
	}
	return nil
}

// Device is a file system device.
type Device struct {
	cfg     Config
	session session
	env     virtio.Env
	workers []*virtio.Worker
}

// New makes a file system device.
func New(cfg Config) (*Device, error) {
	if err := CheckTag(cfg.Tag); err != nil {
		return nil, fmt.Errorf("virtio-fs: %w: %w", ErrConfig, err)
	}
	if cfg.Queues < 1 || cfg.Queues > MaxQueues {
		return nil, fmt.Errorf("virtio-fs: %w: %d request queues: must be 1 to %d", ErrConfig, cfg.Queues, MaxQueues)
	}
	if cfg.FileSystem == nil {
		return nil, fmt.Errorf("virtio-fs: %w: it has no file system", ErrConfig)
	}
	return &Device{cfg: cfg, session: session{fs: cfg.FileSystem, readDirPlus: cfg.ReadDirPlus}}, nil
}

// ID implements virtio.Device.
func (*Device) ID() uint32 { return virtio.IDFS }

// Features implements virtio.Device: none (5.11.3).
func (*Device) Features() uint64 { return 0 }

// QueueSizes implements virtio.Device: hiprio and the request queues (5.11.2).
func (d *Device) QueueSizes() []uint16 {
	sizes := make([]uint16, requestQueue+d.cfg.Queues)
	for i := range sizes {
		sizes[i] = queueSize
	}
	return sizes
}

// ReadConfig implements virtio.Device: struct virtio_fs_config (5.11.4).
func (d *Device) ReadConfig(off uint64, p []byte) {
	var b [configLen]byte
	copy(b[:TagSize], d.cfg.Tag)
	binary.LittleEndian.PutUint32(b[TagSize:], uint32(d.cfg.Queues))
	if off < configLen {
		copy(p, b[off:])
	}
}

// Activate implements virtio.Device.
func (d *Device) Activate(env virtio.Env) error {
	d.env = env
	d.session.broken = env.Interrupt.NeedsReset
	for _, q := range env.Queues {
		if q != nil {
			r := &requests{s: &d.session}
			d.workers = append(d.workers, virtio.StartWorker(q, env.Interrupt, r.serve))
		}
	}
	return nil
}

// Deactivate implements virtio.Device. It waits for the requests under way.
func (d *Device) Deactivate() ([]*virtio.Queue, error) {
	for _, w := range d.workers {
		w.Stop()
	}
	queues := d.env.Queues
	d.workers, d.env = nil, virtio.Env{}
	return queues, nil
}

// Reset implements virtio.Resetter: what the guest had open goes with its driver.
func (d *Device) Reset() { d.session.end() }
