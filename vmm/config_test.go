package vmm

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/hullvm/hull/virtio"
	"github.com/hullvm/hull/virtio/net"
	"github.com/hullvm/hull/vmm/network"
)

// Whoever opens a tap does not know the device.
func TestTapQueuesFitTheDevice(t *testing.T) {
	if network.MaxQueues != net.MaxPairs {
		t.Errorf("a tap is opened with up to %d queues, a card has up to %d pairs", network.MaxQueues, net.MaxPairs)
	}
}

func TestValidateNIC(t *testing.T) {
	socket := &File{FD: 5}
	for name, tt := range map[string]struct {
		nic  NIC
		want string
	}{
		"socket":      {NIC{Socket: socket}, ""},
		"tap":         {NIC{Tap: []File{{FD: 5}, {FD: 6}}}, ""},
		"limits":      {NIC{Socket: socket, RX: net.Limits{Bytes: virtio.Rate{PerSecond: 1e6, Burst: 1e6}}}, ""},
		"nothing":     {NIC{}, "either a socket or a tap"},
		"both":        {NIC{Socket: socket, Tap: []File{{FD: 6}}}, "either a socket or a tap"},
		"tap by path": {NIC{Tap: []File{{Path: "/dev/net/tun"}}}, "by descriptor"},
		"burst alone": {NIC{Socket: socket, TX: net.Limits{Frames: virtio.Rate{Burst: 1}}}, "without a rate"},
	} {
		c := Config{CPUs: 1, NICs: []NIC{tt.nic}}
		b, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		var back Config
		if err := json.Unmarshal(b, &back); err != nil {
			t.Fatal(err)
		}
		err = back.Validate()
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}
