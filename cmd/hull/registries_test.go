package main

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
)

// helperRegistries plays every registry that there is until it is killed: it is a proxy that leads to a registry of its own
// whoever is asked for, with a certificate of that name. It prints the proxy's address and writes the certificate of who
// signs the others to a file: registries CAFILE [HOST USER:PASSWORD]
//
// With HOST, that registry asks for a password.
func helperRegistries(args []string) error {
	if err := usage(args, 1, "registries CAFILE [HOST USER:PASSWORD]"); err != nil {
		return err
	}
	h := &allRegistries{registry: registry.New(registry.Logger(log.New(io.Discard, "", 0)))}
	if len(args) > 2 {
		h.asking, h.login = args[1], args[2]
	}
	var err error
	if h.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return err
	}
	h.ca = &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "e2e"}, IsCA: true, BasicConstraintsValid: true}
	der, err := h.sign(h.ca)
	if err != nil {
		return err
	}
	if err := os.WriteFile(args[0], pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr())
	return http.Serve(listener, h)
}

type allRegistries struct {
	registry      http.Handler
	asking, login string
	key           *ecdsa.PrivateKey // of all certificates
	ca            *x509.Certificate
}

func (h *allRegistries) sign(c *x509.Certificate) ([]byte, error) {
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	return x509.CreateCertificate(rand.Reader, c, h.ca, &h.key.PublicKey, h.key)
}

// ServeHTTP takes the connection of a client that wants to speak TLS with a host.
func (h *allRegistries) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodConnect {
		http.Error(w, "this proxy only connects", http.StatusMethodNotAllowed)
		return
	}
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	host, _, _ := net.SplitHostPort(r.Host)
	der, err := h.sign(&x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: []string{host}})
	if err != nil {
		return
	}
	if _, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
		return
	}
	handler := h.registry
	if host == h.asking {
		handler = ask(handler, h.login)
	}
	secured := tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: h.key}}})
	one := &once{conn: secured, ended: make(chan struct{})}
	_ = http.Serve(one, handler) // ends with the connection
}

// once is a listener with one connection, which ends when that is closed.
type once struct {
	conn  net.Conn
	taken bool
	ended chan struct{}
}

func (o *once) Accept() (net.Conn, error) {
	if o.taken {
		<-o.ended
		return nil, io.EOF
	}
	o.taken = true
	return &noticed{o.conn, sync.OnceFunc(func() { close(o.ended) })}, nil
}

func (o *once) Close() error   { return nil }
func (o *once) Addr() net.Addr { return o.conn.LocalAddr() }

// noticed is a connection whose end is told.
type noticed struct {
	net.Conn
	tell func()
}

func (n *noticed) Close() error {
	n.tell()
	return n.Conn.Close()
}

// helperBehind runs a command behind a proxy that helperRegistries is: behind ADDRESSFILE CAFILE COMMAND...
func helperBehind(args []string) error {
	if err := usage(args, 3, "behind ADDRESSFILE CAFILE COMMAND..."); err != nil {
		return err
	}
	f, err := os.Open(args[0])
	if err != nil {
		return err
	}
	defer f.Close()
	address, err := bufio.NewReader(f).ReadString('\n')
	if err != nil {
		return err
	}
	os.Setenv("HTTPS_PROXY", "http://"+strings.TrimSpace(address))
	os.Setenv("SSL_CERT_FILE", args[1])
	return exitAs(runAs(nil, args[2:]))
}
