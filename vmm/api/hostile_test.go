package api

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// dial opens a connection that speaks no HTTP by itself.
func (c *client) dial() net.Conn {
	c.t.Helper()
	conn, err := net.Dial("unix", c.socket)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(2 * patience)); err != nil {
		c.t.Fatal(err)
	}
	return conn
}

// answer reads an answer off a connection.
func answer(t *testing.T, conn net.Conn) (status int, body string) {
	t.Helper()
	w, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Body.Close()
	b, err := io.ReadAll(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	return w.StatusCode, string(b)
}

// TestLongBodies: what is too long is refused, however it comes, and costs no more than is allowed.
func TestLongBodies(t *testing.T) {
	c := serve(t, Config{})
	long := strings.Repeat(" ", 1<<20)
	for how, header := range map[string]string{
		"announced": fmt.Sprintf("Content-Length: %d\r\n\r\n", len(long)),
		"in chunks": fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n", len(long)),
	} {
		conn := c.dial()
		go io.WriteString(conn, "PUT /mmds HTTP/1.1\r\nHost: localhost\r\n"+header+long) // it is cut short
		status, body := answer(t, conn)
		if status != http.StatusRequestEntityTooLarge || !strings.Contains(body, "larger than the limit of 51200 allowed by server.") {
			t.Errorf("%s: %d %s", how, status, body)
		}
	}
	if status, body := c.ask("PUT", "/mmds", `{"a":"`+strings.Repeat("x", DefaultMaxBody-8)+`"}`); status != http.StatusNoContent {
		t.Errorf("a body as long as is allowed: %d %s", status, body)
	}
	// The store may not grow by pieces either.
	status, body := c.ask("PATCH", "/mmds", `{"b":"x"}`)
	if status != http.StatusRequestEntityTooLarge || !strings.Contains(body, "MMDS limit exceeded error") {
		t.Errorf("too much metadata: %d %s", status, body)
	}
	conn := c.dial()
	io.WriteString(conn, "GET / HTTP/1.1\r\nHost: localhost\r\n") // it is cut short
	go io.WriteString(conn, strings.Repeat("X-Long: "+strings.Repeat("x", 1000)+"\r\n", 100))
	w, err := http.ReadResponse(bufio.NewReader(conn), nil) // its body is cut short, as what was sent
	if err != nil || w.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("long header: %v, %v", w, err)
	}
	c.ok("GET", "/", "")
}

// TestManyConnections: of any number of them, so many are served, and the others are told.
func TestManyConnections(t *testing.T) {
	c := serve(t, Config{})
	var idle []net.Conn
	for range maxConnections {
		conn := c.dial()
		fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
		if status, _ := answer(t, conn); status != http.StatusOK {
			t.Fatalf("status %d", status)
		}
		idle = append(idle, conn)
	}
	for range 10 {
		conn := c.dial()
		if status, body := answer(t, conn); status != http.StatusServiceUnavailable || !strings.Contains(body, "Too many open connections.") {
			t.Fatalf("one too many: %d %s", status, body)
		}
	}
	for _, conn := range idle {
		conn.Close()
	}
	deadline := time.Now().Add(patience)
	for { // until the server has seen that they are gone
		if status, _ := c.ask("GET", "/", ""); status == http.StatusOK {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("places are not given back")
		}
	}
}

// TestSlowClients: who begins a request and does not end it is not waited for, and holds up nobody.
func TestSlowClients(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for time-outs")
	}
	c := serve(t, Config{})
	cut := map[string]net.Conn{}
	for _, begun := range []string{
		"", "GET", "GET / HTTP/1.1\r\nHost: local", "PUT /mmds HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{",
	} {
		cut[begun] = c.dial()
		io.WriteString(cut[begun], begun) // read below
	}
	drip := c.dial() // a byte now and then
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		io.WriteString(drip, "GET / HTTP/1.1\r\n")
		for {
			select {
			case <-tick.C:
				if _, err := io.WriteString(drip, "X-A: b\r\n"); err != nil {
					return
				}
			case <-stop:
				return
			}
		}
	}()
	cut["a byte now and then"] = drip
	c.ok("GET", "/", "")
	for begun, conn := range cut {
		if _, err := io.Copy(io.Discard, conn); err != nil && strings.Contains(err.Error(), "timeout") {
			t.Errorf("%q: the connection stays open", begun)
		}
	}
}

// TestGarbage: what is no HTTP ends its connection and nothing else.
func TestGarbage(t *testing.T) {
	c := serve(t, Config{})
	for _, bytes := range []string{
		"\x00\x00\x00\x00\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", strings.Repeat("A", 100000), "PUT / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
		"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n",
	} {
		conn := c.dial()
		io.WriteString(conn, bytes) // the server may have closed it
		conn.(*net.UnixConn).CloseWrite()
		if _, err := io.Copy(io.Discard, conn); err != nil && strings.Contains(err.Error(), "timeout") {
			t.Errorf("%.20q: the connection stays open", bytes)
		}
	}
	c.ok("GET", "/", "")
}
