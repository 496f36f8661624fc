package proto

import (
	"context"
	"fmt"
)

// Messages about the processes of a container.
const (
	TypeProcesses Type = "processes" // list processes; the answer has the same type
	TypeUsage     Type = "usage"     // tell what they use; the answer has the same type
)

// MaxProcesses is how many processes an agent lists at most.
const MaxProcesses = 4096

// Processes lists the processes of a container.
type Processes struct {
	List []ProcessInfo `json:"list"`
	More bool          `json:"more,omitempty"` // there are more than MaxProcesses
	// Ticks is how many units of Start, User and System there are in a second.
	Ticks int64 `json:"ticks"`
	Boot  int64 `json:"boot"` // when the guest booted, in seconds since 1970
	Now   int64 `json:"now"`  // ticks after the boot
	// Memory is the guest's, in bytes.
	Memory uint64 `json:"memory"`
}

// ProcessInfo is one process, as proc(5) tells of it.
type ProcessInfo struct {
	PID     int      `json:"pid"`
	PPID    int      `json:"ppid"`
	PGID    int      `json:"pgid"`
	SID     int      `json:"sid"`
	UID     uint32   `json:"uid"`
	GID     uint32   `json:"gid"`
	State   string   `json:"state"` // one letter
	TTY     int      `json:"tty"`   // device number of its terminal, 0 for none
	Start   int64    `json:"start"` // ticks after the boot
	User    int64    `json:"user"`  // ticks of CPU time
	System  int64    `json:"system"`
	Threads int      `json:"threads"`
	Nice    int      `json:"nice"`
	Virtual uint64   `json:"virtual"` // bytes
	RSS     uint64   `json:"rss"`     // bytes
	Comm    string   `json:"comm"`
	Args    []string `json:"args,omitempty"` // cut to 4096 bytes; none of a kernel thread or zombie
}

// Usage is what a container uses of its guest. Counters begin with the container.
type Usage struct {
	Time       int64  `json:"time"`   // CLOCK_BOOTTIME in ns, when this was read
	CPU        int64  `json:"cpu"`    // CPU time in ns
	CPUs       int    `json:"cpus"`   // of the guest
	Memory     uint64 `json:"memory"` // bytes, less what the kernel keeps of files that it may drop
	Limit      uint64 `json:"limit"`  // bytes it may have
	NetworkIn  uint64 `json:"networkIn"`
	NetworkOut uint64 `json:"networkOut"` // bytes, but for the loopback
	BlockRead  uint64 `json:"blockRead"`  // bytes
	BlockWrite uint64 `json:"blockWrite"` // bytes
	PIDs       uint64 `json:"pids"`       // processes and threads
}

// Processes lists the container's processes.
func (c *Client) Processes(ctx context.Context) (*Processes, error) {
	_, answer, err := c.request(ctx, Message{Type: TypeProcesses})
	if err == nil && (answer.Type != TypeProcesses || answer.Processes == nil) {
		err = fmt.Errorf("unexpected answer %q", answer.Type)
	}
	if err != nil {
		return nil, fmt.Errorf("listing the container's processes: %w", err)
	}
	return answer.Processes, nil
}

// Usage tells what the container uses.
func (c *Client) Usage(ctx context.Context) (*Usage, error) {
	_, answer, err := c.request(ctx, Message{Type: TypeUsage})
	if err == nil && (answer.Type != TypeUsage || answer.Usage == nil) {
		err = fmt.Errorf("unexpected answer %q", answer.Type)
	}
	if err != nil {
		return nil, fmt.Errorf("asking what the container uses: %w", err)
	}
	return answer.Usage, nil
}
