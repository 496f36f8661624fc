package bridge

import (
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// inNamespace gives the test a network namespace of its own: whatever it does there is gone with its thread.
func inNamespace(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root makes bridges")
	}
	if err := CheckProgram(); err != nil {
		t.Skip(err)
	}
	runtime.LockOSThread() // and never unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("no network namespaces here: %v", err)
	}
	run(t, "ip", "link", "set", "lo", "up")
}

func run(t testing.TB, command ...string) string {
	t.Helper()
	out, err := exec.Command(command[0], command[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(command, " "), err, out)
	}
	return string(out)
}

// testBridge is the i-th network.
func testBridge(i byte) *Bridge {
	return &Bridge{
		ID: strings.Repeat(string("0123456789abcdef"[i]), 12), Name: "br-test" + string('0'+rune(i)),
		Subnet4:  netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 90, i, 0}), 24),
		Gateway4: netip.AddrFrom4([4]byte{10, 90, i, 1}),
		Subnet6:  netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0x90, 3: i}), 64),
		Gateway6: netip.AddrFrom16([16]byte{0xfd, 0x90, 3: i, 15: 1}),
	}
}

func up(t testing.TB, b *Bridge) {
	t.Helper()
	if err := b.Up(); err != nil {
		t.Fatal(err)
	}
}

func TestUpAndDown(t *testing.T) {
	inNamespace(t)
	if there, err := Any(); err != nil || there {
		t.Errorf("%v, %v", there, err)
	}
	b := testBridge(1)
	b.MTU = 1400
	up(t, b)
	up(t, b) // again
	if there, err := Any(); err != nil || !there {
		t.Errorf("%v, %v", there, err)
	}
	shown := run(t, "ip", "-d", "addr", "show", b.Name)
	for _, want := range []string{"inet 10.90.1.1/24", "inet6 fd90:1::1/64", "alias hull network 111111111111", "mtu 1400", "group 1752525932", "stp_state 0"} {
		if !strings.Contains(shown, want) {
			t.Errorf("no %q in %s", want, shown)
		}
	}
	if !strings.Contains(shown, "scope global nodad") {
		t.Errorf("an address waits: %s", shown)
	}
	if got, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + b.Name + "/accept_ra"); err != nil || strings.TrimSpace(string(got)) != "0" {
		t.Errorf("accept_ra %q, %v", got, err)
	}
	for range 2 {
		if err := b.Down(); err != nil {
			t.Error(err)
		}
	}
	if there, err := Any(); err != nil || there {
		t.Errorf("%v, %v", there, err)
	}
	if left := run(t, "nft", "list", "ruleset"); left != "" {
		t.Errorf("left over: %s", left)
	}
}

func TestForeignInterface(t *testing.T) {
	inNamespace(t)
	b := testBridge(1)
	for _, command := range []string{"ip link add %s type bridge", "ip tuntap add %s mode tap"} {
		run(t, strings.Fields(strings.Replace(command, "%s", b.Name, 1))...)
		if err := b.Up(); !errors.Is(err, ErrForeign) {
			t.Errorf("%s: %v", command, err)
		}
		if err := b.Down(); err != nil {
			t.Error(err)
		}
		run(t, "ip", "link", "del", b.Name) // it is there still
	}
	other := testBridge(2)
	other.Name = b.Name
	up(t, other)
	if err := b.Up(); !errors.Is(err, ErrForeign) {
		t.Errorf("another network's: %v", err)
	}
}

func TestCheckName(t *testing.T) {
	for _, name := range []string{"br-0123456789ab", "docker0", "a", "a.b_c"} {
		if err := CheckName(name); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"", "all", "default", "-x", ".", "..", "a b", "a/b", `a"b`, "br-0123456789abc", "a\nb", "a%d"} {
		if CheckName(name) == nil {
			t.Errorf("%q is taken for a name", name)
		}
		b := testBridge(1)
		b.Name = name
		if b.Up() == nil {
			t.Errorf("%q: there is one now", name)
		}
	}
}

// The kernel takes the rules of every kind of network.
func TestRulesAreRules(t *testing.T) {
	inNamespace(t)
	var ports []Port
	for i := range byte(3) {
		addr := netip.AddrFrom4([4]byte{10, 90, 1, i + 2})
		ports = append(ports, Port{
			Interface: testBridge(1).TapName(addr), MAC: [6]byte{2, 0, 0, 0, 0, i}, IPv4: addr,
			NameUDP: 40000 + uint16(i), NameTCP: 40000 + uint16(i),
		})
	}
	ports[1].IPv6 = netip.MustParseAddr("fd90:1::3")
	ports[1].Publish = []Publish{
		{netip.MustParseAddrPort("0.0.0.0:8080"), 80, "tcp"},
		{netip.MustParseAddrPort("192.0.2.1:8081"), 80, "udp"},
		{netip.MustParseAddrPort("[::]:8082"), 80, "tcp"},
		{netip.MustParseAddrPort("[2001:db8::1]:8083"), 80, "tcp"},
		{netip.MustParseAddrPort("127.0.0.1:8084"), 80, "tcp"},
	}
	for _, change := range []func(*Bridge){
		func(*Bridge) {}, func(b *Bridge) { b.Internal = true }, func(b *Bridge) { b.Apart = true }, func(b *Bridge) { b.NoMasquerade = true },
		func(b *Bridge) { b.Subnet6, b.Gateway6 = netip.Prefix{}, netip.Addr{} },
	} {
		b := testBridge(1)
		change(b)
		if err := b.Up(); err != nil {
			t.Fatal(err)
		}
		for _, list := range [][]Port{nil, ports[:1], ports, nil} {
			if err := b.Apply(list); err != nil {
				t.Errorf("%+v, %d ports: %v", b, len(list), err)
			}
			shown := run(t, "nft", "list", "ruleset")
			if got := strings.Count(shown, "ether saddr !="); got != len(list) {
				t.Errorf("rules of %d guests, want those of %d: %s", got, len(list), shown)
			}
			if len(list) == 3 {
				want := map[string]bool{"dport 8080": true, "dport 8081": true, "dport 8082": true, "dport 8083": true, "dport 8084": false}
				for rule, there := range want {
					if strings.Contains(shown, rule) != (there && !b.Internal) {
						t.Errorf("%s: %v", rule, !there)
					}
				}
			}
		}
		if err := b.Down(); err != nil {
			t.Error(err)
		}
	}
}

func TestTapName(t *testing.T) {
	b := testBridge(1)
	for addr, want := range map[string]string{"10.90.1.2": "hv1111111000002", "10.90.1.254": "hv11111110000fe"} {
		if got := b.TapName(netip.MustParseAddr(addr)); got != want || len(got) > 15 {
			t.Errorf("%s: %s, want %s", addr, got, want)
		}
	}
	b.Subnet4 = netip.MustParsePrefix("10.0.0.0/8")
	if got, want := b.TapName(netip.MustParseAddr("10.255.255.254")), "hv1111111fffffe"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestLinkLocal(t *testing.T) {
	if got, want := linkLocalOf([6]byte{0x02, 0x42, 0xac, 0x11, 0x00, 0x02}), netip.MustParseAddr("fe80::42:acff:fe11:2"); got != want {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestForwarding(t *testing.T) {
	root := t.TempDir()
	files := map[string]string{
		"net/ipv4/ip_forward": "0\n", "net/ipv6/conf/all/forwarding": "0\n", "net/ipv6/conf/eth0/accept_ra": "1\n", "net/ipv6/conf/eth1/accept_ra": "0\n",
		"net/ipv6/conf/all/accept_ra": "1\n", "net/ipv6/conf/default/accept_ra": "1\n",
	}
	for name, value := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	read := func() map[string]string {
		now := make(map[string]string)
		for name := range files {
			b, err := os.ReadFile(filepath.Join(root, name))
			if err != nil {
				t.Fatal(err)
			}
			now[name] = strings.TrimSpace(string(b))
		}
		return now
	}
	var all []Setting
	for _, step := range []struct {
		ipv6 bool
		want map[string]string
	}{
		{false, map[string]string{
			"net/ipv6/conf/all/accept_ra": "1", "net/ipv6/conf/default/accept_ra": "1",
			"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "0", "net/ipv6/conf/eth0/accept_ra": "1", "net/ipv6/conf/eth1/accept_ra": "0"}},
		{true, map[string]string{
			"net/ipv6/conf/all/accept_ra": "1", "net/ipv6/conf/default/accept_ra": "1",
			"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1", "net/ipv6/conf/eth0/accept_ra": "2", "net/ipv6/conf/eth1/accept_ra": "0"}},
	} {
		changes, err := forwarding(root, step.ipv6)
		if err != nil {
			t.Fatal(err)
		}
		if err := change(root, changes, false); err != nil {
			t.Fatal(err)
		}
		all = append(all, changes...)
		if diff := cmp.Diff(step.want, read()); diff != "" {
			t.Error(diff)
		}
	}
	if again, err := forwarding(root, true); err != nil || len(again) > 0 {
		t.Errorf("%v, %v", again, err)
	}
	all = append(all, Setting{"../outside", "x", "y"}, Setting{"kernel/core_pattern", "x", "y"}, Setting{"net/ipv6/conf/gone/accept_ra", "1", "2"})
	if err := change(root, all[:len(all)-1], true); err != nil {
		t.Error(err)
	}
	for name := range files {
		files[name] = strings.TrimSpace(files[name])
	}
	if diff := cmp.Diff(files, read()); diff != "" {
		t.Error(diff)
	}
	for _, name := range []string{"kernel/core_pattern", "../outside"} {
		if _, err := os.Stat(filepath.Join(root, name)); err == nil {
			t.Errorf("%s was written", name)
		}
	}
}

// Connections of who is gone are forgotten, also where there are none.
func TestForget(t *testing.T) {
	inNamespace(t)
	if err := Forget(netip.MustParseAddr("10.90.1.2"), netip.MustParseAddr("fd90::2")); err != nil {
		t.Error(err)
	}
	if _, err := netlink.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET); err != nil {
		t.Error(err)
	}
}
