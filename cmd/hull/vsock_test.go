package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// stream is a connection whose directions end one by one.
type stream interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// helperDisk makes a disk of this very program, for a guest to copy: disk OUT
func helperDisk(args []string) error {
	if err := usage(args, 1, "disk OUT"); err != nil {
		return err
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	return os.WriteFile(args[0], append(self, make([]byte, -len(self)&511)...), 0o600)
}

// helperEcho sends back what comes on a port of the guest, each connection until its end: echo PORT
func helperEcho(args []string) error {
	if err := usage(args, 1, "echo PORT"); err != nil {
		return err
	}
	fd, err := vsockListen(args[0])
	if err != nil {
		return err
	}
	for {
		conn, _, err := unix.Accept(fd)
		if err != nil {
			return err
		}
		go echo(vsockStream(conn))
	}
}

// vsockListen listens on a port of the guest, and says so.
func vsockListen(number string) (fd int, err error) {
	port, err := strconv.ParseUint(number, 10, 32)
	if err != nil {
		return -1, err
	}
	if fd, err = unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0); err != nil {
		return -1, err
	}
	if err := unix.Bind(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: uint32(port)}); err != nil {
		return -1, err
	}
	if err := unix.Listen(fd, 1024); err != nil {
		return -1, err
	}
	fmt.Println("listening")
	return fd, nil
}

func echo(s stream) {
	defer s.Close()
	_, _ = io.Copy(s, s) // whoever sent sees what has not come back
	_ = s.CloseWrite()
}

// vsockConn is a socket of the guest's, without the poller: a thread waits.
type vsockConn struct{ *os.File }

func vsockStream(fd int) stream { return vsockConn{os.NewFile(uintptr(fd), "vsock")} }

func (c vsockConn) CloseWrite() error { return unix.Shutdown(int(c.Fd()), unix.SHUT_WR) }

// helperAnswer sends back what guests send to a port of the host: answer SOCKETFILE PORT
func helperAnswer(args []string) error {
	if err := usage(args, 2, "answer SOCKETFILE PORT"); err != nil {
		return err
	}
	socket, err := vsockSocket(args[0])
	if err != nil {
		return err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket + "_" + args[1], Net: "unix"})
	if err != nil {
		return err
	}
	fmt.Println("listening")
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return err
		}
		go echo(conn)
	}
}

// vsockSocket reads where the socket is from what hull boot has printed.
func vsockSocket(file string) (string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	_, rest, ok := strings.Cut(string(text), "vsock device: ")
	if !ok {
		return "", fmt.Errorf("%s tells of no vsock device: %q", file, text)
	}
	line, _, _ := strings.Cut(rest, "\r")
	return line, nil
}

// helperFlood opens connections to a port of the guest, some at once, and has bytes of their own sent back over each:
// flood SOCKETFILE PORT COUNT AT-ONCE
func helperFlood(args []string) error {
	if err := usage(args, 4, "flood SOCKETFILE PORT COUNT AT-ONCE"); err != nil {
		return err
	}
	socket, err := vsockSocket(args[0])
	if err != nil {
		return err
	}
	return flood(args[2:], func() (stream, error) { return vsockConnect(socket, args[1]) })
}

// vsockConnect connects to a port of the guest.
func vsockConnect(socket, port string) (*net.UnixConn, error) {
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return nil, err
	}
	c.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(c, "CONNECT %s\n", port)
	answer := make([]byte, 0, 32)
	for b := make([]byte, 1); !bytes.HasSuffix(answer, []byte("\n")); answer = append(answer, b[0]) {
		if _, err := c.Read(b); err != nil {
			return nil, errors.Join(fmt.Errorf("answer %q: %w", answer, err), c.Close())
		}
	}
	var number uint32
	if n, err := fmt.Sscanf(string(answer), "OK %d\n", &number); n != 1 || err != nil {
		return nil, errors.Join(fmt.Errorf("answer %q", answer), c.Close())
	}
	return c, nil
}

// stallAfter is how long nothing must have gone through for a connection to count as stalled.
const stallAfter = 3 * time.Second

// helperStall sends to a port of the guest which echoes, and reads nothing, until nothing goes any more. It stays so
// until it gets SIGTERM: then all must come back as it was sent: stall SOCKETFILE PORT
func helperStall(args []string) error {
	if err := usage(args, 2, "stall SOCKETFILE PORT"); err != nil {
		return err
	}
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, unix.SIGTERM)
	socket, err := vsockSocket(args[0])
	if err != nil {
		return err
	}
	c, err := vsockConnect(socket, args[1])
	if err != nil {
		return err
	}
	defer c.Close()
	const most = 1 << 30 // nobody keeps so much
	block, contents := make([]byte, 16<<10), numbered(most)
	var sent int64
	for err == nil && sent < most {
		if _, err := io.ReadFull(contents, block); err != nil {
			return err
		}
		c.SetWriteDeadline(time.Now().Add(stallAfter))
		var n int
		n, err = c.Write(block)
		sent += int64(n)
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("after %d bytes: %v", sent, err)
	}
	fmt.Printf("stalled after %d bytes\n", sent)
	<-asked
	c.SetDeadline(time.Now().Add(patience))
	if err := c.CloseWrite(); err != nil {
		return err
	}
	want, got := sha256.New(), sha256.New()
	_, _ = io.Copy(want, numbered(sent))
	if n, err := io.Copy(got, c); err != nil || n != sent || !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		return fmt.Errorf("%d bytes came back of %d that were sent: %v", n, sent, err)
	}
	fmt.Println("all came back")
	return nil
}

// helperCall is helperFlood from the guest to a port of the host, once something has connected to the guest's port of
// that number: then the host is ready. Another port, where nobody listens, must refuse: call PORT COUNT AT-ONCE
func helperCall(args []string) error {
	if err := usage(args, 3, "call PORT COUNT AT-ONCE"); err != nil {
		return err
	}
	fd, err := vsockListen(args[0])
	if err != nil {
		return err
	}
	first, _, err := unix.Accept(fd)
	if err != nil {
		return err
	}
	echo(vsockStream(first))
	port, err := strconv.ParseUint(args[0], 10, 32)
	if err != nil {
		return err
	}
	if _, err := vsockDial(uint32(port) + 1); !errors.Is(err, unix.ECONNRESET) {
		return fmt.Errorf("where nobody listens: %v", err)
	}
	return flood(args[1:], func() (stream, error) { return vsockDial(uint32(port)) })
}

func vsockDial(port uint32) (stream, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Connect(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_HOST, Port: port}); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return vsockStream(fd), nil
}

// flood uses COUNT connections, AT-ONCE at a time.
func flood(args []string, open func() (stream, error)) error {
	count, err1 := strconv.Atoi(args[0])
	atOnce, err2 := strconv.Atoi(args[1])
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	numbers := make(chan int)
	var mu sync.Mutex
	var failed []error
	var wg sync.WaitGroup
	for range atOnce {
		wg.Go(func() {
			for i := range numbers {
				if err := exchange(open, i); err != nil {
					mu.Lock()
					failed = append(failed, fmt.Errorf("connection %d: %w", i, err))
					mu.Unlock()
				}
			}
		})
	}
	for i := range count {
		numbers <- i
	}
	close(numbers)
	wg.Wait()
	if len(failed) > 0 {
		return fmt.Errorf("%d of %d failed, such as: %w", len(failed), count, failed[0])
	}
	fmt.Printf("%d connections, %d at once\n", count, atOnce)
	return nil
}

// exchange sends bytes that are connection i's own and ends its direction; the same have to come back.
func exchange(open func() (stream, error), i int) error {
	s, err := open()
	if err != nil {
		return err
	}
	defer s.Close()
	r := rand.New(rand.NewPCG(uint64(i), 1))
	want := make([]byte, r.IntN(20_000))
	for k := range want {
		want[k] = byte(r.Uint32())
	}
	sent := make(chan error, 1)
	go func() {
		_, err := s.Write(want)
		sent <- errors.Join(err, s.CloseWrite())
	}()
	got, err := io.ReadAll(s)
	if err := errors.Join(err, <-sent); err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("%d bytes came back, not the %d that were sent", len(got), len(want))
	}
	return nil
}
