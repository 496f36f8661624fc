package images

import (
	"net"
	"strings"
)

// The grammar of image names, that of github.com/distribution/reference. It is
// written out because compiled regular expressions would cost every start of
// hull 0.2 ms.

func isAlnum(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
}

// validPath: components of lower-case letters and digits, separated by '/';
// inside, runs of them are separated by '.', '_', '__' or any number of '-'.
func validPath(p string) bool {
	for component := range strings.SplitSeq(p, "/") {
		if !validComponent(component) {
			return false
		}
	}
	return true
}

func validComponent(s string) bool {
	if s == "" || !isAlnum(s[0]) || !isAlnum(s[len(s)-1]) {
		return false
	}
	for i := 0; i < len(s); {
		if isAlnum(s[i]) {
			i++
			continue
		}
		end := i
		for end < len(s) && !isAlnum(s[end]) {
			end++
		}
		separator := s[i:end]
		if separator != "." && separator != "_" && separator != "__" && strings.Trim(separator, "-") != "" {
			return false
		}
		i = end
	}
	return true
}

// validTag: 1 to 128 letters, digits, '_', '.' and '-', the last two not at the start.
func validTag(t string) bool {
	if t == "" || len(t) > 128 || t[0] == '.' || t[0] == '-' {
		return false
	}
	for i := range len(t) {
		c := t[i]
		if !isAlnum(c) && (c < 'A' || c > 'Z') && c != '_' && c != '.' && c != '-' {
			return false
		}
	}
	return true
}

// validDomain: a host name or an address (IPv6 in brackets), with an optional port.
func validDomain(d string) bool {
	host, port := d, ""
	colon := strings.LastIndexByte(d, ':')
	if colon > strings.LastIndexByte(d, ']') {
		host, port = d[:colon], d[colon+1:]
		if len(port) < 1 || len(port) > 5 || strings.Trim(port, "0123456789") != "" {
			return false
		}
	}
	if v6, ok := strings.CutPrefix(host, "["); ok {
		v6, ok = strings.CutSuffix(v6, "]")
		return ok && strings.Contains(v6, ":") && !strings.ContainsAny(v6, ".%") && net.ParseIP(v6) != nil
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			c := label[i]
			if !isAlnum(c) && (c < 'A' || c > 'Z') && c != '-' {
				return false
			}
		}
	}
	return true
}
