package jail

import (
	"bytes"
	"fmt"
	"strconv"

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
			if nr < 0 {
				return 0, fmt.Errorf("%s has nothing about process %d", kernelLog, pid)
			}
			return nr, nil
		default:
			return 0, fmt.Errorf("%s: %w", kernelLog, err)
		}
	}
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
