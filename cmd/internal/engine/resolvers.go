package engine

import (
	"bufio"
	"bytes"
	"net/netip"
	"os"
	"strings"
)

// hostResolvers are this host's name servers, in order.
func hostResolvers() []netip.AddrPort {
	var list []netip.AddrPort
	for _, words := range resolvConfLines() {
		if words[0] != "nameserver" || len(words) < 2 {
			continue
		}
		if addr, err := netip.ParseAddr(words[1]); err == nil {
			list = append(list, netip.AddrPortFrom(addr, 53))
		}
	}
	if len(list) == 0 {
		list = append(list, netip.MustParseAddrPort("127.0.0.1:53")) // resolv.conf(5)
	}
	return list
}

// resolvConfLines are the words of each line that says something.
func resolvConfLines() [][]string {
	text, err := os.ReadFile(resolvConfPath)
	if err != nil {
		return nil // none is as good as an empty one
	}
	var lines [][]string
	for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
		line, _, _ := strings.Cut(s.Text(), "#")
		if words := strings.Fields(line); len(words) > 0 && !strings.HasPrefix(words[0], ";") {
			lines = append(lines, words)
		}
	}
	return lines
}
