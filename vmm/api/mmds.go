package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// metadata is the store of the metadata service, MMDS: a JSON value that clients set, and that the guest reads over HTTP at an
// address of its network (mmdsguest.go).
type metadata struct {
	limit int

	mu     sync.Mutex // guards what follows, against the guest
	value  any        // as encoding/json has it, with json.Number
	set    bool
	tokens tokens
}

func (m *metadata) init(limit int) { m.limit = limit }

var (
	errNotInitialized = refuse("MMDS error: The MMDS data store is not initialized.")
	errMetadataLimit  = &fault{http.StatusRequestEntityTooLarge, "MMDS limit exceeded error: The MMDS patch request doesn't fit."}
)

// parseAny checks a body as decode does, and returns it as encoding/json would.
func parseAny(body []byte) (any, error) {
	if _, err := parse(body); err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	var v any
	err := d.Decode(&v)
	return v, err
}

func (s *Server) putMMDS(body []byte) (any, error) {
	v, err := parseAny(body)
	if err != nil {
		return nil, err
	}
	return s.locked(always, func() (any, error) { return none(s.meta.put(v)) })
}

func (m *metadata) put(v any) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(encode(v)) > m.limit {
		return errMetadataLimit
	}
	m.value, m.set = v, true
	return nil
}

func (s *Server) patchMMDS(body []byte) (any, error) {
	v, err := parseAny(body)
	if err != nil {
		return nil, err
	}
	return s.locked(always, func() (any, error) { return none(s.meta.patch(v)) })
}

func (m *metadata) patch(v any) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.set {
		return errNotInitialized
	}
	next := mergePatch(m.value, v)
	if len(encode(next)) > m.limit {
		return errMetadataLimit
	}
	m.value = next
	return nil
}

// mergePatch applies a JSON Merge Patch (RFC 7396). Neither value changes.
func mergePatch(target, patch any) any {
	changes, ok := patch.(map[string]any)
	if !ok {
		return patch
	}
	old, _ := target.(map[string]any)
	out := make(map[string]any, len(old)+len(changes))
	for k, v := range old {
		out[k] = v
	}
	for k, v := range changes {
		if v == nil {
			delete(out, k)
			continue
		}
		out[k] = mergePatch(out[k], v)
	}
	return out
}

func (s *Server) getMMDS() (any, error) {
	return s.locked(always, func() (any, error) {
		s.meta.mu.Lock()
		defer s.meta.mu.Unlock()
		if s.meta.value == nil {
			return json.RawMessage("{}"), nil
		}
		return json.RawMessage(encode(s.meta.value)), nil
	})
}

// find returns what a path leads to (RFC 6901, without its escapes for "/", which no part of a path has).
func (m *metadata) find(path string) (any, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v := m.value
	for _, key := range strings.Split(strings.Trim(path, "/"), "/") {
		if key == "" { // the root, or a slash too many
			continue
		}
		switch c := v.(type) {
		case map[string]any:
			next, ok := c[key]
			if !ok {
				return nil, false
			}
			v = next
		case []any:
			i, err := strconv.Atoi(key)
			if err != nil || i < 0 || i >= len(c) || key != strconv.Itoa(i) {
				return nil, false
			}
			v = c[i]
		default:
			return nil, false
		}
	}
	return v, v != nil
}

// defaultMMDSAddress is where guests look for the service.
var defaultMMDSAddress = netip.MustParseAddr("169.254.169.254")

func (s *Server) putMMDSConfig(c *mmdsConfig) (any, error) {
	s.resources.touched = true
	if len(c.NetworkInterfaces) == 0 {
		return nil, refuse("MMDS config error: The list of network interface IDs that allow forwarding MMDS requests is empty.")
	}
	for _, id := range c.NetworkInterfaces {
		if !slices.ContainsFunc(s.resources.nics, func(n *nic) bool { return n.IfaceID == id }) {
			return nil, refuse("MMDS config error: The list of network interface IDs provided contains at least one ID that does not correspond to any existing network interface.")
		}
	}
	if c.IPv4Address != nil {
		a, err := netip.ParseAddr(*c.IPv4Address)
		if err != nil || !a.Is4() {
			return nil, &jsonError{message: fmt.Sprintf("invalid value: string %q, expected an IPv4 address", *c.IPv4Address)}
		}
		if b := a.As4(); !a.IsLinkLocalUnicast() || b[2] == 0 || b[2] == 255 { // RFC 3927, 2.1
			return nil, refuse("MMDS config error: The MMDS IPv4 address is not link local.")
		}
	} else {
		c.IPv4Address = ptr(defaultMMDSAddress.String())
	}
	s.resources.mmds = c
	return nil, nil
}
