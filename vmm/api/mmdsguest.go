package api

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hullvm/hull/vmm"
	"github.com/hullvm/hull/vmm/network/mmds"
)

// serveMetadata puts the metadata service before the host ends of a network card that may reach it. mu is held.
func (s *Server) serveMetadata(i int, backends []vmm.Backend) ([]vmm.Backend, error) {
	c := s.resources.mmds
	if c == nil || i >= len(s.resources.nics) || !slices.Contains(c.NetworkInterfaces, s.resources.nics[i].IfaceID) {
		return backends, nil
	}
	address, err := netip.ParseAddr(*c.IPv4Address)
	if err != nil {
		return nil, err
	}
	out := make([]vmm.Backend, len(backends))
	for j, b := range backends {
		svc, err := mmds.New(mmds.Config{Backend: b, Address: address, Handler: s.metadataHandler(*c)})
		if err != nil {
			return nil, err
		}
		s.services = append(s.services, svc)
		out[j] = svc
	}
	return out, nil
}

// Headers of the second version of the service, in both of their spellings.
var (
	tokenHeaders = []string{"X-Metadata-Token", "X-Aws-Ec2-Metadata-Token"}
	ttlHeaders   = []string{"X-Metadata-Token-Ttl-Seconds", "X-Aws-Ec2-Metadata-Token-Ttl-Seconds"}
)

const tokenPath = "/latest/api/token"

func firstHeader(h http.Header, names []string) (string, bool) {
	for _, n := range names {
		if v, ok := h[n]; ok {
			return v[0], true
		}
	}
	return "", false
}

// metadataHandler answers the guest. Its requests are hostile; what they can cost is bounded where they come in.
func (s *Server) metadataHandler(c mmdsConfig) http.Handler {
	m := &s.meta
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := r.URL.Path
		for strings.Contains(path, "//") {
			path = strings.ReplaceAll(path, "//", "/")
		}
		reply := func(status int, kind, format string, args ...any) {
			w.Header().Set("Server", appName+" API")
			w.Header().Set("Content-Type", kind)
			w.WriteHeader(status)
			fmt.Fprintf(w, format, args...)
		}
		switch {
		case path == "":
			reply(http.StatusBadRequest, "text/plain", "Invalid URI.")
		case r.Method == http.MethodPut && c.Version == mmdsV2:
			if _, forwarded := r.Header["X-Forwarded-For"]; forwarded {
				reply(http.StatusBadRequest, "text/plain", "Invalid header. Reason: Unsupported header name. Key: X-Forwarded-For")
				return
			}
			if path != tokenPath {
				reply(http.StatusNotFound, "text/plain", "Resource not found: %s.", path)
				return
			}
			given, ok := firstHeader(r.Header, ttlHeaders)
			if !ok {
				reply(http.StatusBadRequest, "text/plain", "Token time to live value not found. Use `X-metadata-token-ttl-seconds` header to specify the token's lifetime.")
				return
			}
			ttl, err := strconv.ParseUint(given, 10, 32)
			if err != nil || ttl < minTTL || ttl > maxTTL {
				reply(http.StatusBadRequest, "text/plain", "Invalid time to live value provided for token: %q. Please provide a value between %d and %d.", given, minTTL, maxTTL)
				return
			}
			w.Header().Set(ttlHeaders[0], given)
			reply(http.StatusOK, "text/plain", "%s", m.tokens.make(time.Duration(ttl)*time.Second))
		case r.Method != http.MethodGet:
			w.Header().Add("Allow", http.MethodGet)
			if c.Version == mmdsV2 {
				w.Header().Add("Allow", http.MethodPut)
			}
			reply(http.StatusMethodNotAllowed, "text/plain", "Not allowed HTTP method.")
		default:
			if token, ok := firstHeader(r.Header, tokenHeaders); c.Version == mmdsV2 && !ok {
				reply(http.StatusUnauthorized, "text/plain", "No MMDS token provided. Use `X-metadata-token` header to specify the session token.")
				return
			} else if c.Version == mmdsV2 && !m.tokens.valid(token) {
				reply(http.StatusUnauthorized, "text/plain", "MMDS token not valid.")
				return
			}
			v, ok := m.find(path)
			if !ok {
				reply(http.StatusNotFound, "text/plain", "Resource not found: %s.", path)
				return
			}
			if strings.Contains(r.Header.Get("Accept"), "application/json") && !c.IMDSCompat {
				reply(http.StatusOK, "application/json", "%s", encode(v))
				return
			}
			listing, ok := imds(v)
			if !ok {
				reply(http.StatusNotImplemented, "text/plain", "Cannot retrieve value. The value has an unsupported type.")
				return
			}
			reply(http.StatusOK, "text/plain", "%s", listing)
		}
	})
}

// imds is a value as EC2's service shows it: an object's names, with a slash after those of objects, or a string.
func imds(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case map[string]any:
		var names []string
		for _, k := range slices.Sorted(maps.Keys(v)) {
			if _, nested := v[k].(map[string]any); nested {
				k += "/"
			}
			names = append(names, k)
		}
		return strings.Join(names, "\n"), true
	}
	return "", false
}

// Limits of a token's time to live, in seconds.
const (
	minTTL = 1
	maxTTL = 21600
)

// maxTokens is how many tokens are remembered: a guest that wants more loses the one that ends first.
const maxTokens = 1024

// tokens are those that guests were given.
type tokens struct {
	mu    sync.Mutex
	until map[string]time.Time
}

func (t *tokens) make(ttl time.Duration) string {
	var b [24]byte
	_, _ = rand.Read(b[:]) // it cannot fail
	token := hex.EncodeToString(b[:])
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.until == nil {
		t.until = make(map[string]time.Time)
	}
	if len(t.until) >= maxTokens {
		maps.DeleteFunc(t.until, func(_ string, end time.Time) bool { return end.Before(now) })
	}
	if len(t.until) >= maxTokens {
		first := ""
		for k, end := range t.until {
			if first == "" || end.Before(t.until[first]) {
				first = k
			}
		}
		delete(t.until, first)
	}
	t.until[token] = now.Add(ttl)
	return token
}

func (t *tokens) valid(token string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	end, ok := t.until[token]
	return ok && time.Now().Before(end)
}
