package network

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestOpenTap(t *testing.T) {
	inNamespace(t, func() {
		persistent := func(name string, flags netlink.TuntapFlag, mode netlink.TuntapMode, owner uint32) {
			t.Helper()
			link := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: name}, Mode: mode, Flags: flags | netlink.TUNTAP_NO_PI, Queues: 1, Owner: owner}
			if err := netlink.LinkAdd(link); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			for _, f := range link.Fds {
				f.Close()
			}
		}
		persistent("tun0", 0, netlink.TUNTAP_MODE_TUN, 0)
		persistent("tap0", 0, netlink.TUNTAP_MODE_TAP, 0)
		persistent("tap1", netlink.TUNTAP_MULTI_QUEUE, netlink.TUNTAP_MODE_TAP, 0)
		persistent("theirs", netlink.TUNTAP_MULTI_QUEUE, netlink.TUNTAP_MODE_TAP, 1000)
		for _, name := range []string{"lo", "tap0", "tap1"} {
			link, err := netlink.LinkByName(name)
			if err == nil {
				err = netlink.LinkSetUp(link)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		for name, want := range map[string]string{
			"":                 "needs a name",
			"a-name-too-long-": "at most 15",
			"a/b":              "no interface can be called that",
			"t%d":              "no interface can be called that",
			"..":               "no interface can be called that",
			"lo":               "is no tap",
			"tun0":             "is no tap",
		} {
			if tap, err := OpenTap(name, 2); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%q: %v, want %q", name, err, want)
				if err == nil {
					tap.Close()
				}
			}
		}
		for name, queues := range map[string]int{"tap0": 1, "tap1": 2} {
			for range 2 { // what is closed can be opened again
				tap, err := OpenTap(name, 2)
				if err != nil {
					t.Fatal(err)
				}
				if len(tap.Queues) != queues {
					t.Errorf("%s has %d queues, want %d", name, len(tap.Queues), queues)
				}
				if second, err := OpenTap(name, 2); err == nil || !strings.Contains(err.Error(), "is using it") {
					t.Errorf("%s, opened twice: %v", name, err)
					if err == nil {
						second.Close()
					}
				}
				tap.Close()
			}
		}
		// One that was made here goes with its last file.
		tap, err := OpenTap("made", 4)
		if err != nil {
			t.Fatal(err)
		}
		if link, err := netlink.LinkByName("made"); err != nil || link.Attrs().Flags&net.FlagUp == 0 {
			t.Errorf("a tap that was made is not up: %v", err)
		}
		tap.Close()
		if _, err := netlink.LinkByName("made"); err == nil {
			t.Error("the tap is still there")
		}
		// An ordinary user may have what is theirs, and hears what is not.
		if err := asUser(1000, func() {
			if tap, err := OpenTap("theirs", 2); err != nil {
				t.Errorf("an ordinary user's own tap: %v", err)
			} else {
				if _, err := NewTap(tap.Queues...); err != nil {
					t.Error(err)
				}
				tap.Close()
			}
			for name, want := range map[string]string{"tap0": "belongs to somebody else", "fresh": "needs root"} {
				if tap, err := OpenTap(name, 1); err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%s as an ordinary user: %v, want %q", name, err, want)
					if err == nil {
						tap.Close()
					}
				}
			}
		}); err != nil {
			t.Error(err)
		}
	})
}

// asUser runs f with the effective IDs of an ordinary user, and no capabilities, on this thread, which is locked.
func asUser(uid int, f func()) error {
	// The raw calls: those of package unix change all threads.
	set := func(to uintptr) error {
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), to, ^uintptr(0)); errno != 0 {
			return fmt.Errorf("setresuid: %w", errno)
		}
		return nil
	}
	if err := set(uintptr(uid)); err != nil {
		return err
	}
	f()
	return set(0)
}
