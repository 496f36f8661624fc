package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// Bounds on what clients can have this process keep, and for how long.
const (
	maxHeader      = 8 << 10 // bytes of a request before its body
	maxConnections = 64

	headerPatience = 10 * time.Second // for a request's header, and as much again for its body
	idlePatience   = 10 * time.Minute // between two requests
	writePatience  = 2 * time.Minute  // for all that a request takes, a start or a snapshot included

	shutdownPatience = time.Second
)

func (s *Server) httpServer() *http.Server {
	return &http.Server{
		Handler: s, MaxHeaderBytes: maxHeader, ReadHeaderTimeout: headerPatience, ReadTimeout: 2 * headerPatience,
		IdleTimeout: idlePatience, WriteTimeout: writePatience,
		ErrorLog: s.log.std(),
	}
}

// limited is a listener with at most maxConnections open; more are told so and closed.
type limited struct {
	net.Listener
	places chan struct{}
}

func newLimited(l net.Listener) *limited { return &limited{l, make(chan struct{}, maxConnections)} }

const tooMany = "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 47\r\n\r\n" +
	`{"fault_message":"Too many open connections."}` + "\n"

func (l *limited) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case l.places <- struct{}{}:
			return &placed{Conn: c, leave: func() { <-l.places }}, nil
		default:
		}
		_ = c.SetWriteDeadline(time.Now().Add(time.Second)) // it fits the socket's buffer
		_, _ = io.WriteString(c, tooMany)
		c.Close()
	}
}

// placed is a connection that has a place of a limited listener.
type placed struct {
	net.Conn
	once  sync.Once
	leave func()
}

func (p *placed) Close() error {
	err := p.Conn.Close()
	p.once.Do(p.leave)
	return err
}

// text is an answer that is not JSON.
type text string

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Server", appName+" API")
	answer, err := s.serve(w, r)
	status := http.StatusOK
	var body []byte
	switch t, plain := answer.(text); {
	case err != nil:
		f := asFault(err)
		status = f.status
		body = encode(map[string]string{"fault_message": f.message})
		s.log.line(levelError, "Received Error. Status code: %d %s. Message: %s", status, http.StatusText(status), f.message)
	case answer == nil:
		status = http.StatusNoContent
	case plain:
		h.Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		body = []byte(t)
	default:
		body = encode(answer)
	}
	if err == nil {
		s.log.line(levelInfo, "The request was executed successfully. Status code: %d %s.", status, http.StatusText(status))
	}
	s.meter.request(r.Method, status)
	if body != nil && h.Get("Content-Type") == "" {
		h.Set("Content-Type", "application/json")
	}
	w.WriteHeader(status)
	_, _ = w.Write(body) // who does not take it does not get it
}

// encode is JSON as the API has it, without the escapes that are for web pages.
func encode(v any) []byte {
	if raw, ok := v.(json.RawMessage); ok {
		return raw
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil { // of types that cannot be encoded: there are none
		return []byte(`{}`)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// serve reads a request and carries it out.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) (any, error) {
	tooLong := func(n int64) error {
		w.Header().Set("Connection", "close") // what else there is of the body is not read
		return &fault{http.StatusRequestEntityTooLarge,
			fmt.Sprintf("Request payload with size %d is larger than the limit of %d allowed by server.", n, s.cfg.MaxBody)}
	}
	if r.ContentLength > int64(s.cfg.MaxBody) {
		return nil, tooLong(r.ContentLength)
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, int64(s.cfg.MaxBody)))
	var over *http.MaxBytesError
	switch {
	case errors.As(err, &over):
		return nil, tooLong(over.Limit + 1)
	case err != nil:
		w.Header().Set("Connection", "close")
		return nil, &fault{http.StatusBadRequest, fmt.Sprintf("Reading the body of the request: %v.", err)}
	}
	s.log.request(r.Method, r.URL.EscapedPath(), body)
	return s.route(r.Method, r.URL.EscapedPath(), body)
}
