package images

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// network says how patient a store is with registries.
type network struct {
	attempts int           // how often something is tried that makes no progress
	pause    time.Duration // before the second attempt; twice as long before each further one
	idle     time.Duration // how long a connection may be silent
}

func defaultNetwork() network {
	return network{attempts: 5, pause: 500 * time.Millisecond, idle: time.Minute}
}

// maxPause bounds how long a registry can make a pull wait with Retry-After.
const maxPause = 30 * time.Second

// roundTripper decides by host which connections may be unsafe: those to a
// registry on this host, as docker has it, and to the one that the user called insecure.
type roundTripper struct {
	registry string // host, with port if it has one
	insecure bool
	strict   *http.Transport
	lax      *http.Transport // does not verify certificates
}

func newRoundTripper(registry string, insecure bool, n network) *roundTripper {
	strict := &http.Transport{Proxy: http.ProxyFromEnvironment}
	if usual, ok := http.DefaultTransport.(*http.Transport); ok {
		strict = usual.Clone()
	}
	strict.ResponseHeaderTimeout = n.idle
	strict.DisableCompression = true // layers are compressed, and their lengths must be what was announced
	lax := strict.Clone()
	lax.TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
	return &roundTripper{registry: registry, insecure: insecure, strict: strict, lax: lax}
}

func (t *roundTripper) RoundTrip(r *http.Request) (*http.Response, error) {
	host := r.URL.Host
	trusted := t.insecure && host == t.registry || isLoopback(t.registry) && isLoopback(host)
	if r.URL.Scheme != "https" && !trusted && !t.insecure {
		return nil, &insecureError{host}
	}
	if trusted {
		return t.lax.RoundTrip(r)
	}
	return t.strict.RoundTrip(r)
}

func (t *roundTripper) close() {
	t.strict.CloseIdleConnections()
	t.lax.CloseIdleConnections()
}

// insecureError: plain HTTP where it is not allowed.
type insecureError struct{ host string }

func (e *insecureError) Error() string {
	return "plain HTTP to " + e.host + " is not allowed"
}

// isLoopback tells whether a host, with or without a port, is this one.
func isLoopback(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// statusError is an answer of the registry that is not what was asked for.
type statusError struct {
	err   *transport.Error
	after time.Duration // Retry-After
}

func (e *statusError) Error() string {
	if kind := e.Unwrap(); kind == ErrDenied {
		return kind.Error() + ": " + e.err.Error()
	}
	return e.err.Error()
}

func (e *statusError) Unwrap() error {
	switch e.err.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		return ErrDenied
	case http.StatusNotFound:
		return ErrNoSuchImage
	}
	return ErrRegistry
}

// checkStatus makes an error of an answer unless it has one of the codes. It
// closes the body then.
func checkStatus(r *http.Response, codes ...int) error {
	err := transport.CheckError(r, codes...)
	if err == nil {
		return nil
	}
	r.Body.Close()
	return explain(r.Request.Context(), err, r)
}

// explain gives errors of the registry client their kind. r may be nil.
func explain(ctx context.Context, err error, r *http.Response) error {
	var status *transport.Error
	if errors.As(err, &status) {
		e := &statusError{err: status}
		if r != nil {
			if seconds, perr := strconv.ParseUint(r.Header.Get("Retry-After"), 10, 16); perr == nil {
				e.after = min(time.Duration(seconds)*time.Second, maxPause)
			}
		}
		return e
	}
	// Not errors.Is(err, context.DeadlineExceeded): that is so for every timeout of a connection.
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("%w: %w", err, ErrRegistry)
}

// isTransient tells whether trying again may help.
func isTransient(err error) bool {
	var status *statusError
	if errors.As(err, &status) {
		switch status.err.StatusCode {
		case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests,
			http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			return true
		}
		return false
	}
	var (
		insecure  *insecureError
		authority x509.UnknownAuthorityError
		host      x509.HostnameError
		invalid   x509.CertificateInvalidError
		record    tls.RecordHeaderError
		dns       *net.DNSError
	)
	switch {
	case errors.As(err, &insecure), errors.As(err, &authority), errors.As(err, &host), errors.As(err, &invalid), errors.As(err, &record):
		return false
	case errors.As(err, &dns):
		return !dns.IsNotFound
	}
	return errors.Is(err, ErrRegistry)
}

// retry calls try until it succeeds, fails for good or fails too often. Before
// each further attempt it calls again with the error.
func (n network) retry(ctx context.Context, again func(error), try func() error) error {
	pause := n.pause
	for attempt := 1; ; attempt++ {
		err := try()
		if err == nil || ctx.Err() != nil || !isTransient(err) || attempt >= n.attempts {
			return err
		}
		if again != nil {
			again(err)
		}
		if werr := sleep(ctx, n.pauseAfter(err, pause)); werr != nil {
			return werr
		}
		pause = min(2*pause, maxPause)
	}
}

// pauseAfter is how long to wait after an error.
func (n network) pauseAfter(err error, usual time.Duration) time.Duration {
	var status *statusError
	if errors.As(err, &status) && status.after > usual {
		return status.after
	}
	return usual
}
