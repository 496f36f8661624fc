package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hullvm/hull/kvm"
	"github.com/hullvm/hull/vmm"
)

func TestMain(m *testing.M) {
	if memory := os.Getenv(envHandler); memory != "" {
		os.Exit(beHandler(memory))
	}
	goleak.VerifyTestMain(m)
}

const patience = 30 * time.Second

// needKVM skips a test where there is no KVM at all. Bare-metal guests need no more than that.
func needKVM(t testing.TB) {
	t.Helper()
	s, err := kvm.Open()
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		t.Skipf("needs KVM: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
}

// client talks to a server as curl does.
type client struct {
	t      testing.TB
	s      *Server
	socket string
	http   http.Client
	ran    chan error // what Run returned
}

// serve runs a server until the test ends.
func serve(t testing.TB, cfg Config) *client {
	t.Helper()
	dir, err := os.MkdirTemp("", "api-") // sockets have short paths
	if err != nil {
		t.Fatal(err)
	}
	c := &client{t: t, s: New(cfg), socket: filepath.Join(dir, "api.sock"), ran: make(chan error, 1)}
	l, err := net.Listen("unix", c.socket)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", c.socket) }}
	c.http = http.Client{Transport: transport, Timeout: patience}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, err := c.s.Run(ctx, l)
		c.ran <- err
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-c.ran; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		transport.CloseIdleConnections()
		if err := c.s.Close(); err != nil {
			t.Error(err)
		}
		os.RemoveAll(dir)
	})
	return c
}

// bare is a server whose machine runs a bare-metal guest, whatever kernel it is told to run.
func bare(t testing.TB, guest []byte, cfg Config) *client {
	t.Helper()
	needKVM(t)
	cfg.Change = func(c *vmm.Config) { c.Platform = vmm.PlatformNone }
	c := serve(t, cfg)
	path := filepath.Join(t.TempDir(), "guest.elf")
	if err := os.WriteFile(path, guest, 0o600); err != nil {
		t.Fatal(err)
	}
	c.ok("PUT", "/boot-source", fmt.Sprintf(`{"kernel_image_path": %q}`, path))
	c.ok("PUT", "/machine-config", `{"vcpu_count": 1, "mem_size_mib": 16}`)
	return c
}

// ask makes a request and returns the answer.
func (c *client) ask(method, path, body string) (status int, answer string) {
	c.t.Helper()
	r, err := http.NewRequest(method, "http://localhost"+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	w, err := c.http.Do(r)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer w.Body.Close()
	b, err := io.ReadAll(w.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	if kind := w.Header.Get("Content-Type"); len(b) > 0 && kind != "application/json" && !strings.HasPrefix(kind, "text/plain") {
		c.t.Errorf("%s %s: content type %q", method, path, kind)
	}
	return w.StatusCode, string(b)
}

// ok is a request that must succeed.
func (c *client) ok(method, path, body string) string {
	c.t.Helper()
	status, answer := c.ask(method, path, body)
	if want := map[bool]int{true: 200, false: 204}[method == "GET"]; status != want {
		c.t.Fatalf("%s %s %s: %d %s", method, path, body, status, answer)
	}
	return answer
}

// refused is a request that must fail with a message that has these words.
func (c *client) refused(method, path, body, want string) {
	c.t.Helper()
	status, answer := c.ask(method, path, body)
	var f struct {
		Message string `json:"fault_message"`
	}
	if err := json.Unmarshal([]byte(answer), &f); err != nil || status != http.StatusBadRequest || !strings.Contains(f.Message, want) {
		c.t.Errorf("%s %s %s: %d %s, want 400 with %q", method, path, body, status, answer, want)
	}
}

// value is one of a JSON answer.
func value(t testing.TB, answer string, path ...string) any {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(answer), &v); err != nil {
		t.Fatalf("%v: %s", err, answer)
	}
	for _, p := range path {
		m, ok := v.(map[string]any)
		if !ok {
			t.Fatalf("no %v in %s", path, answer)
		}
		v = m[p]
	}
	return v
}

// file makes a file of size bytes.
func file(t testing.TB, name string, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	f, err := os.Create(path)
	if err == nil {
		err = errors.Join(f.Truncate(size), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func descriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}
