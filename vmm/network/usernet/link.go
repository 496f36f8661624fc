package usernet

import (
	"fmt"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// headerSize is the number of bytes of virtio-net's header before each frame (VIRTIO 1.2, 5.1.6).
const headerSize = 12

// Feature bits of virtio-net (5.1.3) that Offloads may have.
const (
	featureCSum      = 1 << 0 // VIRTIO_NET_F_CSUM
	featureGuestCSum = 1 << 1 // VIRTIO_NET_F_GUEST_CSUM
)

// headerDataValid says that the frame's checksum need not be looked at (5.1.6, VIRTIO_NET_HDR_F_DATA_VALID).
const headerDataValid = 2

// Offloads is as virtio-net's Backend has it: checksums from the guest are not looked at, and those to it are right.
func (*User) Offloads() uint64 { return featureCSum | featureGuestCSum }

// Start has ready called, which must not block, from any goroutine, when a frame has come after Receive has found none.
func (u *User) Start(_ uint64, ready func()) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return fmt.Errorf("user-mode network: it is closed")
	}
	u.ready = ready
	return nil
}

// Stop ends that: when it returns, ready is not called any more. Connections go on: the device may only be paused.
func (u *User) Stop() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.ready = nil
}

// WriteNotify implements channel.Notification: there is a frame for the guest.
func (u *User) WriteNotify() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.ready != nil {
		u.ready()
	}
}

// Send is as virtio-net's Backend has it.
func (u *User) Send(h *[headerSize]byte, frame [][]byte) {
	n := 0
	for _, p := range frame {
		n += len(p)
	}
	// Guest memory can change at any time: all that follows looks at a copy.
	b := buffer.NewViewSize(n)
	rest := b.AsSlice()
	for _, p := range frame {
		rest = rest[copy(rest, p):]
	}
	if u.toPeer(h, b) {
		return
	}
	if !u.toStack(b.AsSlice()) {
		b.Release()
		return
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithView(b)})
	u.link.InjectInbound(0, pkt)
	pkt.DecRef()
}

// Receive is as virtio-net's Backend has it.
func (u *User) Receive(header *[headerSize]byte, frame [][]byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.next == nil {
		if u.next = u.link.Read(); u.next == nil {
			return 0, nil
		}
	}
	n, room := u.next.Size(), 0
	for _, p := range frame {
		room += len(p)
	}
	if n > room {
		return n, nil
	}
	*header = [headerSize]byte{headerDataValid}
	for _, b := range u.next.AsSlices() {
		for len(b) > 0 {
			k := copy(frame[0], b)
			b = b[k:]
			if frame[0] = frame[0][k:]; len(frame[0]) == 0 {
				frame = frame[1:]
			}
		}
	}
	u.next.DecRef()
	u.next = nil
	return n, nil
}

// Drop is as virtio-net's Backend has it.
func (u *User) Drop() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.next != nil {
		u.next.DecRef()
		u.next = nil
	}
}

// toGuest queues a copy of a whole frame. A queue that is full loses it, as networks do.
func (u *User) toGuest(frame []byte) (queued bool) {
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(frame)})
	var list stack.PacketBufferList
	list.PushBack(pkt)
	n, _ := u.link.WritePackets(list)
	list.Reset()
	return n == 1
}
