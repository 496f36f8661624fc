package bridge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNoNFT says that this host lacks the program that rules are given to the kernel by.
var ErrNoNFT = errors.New("the program nft is not there: install the package nftables")

// nftProgram makes or replaces rules: all that it is given, or none.
const nftProgram = "nft"

// nftPatience is how long it may take. The first time it has the kernel load modules.
const nftPatience = 2 * time.Minute

// CheckProgram tells whether rules can be made on this host.
func CheckProgram() error {
	if _, err := findNFT(); err != nil {
		return err
	}
	return nil
}

// findNFT looks where it is installed, too, if the PATH is an ordinary user's.
func findNFT() (string, error) {
	for _, name := range []string{nftProgram, "/usr/sbin/nft", "/sbin/nft"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", ErrNoNFT
}

// Apply makes the rules for the guests that are on the bridge now, instead of those there were.
func (b *Bridge) Apply(ports []Port) error {
	if err := b.nft(b.rules(ports)); err != nil {
		return fmt.Errorf("the rules of network %s: %w", b.ID, err)
	}
	return nil
}

func (b *Bridge) removeRules() error {
	var text strings.Builder
	b.clear(&text)
	err := b.nft(text.String())
	if errors.Is(err, ErrNoNFT) {
		return nil // then it has made none
	}
	if err != nil {
		return fmt.Errorf("removing the rules of network %s: %w", b.ID, err)
	}
	return nil
}

func (b *Bridge) nft(rules string) error {
	path, err := findNFT()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), nftPatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("nft has not ended within %v", nftPatience)
		}
		first, _, _ := strings.Cut(strings.TrimSpace(said.String()), "\n")
		if strings.Contains(first, unix.EPERM.Error()) || strings.Contains(strings.ToLower(first), "operation not permitted") {
			first += ": it takes root"
		}
		return fmt.Errorf("%w: %s", err, first)
	}
	return nil
}

// table is the name of the network's tables, one of family inet and one of family bridge.
func (b *Bridge) table() string { return "hull-" + b.ID }

// clear removes the tables, whether they are there or not.
func (b *Bridge) clear(w *strings.Builder) {
	for _, family := range []string{"inet", "bridge"} {
		fmt.Fprintf(w, "add table %s %s\ndelete table %[1]s %[2]s\n", family, b.table())
	}
}

// rules is all of them, as nft(8) reads them.
func (b *Bridge) rules(ports []Port) string {
	var w strings.Builder
	b.clear(&w)
	b.routed(&w, ports)
	b.bridged(&w, ports)
	return w.String()
}

// linkLocal is what no router passes on, among it the metadata services of clouds (decision 7).
const linkLocal = "169.254.0.0/16"

// refuse is what becomes of a guest's packets that go nowhere: its programs hear of it at once. The world hears nothing.
const refuse = "reject with icmpx type admin-prohibited"

// maxConnections is how many connections and flows of a guest this host's kernel follows at once, as in user mode: its table of them is for
// all. Who is on the network already is counted from the beginning when rules are made anew.
const maxConnections = 4096

// routed are the rules about packets between the network, this host and the world.
func (b *Bridge) routed(w *strings.Builder, ports []Port) {
	line := func(format string, args ...any) { fmt.Fprintf(w, "\t\t"+format+"\n", args...) }
	chain := func(name, kind string) {
		fmt.Fprintf(w, "\tchain %s {\n", name)
		if kind != "" {
			line("type %s; policy accept;", kind)
		}
	}
	end := func() { w.WriteString("\t}\n") }
	name := fmt.Sprintf("%q", b.Name)
	fmt.Fprintf(w, "table inet %s {\n", b.table())

	fmt.Fprintf(w, "\tset guests4 { type ipv4_addr; flags dynamic; }\n\tset guests6 { type ipv6_addr; flags dynamic; }\n")
	bound := func() {
		line("iifname %s ct state new add @guests4 { ip saddr ct count over %d } %s", name, maxConnections, refuse)
		line("iifname %s ct state new add @guests6 { ip6 saddr ct count over %d } %s", name, maxConnections, refuse)
	}

	// Published ports, but for what comes over the loopback, whose addresses must not leave this host, and what comes from the
	// network itself, whose answers would not come back this way: both are served by a process.
	chain("published", "")
	for _, p := range ports {
		for _, pub := range p.Publish {
			b.publish(line, &p, pub)
		}
	}
	end()
	chain("arriving", "nat hook prerouting priority dstnat")
	for _, q := range []struct {
		protocol string
		port     func(Port) uint16
	}{{"udp", func(p Port) uint16 { return p.NameUDP }}, {"tcp", func(p Port) uint16 { return p.NameTCP }}} {
		var elements []string
		for _, p := range ports {
			if port := q.port(p); port != 0 {
				elements = append(elements, fmt.Sprintf("%s : %d", p.IPv4, port))
			}
		}
		if len(elements) > 0 {
			line("iifname %s ip daddr %s %s dport 53 redirect to :ip saddr map { %s }", name, b.Gateway4, q.protocol, strings.Join(elements, ", "))
		}
	}
	line("iifname != %s fib daddr type local jump published", name)
	end()
	chain("own", "nat hook output priority -100")
	line("ip daddr != 127.0.0.0/8 fib daddr type local jump published")
	line("ip6 daddr != ::1 fib daddr type local jump published")
	end()

	if !b.NoMasquerade && !b.Internal {
		chain("leaving", "nat hook postrouting priority srcnat")
		line("ip saddr %s oifname != %s masquerade", b.Subnet4, name)
		if b.Subnet6.IsValid() {
			line("ip6 saddr %s oifname != %s masquerade", b.Subnet6, name)
		}
		end()
	}

	chain("passing", "filter hook forward priority filter")
	if b.Apart {
		line("iifname %s oifname %[1]s %s", name, refuse)
	} else {
		line("iifname %s oifname %[1]s accept", name)
	}
	line("oifname %s iifgroup %d %s", name, group, refuse) // from another network
	line("oifname %s ct state established,related accept", name)
	line("oifname %s ct status dnat accept", name) // a published port
	line("oifname %s drop", name)
	if b.Internal {
		line("iifname %s %s", name, refuse)
	}
	line("iifname %s ip daddr %s %s", name, linkLocal, refuse)
	bound()
	end()

	chain("here", "filter hook input priority filter")
	line("iifname %s ip daddr 127.0.0.0/8 drop", name)
	if b.Internal {
		line("iifname %s ct status dnat accept", name) // its name server
		line("iifname %s ct state established,related accept", name)
		line("iifname %s icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept", name)
		line("iifname %s %s", name, refuse)
	} else {
		bound()
	}
	end()
	w.WriteString("}\n")
}

func (b *Bridge) publish(line func(string, ...any), p *Port, pub Publish) {
	host, guest, match := pub.Host.Addr().Unmap(), p.IPv4, "meta nfproto ipv4"
	family := "ip"
	if host.Is6() {
		guest, match, family = p.IPv6, "meta nfproto ipv6", "ip6"
	}
	if host.IsLoopback() || !guest.IsValid() || b.Internal {
		return
	}
	if !host.IsUnspecified() {
		match = fmt.Sprintf("%s daddr %s", family, host)
	}
	line("%s %s dport %d dnat %s to %s", match, pub.Protocol, pub.Host.Port(), family, netip.AddrPortFrom(guest, pub.Port))
}

// bridged are the rules about frames of guests: what is not a guest's own is dropped where it enters.
func (b *Bridge) bridged(w *strings.Builder, ports []Port) {
	fmt.Fprintf(w, "table bridge %s {\n", b.table())
	var jumps []string
	for _, p := range ports {
		mac := net.HardwareAddr(p.MAC[:])
		local := linkLocalOf(p.MAC)
		ip6, targets := []string{"::", local.String()}, []string{hexOf(local)}
		if p.IPv6.IsValid() {
			ip6, targets = append(ip6, p.IPv6.String()), append(targets, hexOf(p.IPv6))
		}
		fmt.Fprintf(w, "\tchain %s {\n", p.Interface)
		for _, rule := range []string{
			"ether saddr != " + mac.String() + " drop",
			"ether type ip ip saddr " + p.IPv4.String() + " accept",
			// 0.0.0.0 asks whether anybody has an address (RFC 5227).
			fmt.Sprintf("ether type arp arp saddr ether %s arp saddr ip { 0.0.0.0, %s } accept", mac, p.IPv4),
			// This host routes, and nobody else.
			"icmpv6 type { nd-router-advert, nd-redirect } drop",
			// Target Address of a Neighbor Advertisement (RFC 4861, 4.4).
			fmt.Sprintf("icmpv6 type nd-neighbor-advert @th,64,128 != { %s } drop", strings.Join(targets, ", ")),
			fmt.Sprintf("ether type ip6 ip6 saddr { %s } accept", strings.Join(ip6, ", ")),
			"drop",
		} {
			fmt.Fprintf(w, "\t\t%s\n", rule)
		}
		w.WriteString("\t}\n")
		jumps = append(jumps, fmt.Sprintf("%q : jump %s", p.Interface, p.Interface))
	}
	w.WriteString("\tchain guests {\n\t\ttype filter hook prerouting priority -300; policy accept;\n")
	if len(jumps) > 0 {
		fmt.Fprintf(w, "\t\tiifname vmap { %s }\n", strings.Join(jumps, ", "))
	}
	// A guest that is not known yet, or not any more, is not heard.
	fmt.Fprintf(w, "\t\tiifname %q drop\n\t}\n}\n", b.tapPrefix()+"*")
}

// linkLocalOf is the address that a card gives itself (RFC 4291, appendix A).
func linkLocalOf(mac [6]byte) netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]})
}

func hexOf(a netip.Addr) string { return fmt.Sprintf("0x%x", a.AsSlice()) }
