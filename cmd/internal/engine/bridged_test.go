package engine

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/vmm/network/bridge"
)

// inNamespace gives the test a network namespace of its own, which is gone with its thread.
func inNamespace(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root makes bridges")
	}
	if err := bridge.CheckProgram(); err != nil {
		t.Skip(err)
	}
	runtime.LockOSThread() // and never unlocked
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("no network namespaces here: %v", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// ruleset is all of the namespace's rules.
func ruleset(t testing.TB) string {
	t.Helper()
	out, err := exec.Command("nft", "list", "ruleset").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

// interfaces are those of the namespace but the loopback.
func interfaces(t testing.TB) string {
	t.Helper()
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, l := range links {
		if name := l.Attrs().Name; name != "lo" {
			names = append(names, name)
		}
	}
	return strings.Join(names, " ")
}

func forwards(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

func bridgeNetwork(t testing.TB, e *Engine) *Network {
	t.Helper()
	return createNetwork(t, e, Network{
		Name: "web", Driver: DriverBridge, IPv4: pool("10.91.0.0/24"), IPv6: pool("fd91::/64"), Options: map[string]string{optBridgeName: "web0"},
	})
}

// bridgedGuest makes the network of a container that is on a bridge, as a supervisor does.
func bridgedGuest(t testing.TB, e *Engine, n *Network, name string, ports ...PortBinding) (*guestNetwork, *fileTable) {
	t.Helper()
	r := &Record{ID: newID(), Name: name}
	c := &NetworkConfig{Endpoints: []Endpoint{{Network: n.ID, Name: n.Name}}, Ports: ports}
	table := &fileTable{}
	g, err := newNetwork(t.Context(), c, networkGuest{hostname: name, cpus: 1, store: &e.store, record: r}, table)
	if err != nil {
		table.close()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		g.close()
		table.close()
	})
	return g, table
}

func TestBridgedNetwork(t *testing.T) {
	inNamespace(t)
	e := newTestEngine(t)
	before := forwards(t)
	n := bridgeNetwork(t, e)
	if got := interfaces(t); got != "web0" || forwards(t) != "1" {
		t.Errorf("interfaces %q, forwarding %s", got, forwards(t))
	}
	one, files := bridgedGuest(t, e, n, "one", PortBinding{Host: netip.MustParseAddrPort("0.0.0.0:0"), Container: 80, Protocol: "tcp"})
	two, twoFiles := bridgedGuest(t, e, n, "two")
	if got := interfaces(t); !strings.Contains(got, "000002") || !strings.Contains(got, "000003") {
		t.Errorf("interfaces %q", got)
	}
	if len(one.nics) != 1 || len(one.nics[0].Tap) != 1 || one.nics[0].MTU != bridge.DefaultMTU {
		t.Errorf("%+v", one.nics)
	}
	card := one.cards[0]
	if card.Addresses[0].String() != "10.91.0.2/24" || card.Addresses[1].String() != "fd91::2/64" || len(card.Gateways) != 2 {
		t.Errorf("%+v", card)
	}
	port := one.published()[0]
	if rules := ruleset(t); port.Host.Port() == 0 || !strings.Contains(rules, "dnat ip to 10.91.0.2:80") || strings.Count(rules, "ether saddr !=") != 2 {
		t.Errorf("published %v; %s", port, rules)
	}
	if got := one.resolvConf(&NetworkConfig{Endpoints: []Endpoint{{}}}); !strings.Contains(got, "nameserver 10.91.0.1\n") {
		t.Errorf("%q", got)
	}
	// The name servers answer nobody but their guests; what they know is what names says.
	if addrs, known := (names{[]*membership{one.bridged[0].member}}).Lookup("two"); !known || len(addrs) != 2 || addrs[0] != two.cards[0].Addresses[0].Addr() {
		t.Errorf("%v, %v", addrs, known)
	}
	if members := e.Members(n); len(members) != 2 {
		t.Errorf("%+v", members)
	}
	if _, err := e.RemoveNetwork(t.Context(), "web"); !errors.Is(err, ErrNetworkInUse) {
		t.Error(err)
	}

	// In order.
	two.close()
	twoFiles.close()
	if got, rules := interfaces(t), ruleset(t); strings.Contains(got, "000003") || strings.Count(rules, "ether saddr !=") != 1 {
		t.Errorf("of one who has left there are interfaces %q and rules %s", got, rules)
	}
	// By force: whatever the supervisor held is gone, and nothing else was done.
	g := one.bridged[0]
	g.service.Close()
	g.member.lease.Close()
	files.close()
	if rules := ruleset(t); !strings.Contains(rules, "dnat ip to") {
		t.Errorf("the rules have gone by themselves: %s", rules)
	}
	one.bridged = nil
	if _, err := e.Networks(t.Context()); err != nil { // any command
		t.Fatal(err)
	}
	if got, rules := interfaces(t), ruleset(t); got != "web0" || strings.Contains(rules, "dnat ip to") || strings.Contains(rules, "ether saddr") {
		t.Errorf("after kill -9 there are interfaces %q and rules %s", got, rules)
	}
	if left, _ := filepath.Glob(filepath.Join(e.store.meetingDir(n.ID), "*")); len(left) != 1 {
		t.Errorf("left over: %q", left)
	}
	if again, _ := bridgedGuest(t, e, n, "again"); again.cards[0].Addresses[0] != card.Addresses[0] {
		t.Errorf("%v, want the address of one who is gone", again.cards[0].Addresses)
	} else {
		again.close()
	}
	if _, err := e.RemoveNetwork(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	if got, rules := interfaces(t), ruleset(t); strings.Contains(got, "web0") || rules != "" || forwards(t) != before {
		t.Errorf("after its removal there are interfaces %q, rules %s, forwarding %s", got, rules, forwards(t))
	}
	mustBeEmpty(t, e)
}

// After a boot of the host, or when somebody took it away, the first container makes the bridge.
func TestBridgeIsMadeAgain(t *testing.T) {
	inNamespace(t)
	e := newTestEngine(t)
	n := bridgeNetwork(t, e)
	state, err := readBridgeState(e.store.meetingDir(n.ID))
	if err != nil {
		t.Fatal(err)
	}
	if err := state.Bridge.Down(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(e.store.meetingDir(n.ID)); err != nil {
		t.Fatal(err)
	}
	g, _ := bridgedGuest(t, e, n, "one")
	if got := interfaces(t); !strings.Contains(got, "web0") {
		t.Errorf("interfaces %q", got)
	}
	g.close()
	// A command that was killed when it had removed the record leaves the bridge to the next.
	if err := os.Rename(e.store.networkDir(n.ID), e.store.networkDir("."+n.ID)); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Networks(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, rules := interfaces(t), ruleset(t); strings.Contains(got, "web0") || rules != "" {
		t.Errorf("interfaces %q, rules %s", got, rules)
	}
	mustBeEmpty(t, e)
}

// What cannot be made leaves nothing.
func TestBridgeThatCannotBe(t *testing.T) {
	inNamespace(t)
	e := newTestEngine(t)
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "mine0"}}); err != nil {
		t.Fatal(err)
	}
	web := bridgeNetwork(t, e)
	for name, tt := range map[string]struct {
		n    Network
		want string
	}{
		"foreign":     {Network{Name: "bb", Options: map[string]string{optBridgeName: "mine0"}}, "which hull has not made"},
		"same bridge": {Network{Name: "bb", Options: map[string]string{optBridgeName: "web0"}}, "networks have same bridge name"},
		"bad name":    {Network{Name: "bb", Options: map[string]string{optBridgeName: "a b"}}, "option com.docker.network.bridge.name=a b"},
		"bad MTU":     {Network{Name: "bb", Options: map[string]string{optMTU: "12"}}, "must be 1280 to 65535"},
		"bad bool":    {Network{Name: "bb", Options: map[string]string{optMasquerade: "perhaps"}}, "enable_ip_masquerade=perhaps: must be true or false"},
		"unknown":     {Network{Name: "bb", Options: map[string]string{"com.docker.network.bridge.gateway_mode_ipv4": "routed"}}, "unsupported"},
	} {
		tt.n.Driver = DriverBridge
		if _, err := e.CreateNetwork(t.Context(), tt.n); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
	if got := interfaces(t); got != "mine0 web0" {
		t.Errorf("interfaces %q", got)
	}
	if all, err := e.Networks(t.Context()); err != nil || len(all) != 3 {
		t.Errorf("%v, %v", all, err)
	}
	// A port that is taken costs the container its start, and the network nothing.
	taken, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	c := &NetworkConfig{Endpoints: []Endpoint{{Network: web.ID, Name: web.Name}}, Ports: []PortBinding{{Host: netip.MustParseAddrPort(taken.Addr().String()), Container: 80, Protocol: "tcp"}}}
	table := &fileTable{}
	if _, err := newNetwork(t.Context(), c, networkGuest{cpus: 1, store: &e.store, record: &Record{ID: newID(), Name: "one"}}, table); err == nil || !strings.Contains(err.Error(), "port is already allocated") {
		t.Error(err)
	}
	table.close()
	if got, rules := interfaces(t), ruleset(t); got != "mine0 web0" || strings.Contains(rules, "ether saddr") || len(e.Members(web)) > 0 {
		t.Errorf("interfaces %q, members %v, rules %s", got, e.Members(web), rules)
	}
	if _, err := e.RemoveNetwork(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
}

// A subnet that this host reaches by a route is not taken from it.
func TestBridgeKeepsOffRoutes(t *testing.T) {
	n := &Network{ID: newID(), Name: "bb", Driver: DriverBridge, IPv4: pool("192.0.2.0/25")}
	if err := n.choose(nil, nil); err != nil {
		t.Fatal(err)
	}
	err := n.checkBridge(nil, []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")})
	if os.Geteuid() == 0 && bridge.CheckProgram() == nil && !errors.Is(err, ErrOverlap) {
		t.Error(err)
	}
}
