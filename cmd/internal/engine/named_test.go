package engine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func createNetwork(t testing.TB, e *Engine, n Network) *Network {
	t.Helper()
	made, err := e.CreateNetwork(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func pool(subnet string) Pool { return Pool{Subnet: netip.MustParsePrefix(subnet)} }

func TestNetworks(t *testing.T) {
	e := newTestEngine(t)
	web := createNetwork(t, e, Network{Name: "web", Labels: map[string]string{"a": "b"}})
	own := createNetwork(t, e, Network{Name: "own", IPv4: pool("10.77.0.0/16"), IPv6: RandomPool6(), Internal: true})
	if web.Driver != DriverUser || !web.IPv4.Subnet.IsValid() || web.Fixed || web.IPv6.Subnet.IsValid() || web.IPv4.Gateway != web.IPv4.Subnet.Addr().Next() {
		t.Errorf("%+v", web)
	}
	if !own.Fixed || own.IPv4.Gateway != netip.MustParseAddr("10.77.0.1") || own.IPv6.Subnet.Bits() != 64 {
		t.Errorf("%+v", own)
	}
	var names []string
	all, err := e.Networks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range all {
		names = append(names, n.Name)
	}
	if diff := cmp.Diff([]string{"none", "user", "web", "own"}, names); diff != "" {
		t.Error(diff)
	}
	for ref, want := range map[string]string{"web": "web", web.ID: "web", web.ID[:5]: "web", "bridge": "user", "none": "none"} {
		if n, err := e.GetNetwork(t.Context(), ref); err != nil || n.Name != want {
			t.Errorf("%q: %v, %v", ref, n, err)
		}
	}
	if n, err := e.GetNetwork(t.Context(), "web"); err != nil || !cmp.Equal(n.Labels, web.Labels) || n.IPv4 != web.IPv4 {
		t.Errorf("%+v, %v, want %+v", n, err, web)
	}
	for _, ref := range []string{"nope", "", "zz"} {
		if _, err := e.GetNetwork(t.Context(), ref); !errors.Is(err, ErrNoNetwork) {
			t.Errorf("%q: %v", ref, err)
		}
	}
	if _, err := e.RemoveNetwork(t.Context(), "user"); !errors.Is(err, ErrPredefined) {
		t.Error(err)
	}
	if _, err := e.RemoveNetwork(t.Context(), "web"); err != nil {
		t.Error(err)
	}
	if _, err := e.RemoveNetwork(t.Context(), "web"); !errors.Is(err, ErrNoNetwork) {
		t.Error(err)
	}
	if again := createNetwork(t, e, Network{Name: "web"}); again.IPv4 != web.IPv4 || again.ID == web.ID {
		t.Errorf("%+v after %+v", again, web)
	}
}

func TestNetworksThatCannotBe(t *testing.T) {
	e := newTestEngine(t)
	createNetwork(t, e, Network{Name: "web", IPv4: pool("10.77.0.0/16")})
	for name, tt := range map[string]struct {
		n    Network
		want string
	}{
		"the same name":      {Network{Name: "web"}, "network with name web already exists"},
		"predefined":         {Network{Name: "host"}, "predefined host network"},
		"no name":            {Network{}, "invalid network name"},
		"a path":             {Network{Name: "../x"}, "invalid network name"},
		"long name":          {Network{Name: strings.Repeat("x", 200)}, "invalid network name"},
		"another driver":     {Network{Name: "bb", Driver: "macvlan"}, `plugin "macvlan" not found`},
		"overlap":            {Network{Name: "bb", IPv4: pool("10.77.1.0/24")}, "Pool overlaps"},
		"overlap with user":  {Network{Name: "bb", IPv4: pool("10.0.0.0/8")}, "Pool overlaps"},
		"host bits":          {Network{Name: "bb", IPv4: pool("10.78.0.1/24")}, "host bits"},
		"small":              {Network{Name: "bb", IPv4: pool("10.78.0.0/31")}, "prefix must be"},
		"huge":               {Network{Name: "bb", IPv4: pool("8.0.0.0/7")}, "prefix must be"},
		"loopback":           {Network{Name: "bb", IPv4: pool("127.1.0.0/16")}, "not one that hosts can have"},
		"family":             {Network{Name: "bb", IPv4: pool("fd00::/64")}, "wrong family"},
		"gateway elsewhere":  {Network{Name: "bb", IPv4: Pool{Subnet: netip.MustParsePrefix("10.78.0.0/24"), Gateway: netip.MustParseAddr("10.79.0.1")}}, "gateway"},
		"gateway for all":    {Network{Name: "bb", IPv4: Pool{Subnet: netip.MustParsePrefix("10.78.0.0/24"), Gateway: netip.MustParseAddr("10.78.0.255")}}, "gateway"},
		"gateway alone":      {Network{Name: "bb", IPv4: Pool{Gateway: netip.MustParseAddr("10.78.0.1")}}, "need a subnet"},
		"range out of it":    {Network{Name: "bb", IPv4: Pool{Subnet: netip.MustParsePrefix("10.78.0.0/24"), Range: netip.MustParsePrefix("10.79.0.0/25")}}, "ip-range"},
		"range larger":       {Network{Name: "bb", IPv4: Pool{Subnet: netip.MustParsePrefix("10.78.0.0/24"), Range: netip.MustParsePrefix("10.78.0.0/16")}}, "ip-range"},
		"multicast of IPv6":  {Network{Name: "bb", IPv6: pool("ff00::/64")}, "not one that hosts can have"},
		"link-local of IPv6": {Network{Name: "bb", IPv6: pool("fe80::/64")}, "not one that hosts can have"},
	} {
		if _, err := e.CreateNetwork(t.Context(), tt.n); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
	if all, err := e.Networks(t.Context()); err != nil || len(all) != 3 {
		t.Errorf("%v, %v", all, err)
	}
}

func TestPoolsRunOut(t *testing.T) {
	var all []*Network
	for i := 0; ; i++ {
		n := Network{Name: fmt.Sprint("net", i)}
		err := n.choose(all, []netip.Prefix{netip.MustParsePrefix("172.18.5.0/24")})
		if err != nil {
			if len(all) != len(defaultPools())-1 || !strings.Contains(err.Error(), "fully subnetted") {
				t.Errorf("after %d: %v", len(all), err)
			}
			return
		}
		if n.IPv4.Subnet == netip.MustParsePrefix("172.18.0.0/16") {
			t.Error("the subnet is one that this host reaches otherwise")
		}
		all = append(all, &n)
	}
}

func TestParseRoutes(t *testing.T) {
	got := parseRoutes("Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n" +
		"eth0\t00000000\t010011AC\t0003\t0\t0\t0\t00000000\t0\t0\t0\n" +
		"eth0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n" +
		"eth1\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\nshort\n")
	if want := "[172.17.0.0/16 192.168.1.0/24]"; fmt.Sprint(got) != want {
		t.Errorf("%v, want %s", got, want)
	}
}

func joinAs(t testing.TB, e *Engine, n *Network, name string, want Endpoint) *membership {
	t.Helper()
	want.Network, want.Name = n.ID, n.Name
	m, err := e.store.join(t.Context(), want, Member{Container: newID(), Name: name, Names: []string{name, "alias"}})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// Addresses are one container's each while it lives, and free when it does not.
func TestMembers(t *testing.T) {
	e := newTestEngine(t)
	n := createNetwork(t, e, Network{Name: "web", IPv4: pool("10.77.0.0/29"), IPv6: pool("fd77::/64")})
	one, two := joinAs(t, e, n, "one", Endpoint{}), joinAs(t, e, n, "two", Endpoint{})
	if one.IPv4.String() != "10.77.0.2" || two.IPv4.String() != "10.77.0.3" || one.IPv6.String() != "fd77::2" || two.IPv6.String() != "fd77::3" {
		t.Errorf("%v %v, %v %v", one.IPv4, one.IPv6, two.IPv4, two.IPv6)
	}
	five := joinAs(t, e, n, "five", Endpoint{IPv4: netip.MustParseAddr("10.77.0.5"), IPv6: netip.MustParseAddr("fd77::77")})
	for want, ep := range map[string]Endpoint{
		"Address already in use": {IPv4: five.IPv4}, "already in use": {IPv6: five.IPv6}, "already in use: gateway": {IPv4: n.IPv4.Gateway},
		"no configured subnet": {IPv4: netip.MustParseAddr("10.78.0.5")}, "no configured subnet of": {IPv4: netip.MustParseAddr("10.77.0.7")},
	} {
		want, _, _ = strings.Cut(want, ":")
		ep.Network, ep.Name = n.ID, n.Name
		if _, err := e.store.join(t.Context(), ep, Member{Name: "x"}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", ep, err, want)
		}
	}
	four, six := joinAs(t, e, n, "four", Endpoint{}), joinAs(t, e, n, "six", Endpoint{})
	if four.IPv4.String() != "10.77.0.4" || six.IPv4.String() != "10.77.0.6" {
		t.Errorf("%v, %v", four.IPv4, six.IPv4)
	}
	if _, err := e.store.join(t.Context(), Endpoint{Network: n.ID, Name: "web"}, Member{Name: "x"}); err == nil || !strings.Contains(err.Error(), "no available addresses") {
		t.Errorf("%v, want that there are no more addresses", err)
	}
	known := names{[]*membership{one}}
	if got, ok := known.Lookup("two.web"); !ok || !slices.Contains(got, two.IPv4) || !slices.Contains(got, two.IPv6) || len(got) != 2 {
		t.Errorf("two: %v, %v", got, ok)
	}
	if got, ok := known.Lookup("alias"); !ok || len(got) != 10 {
		t.Errorf("alias: %v, %v", got, ok)
	}
	if got, ok := known.Lookup("seven"); ok {
		t.Errorf("seven: %v", got)
	}
	for addr, want := range map[string]string{"10.77.0.3": "two.web true", "fd77::77": "five.web true", "10.77.0.1": " true", "10.78.0.1": " false"} {
		if name, known := known.Reverse(netip.MustParseAddr(addr)); fmt.Sprint(name, " ", known) != want {
			t.Errorf("%s: %q, %v, want %s", addr, name, known, want)
		}
	}
	if _, err := e.RemoveNetwork(t.Context(), "web"); !errors.Is(err, ErrNetworkInUse) || !strings.Contains(err.Error(), `name:"two"`) {
		t.Errorf("removing a network in use: %v", err)
	}
	if removed, err := e.PruneNetworks(t.Context(), func(*Network) bool { return true }); err != nil || len(removed) != 0 {
		t.Errorf("pruned: %v, %v", removed, err)
	}
	// As if its process was killed: the file stays, and nobody holds it.
	two.lease.Close()
	if _, ok := known.Lookup("two"); ok {
		t.Error("a member that is gone is found")
	}
	again := joinAs(t, e, n, "again", Endpoint{})
	if again.IPv4 != two.IPv4 {
		t.Errorf("%v, want the address that is free again, %v", again.IPv4, two.IPv4)
	}
	for _, m := range []*membership{one, four, five, six, again} {
		m.leave()
	}
	mustBeEmpty(t, e)
	if removed, err := e.PruneNetworks(t.Context(), func(*Network) bool { return true }); err != nil || len(removed) != 1 {
		t.Errorf("pruned: %v, %v", removed, err)
	}
	if _, err := e.store.join(t.Context(), Endpoint{Network: n.ID, Name: "web"}, Member{}); !errors.Is(err, ErrNoNetwork) {
		t.Errorf("joining a network that is gone: %v", err)
	}
}

func TestRangeOfAddresses(t *testing.T) {
	e := newTestEngine(t)
	p := pool("10.77.0.0/16")
	p.Range = netip.MustParsePrefix("10.77.9.0/24")
	n := createNetwork(t, e, Network{Name: "web", IPv4: p})
	m := joinAs(t, e, n, "one", Endpoint{})
	defer m.leave()
	if m.IPv4.String() != "10.77.9.0" {
		t.Errorf("%v", m.IPv4)
	}
}

// Files that somebody else has put where the members meet mean nothing.
func TestStrangeMembers(t *testing.T) {
	e := newTestEngine(t)
	n := createNetwork(t, e, Network{Name: "web"})
	m := joinAs(t, e, n, "one", Endpoint{})
	defer m.leave()
	dir := e.store.meetingDir(n.ID)
	for name, content := range map[string]string{"172.18.0.9.json": `{"name":"x","ipv4":"172.18.0.9"}`, "x.json": "{", "172.18.0.10.json": "not JSON"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		defer os.Remove(filepath.Join(dir, name))
	}
	if err := unix.Mkfifo(filepath.Join(dir, "172.18.0.11.json"), 0o600); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(filepath.Join(dir, "172.18.0.11.json"))
	// Held, but about another address.
	f, err := os.OpenFile(filepath.Join(dir, "172.18.0.12.json"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := f.WriteString(`{"name":"liar","ipv4":"172.18.0.13"}`); err != nil {
		t.Fatal(err)
	}
	if err := ofdLock(f, unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}); err != nil {
		t.Fatal(err)
	}
	if got := e.Members(n); len(got) != 1 || got[0].Name != "one" {
		t.Errorf("members: %+v", got)
	}
}

// A test of addresses follows the networks that come and go.
func TestOnNetworks(t *testing.T) {
	e := newTestEngine(t)
	on := e.store.onNetworks()
	at := netip.MustParseAddr("10.77.3.4")
	if on(at) {
		t.Error("there is no network")
	}
	createNetwork(t, e, Network{Name: "web", IPv4: pool("10.77.0.0/16")})
	if !on(at) || on(netip.MustParseAddr("10.78.0.1")) {
		t.Error("the network is not known, or another one is")
	}
	if _, err := e.RemoveNetwork(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	if on(at) {
		t.Error("the network has gone")
	}
}

// A container is on its networks while it lives, and its lease ends with it.
func TestRunOnNetwork(t *testing.T) {
	e := newTestEngine(t)
	n := createNetwork(t, e, Network{Name: "web", IPv4: pool("10.77.0.0/16")})
	createNetwork(t, e, Network{Name: "inside", Internal: true})
	c := sh("echo hello")
	c.NetworkConfig = NetworkConfig{Endpoints: []Endpoint{{Name: "inside"}, {Name: "web", IPv4: netip.MustParseAddr("10.77.0.9"), Aliases: []string{"db"}}}}
	c.Image = "test"
	container, err := e.Create(t.Context(), "Server", c)
	if err != nil {
		t.Fatal(err)
	}
	table := &fileTable{}
	defer table.close()
	network, err := newNetwork(t.Context(), &container.record.Config.NetworkConfig,
		networkGuest{hostname: "h", cpus: 1, store: &e.store, record: container.record}, table)
	if err != nil {
		t.Fatal(err)
	}
	members := e.Members(n)
	if len(members) != 1 || members[0].Container != container.ID() || !slices.Contains(members[0].Names, "db") || !slices.Contains(members[0].Names, "server") {
		t.Errorf("%+v", members)
	}
	if len(network.nics) != 2 || len(network.cards) != 2 || network.cards[0].Gateways != nil || len(network.cards[1].Gateways) != 1 ||
		network.cards[1].Addresses[0] != netip.MustParsePrefix("10.77.0.9/16") {
		t.Errorf("%+v", network.cards)
	}
	if text := network.resolvConf(&container.record.Config.NetworkConfig); !strings.HasSuffix(text, "nameserver "+n.IPv4.Gateway.String()+"\noptions ndots:0\n") {
		t.Errorf("resolv.conf: %q", text)
	}
	states := e.Endpoints(container.record)
	if len(states) != 2 || states[1].IPv4.String() != "10.77.0.9" || states[1].Gateway4 != n.IPv4.Gateway || states[1].Bits4 != 16 {
		t.Errorf("%+v", states)
	}
	network.close()
	if len(e.Members(n)) != 0 {
		t.Error("it is still a member")
	}
	exit, err := container.Run(t.Context(), Attach{}, nil)
	if err != nil || exit.Code != 0 {
		t.Errorf("%+v, %v", exit, err)
	}
	if err := container.Release(t.Context()); err != nil {
		t.Error(err)
	}
	mustBeEmpty(t, e)
	for want, ep := range map[string]Endpoint{
		"network nope not found": {Name: "nope"}, "user configured subnets": {Name: "inside", IPv4: netip.MustParseAddr("172.18.0.9")},
		"no configured subnet contains IP address 10.78.0.1": {Name: "web", IPv4: netip.MustParseAddr("10.78.0.1")},
		"hostname \"a b\"": {Name: "web", Aliases: []string{"a b"}},
	} {
		c := sh("true")
		c.Image, c.Endpoints = "test", []Endpoint{ep}
		if _, err := e.Create(t.Context(), "", c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestConnect(t *testing.T) {
	e := newTestEngine(t)
	n := createNetwork(t, e, Network{Name: "web", IPv4: pool("10.77.0.0/16")})
	c := Config{Image: "test", Args: []string{"true"}, NetworkConfig: NetworkConfig{Network: NetworkUser}}
	container, err := e.Create(t.Context(), "box", c)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Connect(t.Context(), "web", "box", Endpoint{}); !errors.Is(err, ErrConnectRunning) {
		t.Errorf("a living container: %v", err)
	}
	if _, err := container.Run(t.Context(), Attach{}, nil); err != nil {
		t.Fatal(err)
	}
	if err := container.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := e.Connect(t.Context(), "web", "box", Endpoint{Aliases: []string{"db"}, IPv4: netip.MustParseAddr("10.77.0.7")}); err != nil {
		t.Fatal(err)
	}
	if err := e.Connect(t.Context(), "web", "box", Endpoint{}); !errors.Is(err, ErrAlreadyConnected) {
		t.Errorf("twice: %v", err)
	}
	r, err := e.Get(t.Context(), "box")
	if err != nil || len(r.Config.Endpoints) != 1 || r.Config.Endpoints[0].Network != n.ID || r.Config.Network != "web" {
		t.Errorf("%+v, %v", r.Config.NetworkConfig, err)
	}
	if removed, err := e.PruneNetworks(t.Context(), func(*Network) bool { return true }); err != nil || len(removed) != 0 {
		t.Errorf("a network that a stopped container is on was pruned: %v, %v", removed, err)
	}
	if err := e.Disconnect(t.Context(), "web", "box"); err != nil {
		t.Fatal(err)
	}
	if err := e.Disconnect(t.Context(), "web", "box"); !errors.Is(err, ErrNotConnected) {
		t.Errorf("twice: %v", err)
	}
	if r, err := e.Get(t.Context(), "box"); err != nil || r.Config.Network != NetworkNone || len(r.Config.Endpoints) != 0 {
		t.Errorf("%+v, %v", r.Config.NetworkConfig, err)
	}
	if err := e.Connect(t.Context(), "user", "box", Endpoint{}); err == nil {
		t.Error("connected with a network that is always there")
	}
}

func TestPortRange(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	first := netip.MustParseAddrPort(taken.Addr().String())
	if first.Port() > 65000 {
		t.Skip("no ports behind that one")
	}
	p := PortBinding{Host: first, HostEnd: first.Port() + 500, Container: 80, Protocol: "tcp"}
	f, err := p.listen(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if p.Host.Port() <= first.Port() || p.HostEnd != 0 {
		t.Errorf("%+v", p)
	}
	p = PortBinding{Host: first, Container: 80, Protocol: "tcp"}
	if _, err := p.listen(context.Background()); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("Bind for %s failed: port is already allocated", first)) {
		t.Error(err)
	}
}

func FuzzParseNetwork(f *testing.F) {
	id := strings.Repeat("ab", 32)
	f.Add([]byte(`{"version":1,"id":"` + id + `","name":"web","driver":"user","ipv4":{"subnet":"10.0.0.0/8","gateway":"10.0.0.1"}}`))
	f.Add([]byte(`{"version":1,"id":"` + id + `","ipv4":{"subnet":"::/0"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		n, err := parseNetwork(data, id)
		if err == nil && (n.ID != id || !n.IPv4.usable(n.IPv4.Gateway)) {
			t.Errorf("%+v", n)
		}
	})
}
