package net

import (
	"encoding/binary"

	"github.com/hullvm/hull/virtio"
)

// Classes, commands and answers of the control queue (5.1.6.5).
const (
	ctrlMQ             = 4 // VIRTIO_NET_CTRL_MQ
	ctrlMQVQPairsSet   = 0 // VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET (5.1.6.5.5)
	ctrlMQVQPairsBytes = 2 // struct virtio_net_ctrl_mq

	ctrlOK  = 0 // VIRTIO_NET_OK
	ctrlErr = 1 // VIRTIO_NET_ERR
)

// ctrlRate bounds the commands in a second: what they make the host's kernel do is done under a lock that all of its
// networks share.
const ctrlRate = 500

// control returns the control queue, which comes after the last of the pairs that were negotiated (5.1.2); nil if there
// is none.
func (d *Device) control() *virtio.Queue {
	if !d.env.Has(F_CTRL_VQ) {
		return nil
	}
	return d.env.Queue(pairQueues * d.served())
}

// obey carries out the commands that the driver has queued.
func (d *Device) obey(w *virtio.Worker) error {
	q := w.Queue()
	for !w.Stopping() {
		c, err := q.Pop()
		if c == nil || err != nil {
			return err
		}
		if !w.Throttle(virtio.Cost{Limiter: d.commands, Tokens: 1}) {
			q.Unpop(c)
			return nil
		}
		if c.Writable.Len() == 0 { // nobody would learn what has become of it
			q.Push(c, 0)
			continue
		}
		ack := [1]byte{ctrlErr}
		if d.command(&c.Readable) {
			ack[0] = ctrlOK
		}
		q.Push(c, c.Writable.Write(ack[:]))
	}
	return nil
}

// command carries out one command and reports whether it was one. There is none but MQ's: what a driver could ask for
// otherwise was not offered.
func (d *Device) command(b *virtio.Buffers) (ok bool) {
	var cmd [2 + ctrlMQVQPairsBytes]byte // class, command, struct virtio_net_ctrl_mq
	if b.Len() != len(cmd) {
		return false
	}
	b.Read(cmd[:])
	if cmd[0] != ctrlMQ || cmd[1] != ctrlMQVQPairsSet || !d.env.Has(F_MQ) {
		return false
	}
	n := int(binary.LittleEndian.Uint16(cmd[2:]))
	if n < 1 || n > len(d.pairs) {
		return false
	}
	for _, p := range d.pairs[:n] {
		if p.queue(rxQueue) == nil || p.queue(txQueue) == nil {
			return false // frames for it would go nowhere
		}
	}
	if err := d.use(n); err != nil {
		// The backend cannot: all stays as it was, as far as it can.
		_ = d.use(d.used)
		return false
	}
	d.used = n
	return true
}
