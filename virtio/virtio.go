// Package virtio is what all virtio devices share, whatever carries them: the split Queue (VIRTIO 1.2,
// section 2.7), feature bits (6), the status machine (2.1, 3.1) and the Device interface that device
// packages implement and transports drive.
//
// Read in this order: Device and Env here, then queue.go (what a device does with a queue), chain.go
// (what a request is), worker.go (the goroutine that serves a queue), machine.go (what a transport does).
//
// # Trust
//
// Guest memory is written by other vCPUs while it is read here. Therefore:
//   - A descriptor is copied once and the copy is validated; memory is never asked twice.
//   - Every address goes through Memory.Slice, which is the only judge of what is guest RAM.
//   - Data buffers stay in guest memory. A device copies out what it decides upon (headers) before it
//     looks at it, and hands the rest to the kernel or to a peer without interpreting it.
//   - What breaks the rules of the ring (a loop, an index out of range, a buffer outside of RAM) breaks
//     that device until the guest resets it: the Queue keeps the error, the device reports it through
//     Interrupter.NeedsReset. Nothing panics and no other device notices.
//
// # Threads
//
// A Queue belongs to one goroutine at a time. A Worker gives each queue a goroutine of its own that
// sleeps on the queue's eventfd; vCPU threads do nothing but wake it (and with KVM_IOEVENTFD not even that).
package virtio

// Memory turns guest physical addresses into bytes. It is implemented by vmm/memory.
type Memory interface {
	// Slice returns the n bytes at gpa. It fails when they are not all in one piece of guest RAM: outside
	// of it, in a hole, across two regions, or where gpa+n wraps. n is at least 0. The slice stays valid as
	// long as the machine lives, and other threads write to it at any time.
	Slice(gpa uint64, n int) ([]byte, error)
}

// Interrupter is how a device reaches the driver. All methods may be called from any goroutine between
// Activate and the end of Deactivate, and never block.
type Interrupter interface {
	// Queue tells the driver that queue index has used buffers. Devices call Queue.Signal, which leaves it
	// out when the driver does not want to hear.
	Queue(index int)

	// Config tells the driver that the configuration space has changed; it changes the configuration
	// generation first, so the device must have changed its configuration before.
	Config()

	// NeedsReset tells the driver that the device has given up until it is reset (2.1.2), and keeps err for
	// the people who want to know why.
	NeedsReset(err error)
}

// Env is what a device works with from Activate to Deactivate.
type Env struct {
	Mem Memory
	// Queues has one entry for each of Device.QueueSizes; nil where the driver has not enabled the queue.
	Queues []*Queue
	// Features are the negotiated ones, those of the transport and the ring included.
	Features  uint64
	Interrupt Interrupter
}

// Queue returns queue i or nil when the driver has not enabled it.
func (e *Env) Queue(i int) *Queue {
	if i < 0 || i >= len(e.Queues) {
		return nil
	}
	return e.Queues[i]
}

// Has reports whether feature bit was negotiated.
func (e *Env) Has(bit uint) bool { return e.Features&(1<<bit) != 0 }

// Device is one virtio device. The transport calls Activate and Deactivate in turn, never both at once;
// the other methods may be called at any time from any thread.
type Device interface {
	// ID is the device type of section 5, for example 2 for block.
	ID() uint32

	// Features are the device's own feature bits. Bits 24 to 41 belong to ring and transport, which add
	// what they know by themselves.
	Features() uint64

	// QueueSizes gives the largest size of each queue, a power of two from 1 to 32768.
	QueueSizes() []uint16

	// ReadConfig fills p from the configuration space at byte offset off. Bytes past its end are left as they
	// are (the transport has zeroed them). off and p come from the guest: off+len(p) may wrap.
	ReadConfig(off uint64, p []byte)

	// Activate starts the device on env: the driver has set DRIVER_OK, or a pause has ended. The device
	// looks at each queue once without waiting for a kick. An error leaves it inactive.
	Activate(env Env) error

	// Deactivate stops the device and returns when none of its goroutines will touch a queue, guest memory or
	// the interrupt any more. It returns the queues it was given, with no chain in flight. Reset, pause
	// and snapshot all start here. On an inactive device it does nothing.
	Deactivate() ([]*Queue, error)
}

// ConfigWriter is a Device whose configuration space has writable fields.
type ConfigWriter interface {
	// WriteConfig stores p at byte offset off. What is not writable, or past the end, is ignored.
	WriteConfig(off uint64, p []byte)
}

// FeatureChecker is a Device with feature bits that depend on one another.
type FeatureChecker interface {
	// CheckFeatures returns an error when the driver's choice breaks a dependency; FEATURES_OK then stays clear
	// (2.2.2). All bits are known to have been offered.
	CheckFeatures(features uint64) error
}

// Resetter is a Device that keeps state beyond its queues, such as connections. Reset is called after
// Deactivate when the driver resets the device, and not when it is only paused.
type Resetter interface {
	Reset()
}

// Snapshotter is a Device with state beyond its queues and its configuration that the driver relies on. Machine calls
// both methods while the device is not active. A Device that is none has nothing to keep.
type Snapshotter interface {
	// SaveState returns that state in a form of the device's own, with a version, in at most MaxDeviceState bytes. An
	// error that wraps ErrUnsaved says why the device cannot be part of a snapshot now.
	SaveState() ([]byte, error)

	// RestoreState loads what SaveState has returned, perhaps in another process, into a device that no driver has used
	// yet. p is not trusted. An error wraps ErrState, and then nothing has changed.
	RestoreState(p []byte) error
}

// SharedMemoryDevice is a Device with shared memory regions (2.10).
type SharedMemoryDevice interface {
	// SharedMemory returns guest physical address and length in bytes of region id.
	SharedMemory(id uint8) (base, size uint64, ok bool)
}
