package usernet

import (
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestServe(t *testing.T) {
	u, err := NewUser(UserConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ends := make([]*net.UnixConn, 2)
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "end")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		ends[i] = c.(*net.UnixConn)
	}
	done := make(chan error)
	go func() { done <- u.Serve(ends[0]) }()
	buf := make([]byte, maxMessage)
	for range 1000 {
		if _, err := ends[1].Write(append(make([]byte, headerSize), arpRequest(Gateway4)...)); err != nil {
			t.Fatal(err)
		}
		_ = ends[1].SetReadDeadline(time.Now().Add(10 * time.Second))
		if n, err := ends[1].Read(buf); err != nil || n < headerSize+42 || buf[0] != headerDataValid {
			t.Fatalf("%d bytes, %v", n, err)
		}
	}
	if _, err := ends[1].Write([]byte("short")); err != nil {
		t.Fatal(err)
	}
	ends[1].Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
