package jail

import (
	"bytes"
	"fmt"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// kernelLog is where the kernel's messages are read one by one.
const kernelLog = "/dev/kmsg"

// Denied says which system call a process was killed for, by its ID of a moment ago. Only the kernel's log knows.
func Denied(pid int) string {
	nr, err := deniedCall(pid)
	if err != nil {
		return "the kernel's log says for which system call (" + err.Error() + "; with " + Env + "=" + Trap + " the process itself does)"
	}
	return fmt.Sprintf("system call %d", nr)
}

func deniedCall(pid int) (nr int, err error) {
	fd, err := unix.Open(kernelLog, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", kernelLog, err)
	}
	defer unix.Close(fd)
	nr = -1
	end := time.Now().Add(logPatience)
	record := make([]byte, 8<<10) // CONSOLE_EXT_LOG_MAX
	for {
		n, err := unix.Read(fd, record)
		switch err {
		case nil:
			if found, ok := parseDenied(record[:n], pid); ok {
				nr = found // the latest: IDs come again
			}
		case unix.EPIPE, unix.EINTR, unix.EINVAL: // records were overwritten, or one is longer
		case unix.EAGAIN:
			if nr >= 0 {
				return nr, nil
			}
			if left := time.Until(end); left <= 0 || !readable(fd, left) {
				return 0, fmt.Errorf("%s has nothing about process %d", kernelLog, pid)
			}
		default:
			return 0, fmt.Errorf("%s: %w", kernelLog, err)
		}
	}
}

// logPatience is how long the kernel may take to log what it has done: a thread of its own does, and leaves out what is too much.
const logPatience = time.Second

// readable waits until there is something to read, or for as long as patience.
func readable(fd int, patience time.Duration) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, int(patience.Milliseconds())+1)
	return n > 0 || err == unix.EINTR
}

// parseDenied finds the system call in a record of the kernel's log, if that is about a filter that has ended the process:
// "audit: type=1326 audit(…): auid=… pid=77 comm=… sig=31 arch=c000003e syscall=59 …".
func parseDenied(record []byte, pid int) (nr int, ok bool) {
	if !bytes.Contains(record, []byte(" type=1326 ")) {
		return 0, false
	}
	nr = -1
	for word := range bytes.FieldsSeq(record) {
		key, value, _ := bytes.Cut(word, []byte("="))
		switch string(key) {
		case "pid":
			ok = string(value) == strconv.Itoa(pid)
		case "syscall":
			if n, err := strconv.Atoi(string(value)); err == nil {
				nr = n
			}
		}
	}
	return nr, ok && nr >= 0
}
