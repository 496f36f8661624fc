package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
)

func TestParsePorts(t *testing.T) {
	for entry, want := range map[string]string{
		"80":                      "[0.0.0.0:0->80/tcp]",
		"8080:80":                 "[0.0.0.0:8080->80/tcp]",
		"127.0.0.1:8080:80":       "[127.0.0.1:8080->80/tcp]",
		"127.0.0.1::80":           "[127.0.0.1:0->80/tcp]",
		"[::1]:8080:80/udp":       "[[::1]:8080->80/udp]",
		"::1:8080:80":             "[[::1]:8080->80/tcp]",
		"53:53/udp":               "[0.0.0.0:53->53/udp]",
		"8000-8002:80-82":         "[0.0.0.0:8000->80/tcp 0.0.0.0:8001->81/tcp 0.0.0.0:8002->82/tcp]",
		"8000-8010:80":            "[0.0.0.0:8000->80/tcp]",
		"80-81":                   "[0.0.0.0:0->80/tcp 0.0.0.0:0->81/tcp]",
		"65534-65535:65534-65535": "[0.0.0.0:65534->65534/tcp 0.0.0.0:65535->65535/tcp]",
	} {
		got, err := ParsePorts(entry)
		if err != nil || fmt.Sprint(got) != want {
			t.Errorf("%s: %v, %v; want %s", entry, got, err, want)
		}
	}
	for _, bad := range []string{
		"", ":", "0", "65536", "-1", "80/sctp", "80/", "a", "8080:", "host:80:80", "1.2.3:80:80", "2-1:2-1", "1-2-3", "0:80", "99999:80", "[::1:80:80]",
	} {
		if got, err := ParsePorts(bad); err == nil {
			t.Errorf("%q was taken as %v", bad, got)
		}
	}
}

func TestMAC(t *testing.T) {
	for s, ok := range map[string]bool{"02:42:ac:11:00:02": true, "00-00-5e-00-53-01": true, "": false, "02:42:ac:11:00": false, "01:00:5e:00:00:01": false, "02:42:ac:11:00:02:03:04": false} {
		if _, err := ParseMAC(s); (err == nil) != ok {
			t.Errorf("%q: %v", s, err)
		}
	}
	if a, b := randomMAC(), randomMAC(); a == b || a[0]&3 != 2 {
		t.Errorf("random addresses %v and %v", a, b)
	}
	b, err := json.Marshal(NetworkConfig{MAC: MAC{2, 0, 0, 0, 0, 1}})
	if err != nil || !strings.Contains(string(b), `"mac":"02:00:00:00:00:01"`) {
		t.Errorf("%s, %v", b, err)
	}
	var c Config
	if err := json.Unmarshal(b, &c); err != nil || c.MAC != (MAC{2, 0, 0, 0, 0, 1}) {
		t.Errorf("%+v, %v", c.MAC, err)
	}
}

func TestNetworkNames(t *testing.T) {
	for name, ok := range map[string]bool{"user": true, "none": true, "tap=tap0": true, "tap=": false, "tap=a/b": false, "tap": false, "host": false, "": false, "web": false} {
		if err := CheckNetwork(name); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
	c := NetworkConfig{Network: NetworkNone, Ports: []PortBinding{{Container: 80}}}
	if err := c.fill(); err == nil {
		t.Error("a port is published without a network")
	}
}

func TestNetworkConfigOfATap(t *testing.T) {
	prefix, addr := netip.MustParsePrefix, netip.MustParseAddr
	for name, tt := range map[string]struct {
		c    NetworkConfig
		want string
	}{
		"nothing":         {NetworkConfig{}, ""},
		"addresses":       {NetworkConfig{Addresses: []netip.Prefix{prefix("192.0.2.2/24"), prefix("2001:db8::2/64")}}, ""},
		"gateways":        {NetworkConfig{Addresses: []netip.Prefix{prefix("192.0.2.2/24"), prefix("2001:db8::2/64")}, Gateways: []netip.Addr{addr("192.0.2.1"), addr("2001:db8::1")}}, ""},
		"two gateways":    {NetworkConfig{Addresses: []netip.Prefix{prefix("192.0.2.2/24")}, Gateways: []netip.Addr{addr("192.0.2.1"), addr("192.0.2.3")}}, "another of its family"},
		"foreign gateway": {NetworkConfig{Addresses: []netip.Prefix{prefix("192.0.2.2/24")}, Gateways: []netip.Addr{addr("192.0.3.1")}}, "no address in its network"},
		"itself":          {NetworkConfig{Addresses: []netip.Prefix{prefix("192.0.2.2/24")}, Gateways: []netip.Addr{addr("192.0.2.2")}}, "no address in its network"},
		"gateway alone":   {NetworkConfig{Gateways: []netip.Addr{addr("192.0.2.1")}}, "no address in its network"},
		"port":            {NetworkConfig{Ports: []PortBinding{{Container: 80}}}, "-p needs"},
		"user mode":       {NetworkConfig{Network: NetworkUser, Addresses: []netip.Prefix{prefix("192.0.2.2/24")}}, "needs --network tap=NAME"},
	} {
		if tt.c.Network == "" {
			tt.c.Network = NetworkTap + "tap0"
		}
		err := tt.c.fill()
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

// A container on a tap interface asks name servers by itself: not one that only this host reaches.
func TestResolvConfOnATap(t *testing.T) {
	c := NetworkConfig{Network: NetworkTap + "tap0"}
	n := &guestNetwork{}
	if text := n.resolvConf(&c); strings.Contains(text, "10.0.2.3") || strings.Contains(text, "nameserver 127.") {
		t.Errorf("resolv.conf: %q", text)
	}
	c.DNS = []netip.Addr{netip.MustParseAddr("192.0.2.53")}
	if text := n.resolvConf(&c); !strings.Contains(text, "nameserver 192.0.2.53\n") {
		t.Errorf("resolv.conf: %q", text)
	}
}

// A network that cannot be made leaves no socket open.
func TestNewNetworkCleansUp(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	other := free.Addr().String()
	free.Close()
	c := NetworkConfig{Network: NetworkUser, Ports: []PortBinding{
		{Host: netip.MustParseAddrPort(other), Container: 80, Protocol: "tcp"},
		{Host: netip.MustParseAddrPort(taken.Addr().String()), Container: 81, Protocol: "tcp"},
	}}
	table := &fileTable{}
	defer table.close()
	if _, err := newNetwork(context.Background(), &c, networkGuest{hostname: "h", cpus: 1}, table); err == nil || !strings.Contains(err.Error(), "already allocated") {
		t.Errorf("a port that is taken: %v", err)
	}
	again, err := net.Listen("tcp", other)
	if err != nil {
		t.Fatalf("the other port is still taken: %v", err)
	}
	again.Close()

	c.Ports = []PortBinding{{Host: netip.MustParseAddrPort("127.0.0.1:0"), Container: 80, Protocol: "udp"}}
	n, err := newNetwork(context.Background(), &c, networkGuest{hostname: "h", cpus: 1}, table)
	if err != nil {
		t.Fatal(err)
	}
	if p := n.published(); len(p) != 1 || p[0].Host.Port() == 0 || p[0].Host.Addr() != netip.MustParseAddr("127.0.0.1") {
		t.Errorf("published: %v", p)
	}
	n.close()
}

func FuzzParsePorts(f *testing.F) {
	for _, s := range []string{"80", "127.0.0.1:8000-8010:80-90/udp", "[::1]:1:1", "1-65535"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		list, err := ParsePorts(s)
		for _, p := range list {
			if err != nil || p.Container == 0 || p.Protocol != "tcp" && p.Protocol != "udp" || !p.Host.Addr().IsValid() {
				t.Errorf("%q: %v, %v", s, p, err)
			}
		}
	})
}
