package net

import (
	"bytes"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// peer is the other end of the cable.
type peer struct {
	offloads uint64

	mu      sync.Mutex
	bell    *os.File // an eventfd, made by FD
	fd      int      // its descriptor
	rung    bool     // something has come since Receive found nothing
	gone    bool     // nothing comes any more
	asked   int      // calls of Receive
	sent    []packet // by the guest
	waiting []packet // for the guest
	endless *packet  // what comes when none is waiting
}

type packet struct {
	h     Header
	frame []byte
}

func (p *peer) Offloads() uint64 { return p.offloads }

func (p *peer) Start(uint64) error { return nil }

func (p *peer) FD() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bell == nil {
		fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
		if err != nil {
			panic(err)
		}
		p.fd, p.bell = fd, os.NewFile(uintptr(fd), "bell") // closed with the peer by the garbage collector
		if p.rung {
			p.notify()
		}
	}
	return p.fd
}

// notify makes FD's descriptor readable. mu is held.
func (p *peer) notify() {
	if p.rung = true; p.bell != nil {
		unix.Write(p.fd, one)
	}
}

// quiet makes it not readable.
func (p *peer) quiet() {
	if p.rung && p.bell != nil {
		unix.Read(p.fd, make([]byte, 8))
	}
	p.rung = false
}

func (p *peer) Send(header *[HeaderSize]byte, frame [][]byte) {
	var h Header
	h.Decode(header)
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.sent) < 1000 {
		p.sent = append(p.sent, packet{h, bytes.Join(frame, nil)})
	}
}

func (p *peer) Receive(header *[HeaderSize]byte, frame [][]byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked++
	next := p.endless
	if len(p.waiting) > 0 {
		next = &p.waiting[0]
	}
	if next == nil {
		if p.gone { // and FD is readable for ever, as the descriptor of a connection that has ended
			return 0, io.EOF
		}
		p.quiet()
		return 0, nil
	}
	next.h.Encode(header)
	room := 0
	for _, b := range frame {
		room += len(b)
	}
	if len(next.frame) <= room {
		rest := next.frame
		for _, b := range frame {
			rest = rest[copy(b, rest):]
		}
		p.drop()
	}
	return len(next.frame), nil
}

func (p *peer) Drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drop()
}

func (p *peer) drop() {
	if len(p.waiting) > 0 {
		p.waiting = p.waiting[1:]
	}
}

// bring puts packets on the cable.
func (p *peer) bring(packets ...packet) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting = append(p.waiting, packets...)
	p.notify()
}

// leave ends what there is at this end of the cable.
func (p *peer) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gone = true
	p.notify()
}

// askings is how often Receive has been called.
func (p *peer) askings() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked
}

func (p *peer) received() []packet {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sent
}
