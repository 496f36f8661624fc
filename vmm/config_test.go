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
func TestValidateShares(t *testing.T) {
	for name, tt := range map[string]struct {
		tags []string
		want string // in the error
	}{
		"two":           {tags: []string{"a", "b"}},
		"longest":       {tags: []string{strings.Repeat("x", 36)}},
		"the same":      {tags: []string{"a", "a"}, want: `share 1: another one has the tag "a"`},
		"none":          {tags: []string{""}, want: "share 0: tag"},
		"too long":      {tags: []string{strings.Repeat("x", 37)}, want: "1 to 36 bytes"},
		"with a zero":   {tags: []string{"a\x00b"}, want: "without a zero byte"},
		"second is bad": {tags: []string{"a", ""}, want: "share 1: tag"},
	} {
		c := Config{CPUs: 1}
		for _, tag := range tt.tags {
			c.Shares = append(c.Shares, Share{Tag: tag, File: File{Path: "/"}})
		}
		if err := c.Validate(); (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}
