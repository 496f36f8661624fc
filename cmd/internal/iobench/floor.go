package main

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// floorDisk does w's requests with one system call each, on one thread.
func floorDisk(b *bench, w work) (time.Duration, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	f, err := os.OpenFile(b.disk, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	fd := int(f.Fd())
	buf, err := unix.Mmap(-1, 0, int(w.Size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
	if err != nil {
		return 0, os.NewSyscallError("mmap", err)
	}
	defer unix.Munmap(buf)
	vector := [][]byte{buf}
	random := rand.New(rand.NewPCG(w.Seed, 0))
	var began time.Time
	for i := range w.Warmup + w.Count {
		if i == w.Warmup {
			began = time.Now()
		}
		place := i % w.Units
		if w.Sequential == 0 {
			place = random.Uint64N(w.Units)
		}
		var n int
		if w.Write != 0 {
			pattern(buf[:8], place*w.Size)
			pattern(buf[w.Size-8:], place*w.Size+w.Size-8)
			n, err = unix.Pwritev(fd, vector, int64(place*w.Size))
		} else {
			n, err = unix.Preadv(fd, vector, int64(place*w.Size))
		}
		if err != nil || n != len(buf) {
			return 0, fmt.Errorf("floor: %d bytes of %d at %d of %s: %v", n, len(buf), place*w.Size, b.disk, err)
		}
	}
	return time.Since(began) / time.Duration(w.Count), nil
}

// floorStream sends w's bytes through a Unix socket, a system call a request on
// the side where the monitor would be, to or from the same peer as the guest's.
func floorStream(b *bench, w work) (time.Duration, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, os.NewSyscallError("socketpair", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "peer")
	conn, err := net.FileConn(theirs)
	theirs.Close()
	if err != nil {
		unix.Close(pair[0])
		return 0, err
	}
	done := make(chan error, 1)
	transfer := unix.Write
	if w.Kind == kindVsockIn {
		transfer = unix.Read
		go func() { done <- pour(conn) }()
	} else {
		go func() { done <- b.drain(conn) }()
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	buf := make([]byte, w.Size)
	began := time.Now()
	for rest := int(w.Count * w.Size); rest > 0 && err == nil; {
		var n int
		n, err = transfer(pair[0], buf)
		rest -= n
	}
	took := time.Since(began) / time.Duration(w.Count)
	unix.Close(pair[0])
	if failed := <-done; err == nil {
		err = failed
	}
	conn.Close()
	return took, err
}

// floorNone is for what does not exist without a VM.
func floorNone(*bench, work) (time.Duration, error) { return 0, nil }

// floorTap writes or reads w's frames at the monitor's end of a tap interface, a
// system call each. What it reads comes from the same peer as the guest's.
func floorTap(_ *bench, w work) (took time.Duration, err error) {
	c, err := newCable(w)
	if err != nil {
		return 0, err
	}
	defer func() {
		if failed := c.end(); err == nil {
			err = failed
		}
	}()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	fd := int(c.tap.Fd())
	buf := append(make([]byte, netHeader), frame(w.Size)...)
	transfer := unix.Write
	if w.Kind == kindNetIn {
		transfer = unix.Read
	}
	c.start()
	var began time.Time
	for i := range w.Warmup + w.Count {
		if i == w.Warmup {
			began = time.Now()
		}
		if n, err := transfer(fd, buf); n != len(buf) {
			return 0, fmt.Errorf("floor: %d bytes of %d at %s: %v", n, len(buf), c.tap.name, err)
		}
	}
	return time.Since(began) / time.Duration(w.Count), nil
}
