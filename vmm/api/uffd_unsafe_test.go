package api

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// linux/userfaultfd.h.
const (
	uffdioCopy     = 0xc028aa03 // _IOWR(0xaa, 0x03, struct uffdio_copy)
	uffdioZeropage = 0xc020aa04 // _IOWR(0xaa, 0x04, struct uffdio_zeropage)
	uffdPagefault  = 0x12       // UFFD_EVENT_PAGEFAULT
	uffdRemove     = 0x15       // UFFD_EVENT_REMOVE
	uffdMessage    = 32         // sizeof(struct uffd_msg)
)

// handlePages answers the faults of one machine out of its memory file, as Firecracker's example does, until stop is closed or the
// machine is gone. Each page that is brought is counted.
func handlePages(l *net.UnixListener, memory string, brought *atomic.Int64, stop <-chan struct{}) error {
	f, err := os.Open(memory)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	from, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	defer unix.Munmap(from)
	conn, err := l.AcceptUnix()
	if err != nil {
		return err
	}
	defer conn.Close()
	text, oob := make([]byte, 4096), make([]byte, 64)
	n, m, _, _, err := conn.ReadMsgUnix(text, oob)
	if err != nil {
		return err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:m])
	if err != nil || len(messages) != 1 {
		return fmt.Errorf("control messages: %v, %w", messages, err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return err
	}
	defer unix.Close(fds[0])
	var ranges []struct {
		Address uint64 `json:"base_host_virt_addr"`
		Size    uint64 `json:"size"`
		Offset  uint64 `json:"offset"`
		Page    uint64 `json:"page_size"`
		PageOld uint64 `json:"page_size_kib"`
	}
	if err := json.Unmarshal(text[:n], &ranges); err != nil {
		return err
	}
	removed := make(map[uint64]bool)
	for b := make([]byte, uffdMessage); ; {
		select {
		case <-stop:
			return nil
		default:
		}
		if n, err := unix.Poll([]unix.PollFd{{Fd: int32(fds[0]), Events: unix.POLLIN}}, 20); n == 0 || err != nil {
			continue
		}
		switch n, err := unix.Read(fds[0], b); {
		case err == unix.EAGAIN:
			continue
		case err != nil || n == 0:
			return nil // nobody has the memory any more
		}
		at := binary.LittleEndian.Uint64(b[16:]) &^ 4095
		if b[0] == uffdRemove {
			for page := binary.LittleEndian.Uint64(b[8:]); page < at; page += 4096 {
				removed[page] = true
			}
			continue
		}
		for _, r := range ranges {
			if b[0] != uffdPagefault || at < r.Address || at-r.Address >= r.Size || r.Page != 4096 || r.PageOld != r.Page {
				continue
			}
			var errno unix.Errno
			if removed[at] {
				zero := [4]uint64{at, 4096, 0, 0}
				_, _, errno = unix.Syscall(unix.SYS_IOCTL, uintptr(fds[0]), uffdioZeropage, uintptr(unsafe.Pointer(&zero)))
			} else {
				page := [5]uint64{at, uint64(uintptr(unsafe.Pointer(&from[r.Offset+at-r.Address]))), 4096, 0, 0}
				_, _, errno = unix.Syscall(unix.SYS_IOCTL, uintptr(fds[0]), uffdioCopy, uintptr(unsafe.Pointer(&page)))
			}
			if errno != 0 && errno != unix.EEXIST {
				return fmt.Errorf("page at %#x: %w", at, errno)
			}
			brought.Add(1)
		}
	}
}
