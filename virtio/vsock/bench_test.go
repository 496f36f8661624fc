package vsock

import (
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/hullvm/hull/virtio/virtiotest"
)

// A lean guest for benchmarks: no goroutines, no allocation, buffers as Linux has them.

// BenchmarkToHost sends packets of the given size to a program that reads as fast as it can.
func BenchmarkToHost(b *testing.B) {
	for _, size := range []int{64, 4096, 64 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			g := newDriver(b, options{queue: 16, txSize: headerSize + size})
			host, _ := g.open(g.listenHost(7), 1000, 7, 1<<31)
			drained := make(chan struct{})
			go func() {
				defer close(drained)
				drain(host)
			}()
			h := header{srcCID: testCID, dstCID: hostCID, srcPort: 1000, dstPort: 7, typ: typeStream, op: opRW, len: uint32(size), bufAlloc: 1 << 31}
			r := g.Rings[txQueue]
			for i := range uint16(16) {
				h.encode((*[headerSize]byte)(g.Mem.Bytes(g.txAt[i], headerSize)))
				r.SetDesc(i, virtiotest.Desc{Addr: g.txAt[i], Len: uint32(headerSize + size)})
			}
			var tx, fwd uint32
			b.SetBytes(int64(size))
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				for tx-fwd > maxGrant-uint32(size) {
					fwd = g.lean().fwdCnt
				}
				i := g.txBuffer()
				tx += uint32(size)
				r.Offer(i)
				r.KickIfWanted()
			}
			for fwd != tx { // until the last byte has gone
				h.op = opCreditRequest
				h.len = 0
				i := g.txBuffer()
				h.encode((*[headerSize]byte)(g.Mem.Bytes(g.txAt[i], headerSize)))
				r.SetDesc(i, virtiotest.Desc{Addr: g.txAt[i], Len: headerSize})
				r.Offer(i)
				r.KickIfWanted()
				fwd = g.lean().fwdCnt
			}
			b.StopTimer()
			host.CloseWrite()
			g.send(packet{header: header{srcPort: 1000, dstPort: 7, op: opRST}})
			<-drained
		})
	}
}

// BenchmarkToGuest receives what a program writes as fast as it can.
func BenchmarkToGuest(b *testing.B) {
	for _, size := range []int{64, 4096, 64 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			g := newDriver(b, options{queue: 128, rxSize: 3776, txSize: 64})
			host, _ := g.open(g.listenHost(7), 1000, 7, 1<<20)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			b.ResetTimer()
			go func() {
				p := make([]byte, size)
				for range b.N {
					if _, err := host.Write(p); err != nil {
						return
					}
				}
			}()
			h := header{srcCID: testCID, dstCID: hostCID, srcPort: 1000, dstPort: 7, typ: typeStream, op: opCreditUpdate, bufAlloc: 1 << 20}
			r := g.Rings[txQueue]
			told := uint32(0)
			packets := 0
			for got := 0; got < b.N*size; {
				p := g.lean()
				packets++
				got += int(p.len)
				if uint32(got)-told > 1<<19 {
					told = uint32(got)
					h.fwdCnt = told
					i := g.txBuffer()
					h.encode((*[headerSize]byte)(g.Mem.Bytes(g.txAt[i], headerSize)))
					r.SetDesc(i, virtiotest.Desc{Addr: g.txAt[i], Len: headerSize})
					r.Offer(i)
					r.KickIfWanted()
				}
			}
			b.StopTimer()
			b.ReportMetric(float64(b.N*size)/float64(packets), "B/packet")
		})
	}
}

// BenchmarkRoundTrip has a program in the guest echo what one on the host says.
func BenchmarkRoundTrip(b *testing.B) {
	g := newDriver(b, options{})
	host, _ := g.open(g.listenHost(7), 1000, 7, 1<<31)
	go func() {
		p := make([]byte, 64)
		for range b.N {
			host.Write(p)
			if _, err := io.ReadFull(host, p); err != nil {
				return
			}
		}
	}()
	h := header{srcCID: testCID, dstCID: hostCID, srcPort: 1000, dstPort: 7, typ: typeStream, op: opRW, len: 64, bufAlloc: 1 << 31}
	r := g.Rings[txQueue]
	b.ReportAllocs()
	b.ResetTimer()
	for n := 0; n < b.N; {
		p := g.lean()
		if p.op != opRW {
			continue
		}
		n++
		h.fwdCnt += p.len
		i := g.txBuffer()
		h.encode((*[headerSize]byte)(g.Mem.Bytes(g.txAt[i], headerSize)))
		r.SetDesc(i, virtiotest.Desc{Addr: g.txAt[i], Len: headerSize + 64})
		r.Offer(i)
		r.KickIfWanted()
	}
}

// BenchmarkConnect opens connections from the host and closes them.
func BenchmarkConnect(b *testing.B) {
	g := newDriver(b, options{})
	b.ResetTimer()
	for range b.N {
		c, port := g.connect(9, plenty)
		c.Close()
		g.expect(opShutdown, port, 9)
		g.send(packet{header: header{srcPort: 9, dstPort: port, op: opRST}})
	}
}

// BenchmarkUnixSocket is what the host's sockets do without a device.
func BenchmarkUnixSocket(b *testing.B) {
	for _, size := range []int{64, 4096, 64 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			g := newDriver(b, options{})
			l := g.listenHost(7)
			out, err := net.Dial("unix", g.path+"_7")
			if err != nil {
				b.Fatal(err)
			}
			in, err := l.Accept()
			if err != nil {
				b.Fatal(err)
			}
			defer in.Close()
			b.SetBytes(int64(size))
			b.ResetTimer()
			go func() {
				p := make([]byte, size)
				for range b.N {
					out.Write(p)
				}
				out.Close()
			}()
			drain(in)
		})
	}
}

// drain reads to the end with a buffer as large as programs have.
func drain(r io.Reader) {
	p := make([]byte, 256<<10)
	for {
		if _, err := r.Read(p); err != nil {
			return
		}
	}
}

// lean waits for a packet and returns its header only.
func (g *driver) lean() (h header) {
	r := g.Rings[rxQueue]
	for {
		id, _, ok := r.TakeUsed()
		if ok {
			g.rxSeen++
			h.decode((*[headerSize]byte)(g.Mem.Bytes(g.rxAt[id], headerSize)))
			g.offer(uint16(id))
			r.KickIfWanted()
			return h
		}
		r.SetUsedEvent(g.rxSeen)
		if r.UsedIdx() == g.rxSeen {
			<-g.bell.rx
		}
	}
}
