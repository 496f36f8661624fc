package guestinit

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/guestinit/proto"
)

// inNetwork runs f on a thread in a network namespace of its own, which has a loopback interface. What f returns, if anything, is
// why the test cannot be made here.
func inNetwork(t *testing.T, f func() (skip string)) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root for network namespaces")
	}
	skip := make(chan string)
	go func() { // its thread ends with it
		defer close(skip)
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			skip <- fmt.Sprintf("this machine does not let root make network namespaces: %v", err)
			return
		}
		if err := loopbackUp(); err != nil {
			t.Error(err)
			return
		}
		if why := f(); why != "" {
			skip <- why
		}
	}()
	if why := <-skip; why != "" {
		t.Skip(why)
	}
}

// Whoever waits on a connection to the outside gets an error, and those that stay in the guest go on.
func TestEndConnections(t *testing.T) {
	inNetwork(t, func() (skip string) {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			t.Error(err)
			return ""
		}
		for _, a := range []string{"10.1.2.3/32", "fd00::1/128"} {
			addr, err := netlink.ParseAddr(a)
			if err != nil {
				t.Error(err)
				return ""
			}
			addr.Flags = unix.IFA_F_NODAD
			if err := netlink.AddrAdd(lo, addr); err != nil {
				return fmt.Sprintf("this machine has no %s: %v", a, err)
			}
		}
		waiting := map[string]chan error{}
		for _, host := range []string{"10.1.2.3", "fd00::1", "127.0.0.1", "::1"} {
			l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
			if err != nil {
				t.Error(err)
				return ""
			}
			defer l.Close()
			c, err := net.Dial("tcp", l.Addr().String())
			for deadline := time.Now().Add(30 * time.Second); errors.Is(err, unix.ENETUNREACH) && time.Now().Before(deadline); {
				time.Sleep(time.Millisecond) // the kernel adds routes to addresses of IPv6 in its own time
				c, err = net.Dial("tcp", l.Addr().String())
			}
			if err != nil {
				t.Error(err)
				return ""
			}
			defer c.Close()
			c.SetReadDeadline(time.Now().Add(30 * time.Second))
			ended := make(chan error, 1)
			waiting[host] = ended
			go func() {
				_, err := c.Read(make([]byte, 1))
				ended <- err
			}()
			if net.ParseIP(host).IsLoopback() {
				defer func() {
					s, err := l.Accept()
					if err != nil {
						t.Error(err)
						return
					}
					s.Close()
					if err := <-ended; err != io.EOF {
						t.Errorf("the connection to %s: %v", host, err)
					}
				}()
			}
		}
		if err := endConnections(); errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOENT) {
			return fmt.Sprintf("this machine's kernel cannot end connections: %v", err)
		} else if err != nil {
			t.Error(err)
			return ""
		}
		for _, host := range []string{"10.1.2.3", "fd00::1"} {
			if err := <-waiting[host]; !errors.Is(err, unix.ECONNABORTED) && !errors.Is(err, unix.ECONNRESET) {
				t.Errorf("a connection to %s: %v", host, err)
			}
		}
		return ""
	})
}

// A card has its new addresses and routes and none of the old ones.
func TestReaddress(t *testing.T) {
	inNetwork(t, func() (skip string) {
		was, mac := "02:00:00:00:00:01", "02:00:00:00:00:02"
		hw, _ := net.ParseMAC(was)
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.HardwareAddr = "card", hw
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "peer"}); err != nil {
			return fmt.Sprintf("this machine has no virtual network cards: %v", err)
		}
		prefix, addr := netip.MustParsePrefix, netip.MustParseAddr
		old := proto.Interface{MAC: was, Addresses: []netip.Prefix{prefix("10.0.0.5/24"), prefix("fd00::5/64")}, Gateways: []netip.Addr{addr("10.0.0.1"), addr("fd00::1")}}
		if err := setUpNetwork([]proto.Interface{old}); err != nil {
			t.Error(err)
			return ""
		}
		fresh := proto.Interface{MAC: mac, MTU: 1400, Addresses: []netip.Prefix{prefix("10.9.0.5/24"), prefix("fd09::5/64")}, Gateways: []netip.Addr{addr("10.9.0.1"), addr("fd09::1")}}
		if err := readdress([]proto.Readdress{{Was: was, Interface: fresh}}); err != nil {
			t.Error(err)
			return ""
		}
		card, err := netlink.LinkByName("card")
		if err != nil {
			t.Error(err)
			return ""
		}
		if a := card.Attrs(); a.HardwareAddr.String() != mac || a.MTU != 1400 || a.Flags&net.FlagUp == 0 {
			t.Errorf("the card is %+v", a)
		}
		list, err := netlink.AddrList(card, netlink.FAMILY_ALL)
		var addresses, gateways []string
		for _, a := range list {
			if !a.IP.IsLinkLocalUnicast() {
				addresses = append(addresses, a.IPNet.String())
			}
		}
		if err != nil || !slices.Equal(addresses, []string{"10.9.0.5/24", "fd09::5/64"}) {
			t.Errorf("addresses %q, %v", addresses, err)
		}
		routes, err := netlink.RouteList(card, netlink.FAMILY_ALL)
		for _, r := range routes {
			if r.Gw != nil {
				gateways = append(gateways, r.Gw.String())
			}
		}
		slices.Sort(gateways)
		if err != nil || !slices.Equal(gateways, []string{"10.9.0.1", "fd09::1"}) {
			t.Errorf("gateways %q, %v", gateways, err)
		}
		if err := readdress([]proto.Readdress{{Was: was, Interface: fresh}}); err == nil {
			t.Error("a card that is not there has a new address")
		}
		for _, bad := range []proto.Readdress{{Was: "x", Interface: fresh}, {Was: mac}} {
			if err := readdress([]proto.Readdress{bad}); err == nil {
				t.Errorf("%+v is taken", bad)
			}
		}
		return ""
	})
}

func TestRereadRefuses(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "vda"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "../vda", "vda", "vdb"} {
		if err := reread(dir, proto.ChangedDisk{Disk: name, Size: 4096}); err == nil {
			t.Errorf("%q is a disk", name)
		}
	}
}
