package vsock

import (
	"path/filepath"
	"testing"

	"github.com/hullvm/hull/virtio"
	"github.com/hullvm/hull/virtio/mmio"
	"github.com/hullvm/hull/virtio/virtiotest"
)

// packetOfDriver is a packet as a request of the suites.
func packetOfDriver(name string, h header, data string) virtiotest.Request {
	var raw [headerSize]byte
	h.encode(&raw)
	return virtiotest.Request{Name: name, Queue: txQueue, Out: append(raw[:], data...), Check: func(t testing.TB, _ []byte, written int) {
		if written != 0 {
			t.Errorf("%s: %d bytes written to a packet that is to be read", name, written)
		}
	}}
}

func fromGuest(op uint16, n uint32) header {
	return header{srcCID: testCID, dstCID: hostCID, srcPort: 1000, dstPort: 7, len: n, typ: typeStream, op: op, bufAlloc: plenty}
}

// suite sends packets that are not answered, so that the suites need no receive buffers.
func suite(more ...virtiotest.Request) virtiotest.Suite {
	forged := fromGuest(opRequest, 0)
	forged.srcCID++
	return virtiotest.Suite{
		New: func(t testing.TB) virtio.Device {
			dev, err := New(Config{GuestCID: testCID, Path: filepath.Join(t.TempDir(), "v")})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := dev.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			})
			return dev
		},
		Connect: func(dev virtio.Device, mem virtio.Memory, irq virtiotest.IRQ) (virtiotest.Transport, error) {
			return mmio.New(dev, mem, irq, mmio.Options{})
		},
		ConfigLen: 8,
		Requests: append([]virtiotest.Request{
			packetOfDriver("RST for nobody", fromGuest(opRST, 0), ""),
			packetOfDriver("RST with data", fromGuest(opRST, 5), "bytes"),
			packetOfDriver("forged source", forged, ""),
		}, more...),
	}
}

func TestSuite(t *testing.T) { virtiotest.Run(t, suite()) }

// fuzzSuite has packets of every kind as seeds.
func fuzzSuite() virtiotest.Suite {
	unknown := fromGuest(99, 0)
	seqpacket := fromGuest(opRequest, 0)
	seqpacket.typ = 2
	return suite(
		packetOfDriver("REQUEST", fromGuest(opRequest, 0), ""),
		packetOfDriver("RESPONSE", fromGuest(opResponse, 0), ""),
		packetOfDriver("SHUTDOWN", fromGuest(opShutdown, 0), ""),
		packetOfDriver("RW", fromGuest(opRW, 5), "bytes"),
		packetOfDriver("RW without its data", fromGuest(opRW, 1<<31), "bytes"),
		packetOfDriver("CREDIT_UPDATE", fromGuest(opCreditUpdate, 0), ""),
		packetOfDriver("CREDIT_REQUEST", fromGuest(opCreditRequest, 0), ""),
		packetOfDriver("unknown operation", unknown, ""),
		packetOfDriver("unknown type", seqpacket, ""),
	)
}

func FuzzRing(f *testing.F)      { fuzzSuite().FuzzRing(f) }
func FuzzRegisters(f *testing.F) { fuzzSuite().FuzzRegisters(f) }
