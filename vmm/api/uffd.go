package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/vmm"
)

// pageHandler is the program that brings a machine's memory: the one that listens at the path of a snapshot's `mem_backend` of the
// type Uffd. It gets one message, the pieces of memory as JSON and the userfaultfd with it, and then answers faults for as long as
// it likes; Firecracker's own documentation has an example of one. It implements vmm.MemoryBackend.
type pageHandler struct {
	path    string
	conn    *net.UnixConn
	process *os.File // a pidfd, nil if there is none
}

// pageRange is one of the pieces in the message.
type pageRange struct {
	BaseHostVirtAddr uint64 `json:"base_host_virt_addr"`
	Size             uint64 `json:"size"`          // bytes
	Offset           uint64 `json:"offset"`        // in the snapshot's memory file
	PageSize         uint64 `json:"page_size"`     // bytes
	PageSizeKiB      uint64 `json:"page_size_kib"` // bytes as well: what handlers of old read
}

// handlerPatience is how long a handler may take to accept a connection and to take a message of less than a socket's buffer.
const handlerPatience = 5 * time.Second

// Serve implements vmm.MemoryBackend.
func (h *pageHandler) Serve(faults int, ranges []vmm.MemoryRange) (<-chan error, error) {
	bad := func(err error) error {
		return fmt.Errorf("the page fault handler at %s: %w: start the one that is to bring the memory first", h.path, err)
	}
	conn, err := (&net.Dialer{Timeout: handlerPatience}).Dial("unix", h.path)
	if err != nil {
		return nil, bad(err)
	}
	h.conn = conn.(*net.UnixConn)
	var message []pageRange
	for _, r := range ranges {
		message = append(message, pageRange{r.Address, r.Size, r.Offset, r.PageSize, r.PageSize})
	}
	text, err := json.Marshal(message)
	if err == nil {
		err = h.conn.SetWriteDeadline(time.Now().Add(handlerPatience))
	}
	if err == nil {
		_, _, err = h.conn.WriteMsgUnix(text, unix.UnixRights(faults), nil)
	}
	if err != nil {
		return nil, errors.Join(bad(err), h.Close())
	}
	h.process = peerProcess(h.conn)
	lost := make(chan error, 1)
	go func() { lost <- h.await() }()
	return lost, nil
}

// await returns when nobody answers faults any more, and why. A handler that closes the connection may go on, as long as there is
// its process; one whose process has ended may have left the connection to another.
func (h *pageHandler) await() error {
	for b := make([]byte, 64); ; { // nothing that it says is of interest
		if _, err := h.conn.Read(b); err != nil {
			break
		}
	}
	if h.process != nil {
		if c, err := h.process.SyscallConn(); err == nil {
			_ = c.Read(func(fd uintptr) bool { // an error: Close was called
				fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
				n, err := unix.Poll(fds, 0)
				return n > 0 || err != nil && err != unix.EINTR
			})
		}
	}
	return fmt.Errorf("the page fault handler at %s has ended", h.path)
}

// Close implements vmm.MemoryBackend.
func (h *pageHandler) Close() error {
	err := h.conn.Close()
	if h.process != nil {
		err = errors.Join(err, h.process.Close())
	}
	return err
}

// peerProcess is a pidfd of the process that listens at the other end; nil if it cannot be seen from here.
func peerProcess(c *net.UnixConn) (process *os.File) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil
	}
	_ = raw.Control(func(fd uintptr) {
		peer, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil || peer.Pid <= 0 {
			return
		}
		if p, err := unix.PidfdOpen(int(peer.Pid), unix.PIDFD_NONBLOCK); err == nil {
			process = os.NewFile(uintptr(p), "process of a page fault handler")
		}
	})
	return process
}
