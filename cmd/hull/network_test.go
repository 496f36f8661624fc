package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// outside is an address of this host that is not the loopback's, so that containers may reach it. On a host
// that has none, and lets this process, it gets one (TEST-NET-1), which stays.
func outside() (net.IP, error) {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	for _, a := range addresses {
		if ip, ok := a.(*net.IPNet); ok && ip.IP.To4() != nil && ip.IP.IsGlobalUnicast() {
			return ip.IP, nil
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, err
	}
	ip := net.IPv4(192, 0, 2, 1)
	return ip, netlink.AddrAdd(lo, &netlink.Addr{IPNet: &net.IPNet{IP: ip, Mask: net.CIDRMask(32, 32)}})
}

// numbered are n bytes that are always the same.
func numbered(n int64) io.Reader { return io.LimitReader(rand.NewChaCha8([32]byte{1}), n) }

// helperOutside prints an address of this host that containers reach.
func helperOutside([]string) error {
	ip, err := outside()
	if err == nil {
		fmt.Println(ip)
	}
	return err
}

// helperServe serves HTTP until it is killed, and prints its address: /N is N bytes, and a POST is answered with
// the SHA-256 of what was sent: serve [ADDRESS]
func helperServe(args []string) error {
	ip, err := outside()
	if err != nil {
		return err
	}
	address := net.JoinHostPort(ip.String(), "0")
	if len(args) > 0 {
		address = args[0]
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr())
	return http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			sum := sha256.New()
			_, _ = io.Copy(sum, r.Body)
			fmt.Fprintf(w, "%x\n", sum.Sum(nil))
			return
		}
		n, err := strconv.ParseInt(strings.TrimPrefix(r.URL.Path, "/"), 10, 64)
		if err != nil {
			http.NotFound(w, r)
			return
		}
		_, _ = io.Copy(w, numbered(n))
	}))
}

// helperNumbered prints the SHA-256 of N bytes of /N: numbered N
func helperNumbered(args []string) error {
	if err := usage(args, 1, "numbered N"); err != nil {
		return err
	}
	n, err := strconv.ParseInt(args[0], 10, 64)
	if err != nil {
		return err
	}
	sum := sha256.New()
	_, _ = io.Copy(sum, numbered(n))
	fmt.Printf("%x\n", sum.Sum(nil))
	return nil
}

// helperGet prints what a server answers: get URL
func helperGet(args []string) error {
	if err := usage(args, 1, "get URL"); err != nil {
		return err
	}
	response, err := http.Get(args[0])
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, err = io.Copy(os.Stdout, response.Body)
	return err
}

// helperCrowd opens many connections to a server that echoes, keeps them open, and then has each answered; or
// asks for the reset of each: crowd ADDRESS N [reset]
func helperCrowd(args []string) error {
	if err := usage(args, 2, "crowd ADDRESS N [reset]"); err != nil {
		return err
	}
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	conns := make([]net.Conn, n)
	for i := range conns {
		if conns[i], err = net.DialTimeout("tcp", args[0], patience); err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
		defer conns[i].Close()
	}
	reset := len(args) > 2
	errs := make(chan error, n)
	for i, c := range conns {
		go func() {
			question := fmt.Sprintf("question %d", i)
			if reset {
				question = "reset"
			}
			_ = c.SetDeadline(time.Now().Add(patience))
			_, err := io.WriteString(c, question)
			answer := make([]byte, len(question))
			if err == nil {
				_, err = io.ReadFull(c, answer)
			}
			switch {
			case reset && errors.Is(err, unix.ECONNRESET):
				err = nil
			case err == nil && (reset || string(answer) != question):
				err = fmt.Errorf("the answer is %q", answer)
			}
			errs <- err
		}()
	}
	for range conns {
		if err := <-errs; err != nil {
			return err
		}
	}
	what := "answers"
	if reset {
		what = "resets"
	}
	fmt.Printf("%d %s\n", n, what)
	return nil
}

// helperAsk sends a datagram and prints the answer: ask ADDRESS TEXT
func helperAsk(args []string) error {
	if err := usage(args, 2, "ask ADDRESS TEXT"); err != nil {
		return err
	}
	c, err := net.Dial("udp", args[0])
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write([]byte(args[1])); err != nil {
		return err
	}
	b := make([]byte, 1500)
	n, err := c.Read(b)
	fmt.Printf("%s\n", b[:n])
	return err
}

// helperPort prints a TCP port of this host that was free a moment ago, as an address.
func helperPort([]string) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer l.Close()
	fmt.Println(l.Addr())
	return nil
}

// helperSpray sends datagrams of 1,400 bytes that nobody answers: spray ADDRESS COUNT
func helperSpray(args []string) error {
	if err := usage(args, 2, "spray ADDRESS COUNT"); err != nil {
		return err
	}
	count, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	c, err := net.Dial("udp", args[0])
	if err != nil {
		return err
	}
	defer c.Close()
	data := make([]byte, 1400)
	for range count {
		if _, err := c.Write(data); err != nil {
			return err
		}
	}
	return nil
}

// helperNames is a name server until it is killed: each name has the address of IPv4: names ADDRESS IP
func helperNames(args []string) error {
	if err := usage(args, 2, "names ADDRESS IP"); err != nil {
		return err
	}
	ip := net.ParseIP(args[1]).To4()
	c, err := net.ListenPacket("udp", args[0])
	if err != nil {
		return err
	}
	fmt.Println("ready")
	be := binary.BigEndian
	for b := make([]byte, 1500); ; {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			return err
		}
		// RFC 1035, section 4.1: a header with the number of questions, and the question, whose name ends with a zero.
		const headerSize = 12
		if n < headerSize || be.Uint16(b[4:]) != 1 {
			continue
		}
		name := bytes.IndexByte(b[headerSize:n], 0)
		end := headerSize + name + 5
		if name < 0 || end > n {
			continue
		}
		answer := append([]byte{b[0], b[1], 0x84, 0, 0, 1, 0, 0, 0, 0, 0, 0}, b[headerSize:end]...)
		if be.Uint16(b[end-4:]) == 1 { // an address of IPv4
			answer[7] = 1
			answer = append(answer, 0xc0, headerSize, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4) // the same name, type, class, for a minute
			answer = append(answer, ip...)
		}
		if _, err := c.WriteTo(answer, from); err != nil {
			return err
		}
	}
}
