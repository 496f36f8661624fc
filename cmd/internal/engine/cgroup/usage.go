package cgroup

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Usage is what this host charges to a group.
type Usage struct {
	CPU       time.Duration
	Throttled time.Duration // it would have run, and had used up its time
	Memory    uint64        // bytes, without files that are cached and can go at any time
	PIDs      uint64
	OOMKills  uint64 // processes that were killed for their memory
}

// ReadUsage reads what is charged to the group in a directory, as far as its controllers tell.
func ReadUsage(dir string) (Usage, error) {
	var u Usage
	stat, err := os.ReadFile(File(dir, "cpu.stat"))
	if err != nil {
		return u, err
	}
	u.CPU = time.Duration(field(stat, "usage_usec")) * time.Microsecond
	u.Throttled = time.Duration(field(stat, "throttled_usec")) * time.Microsecond
	if memory, err := number(dir, "memory.current"); err == nil {
		u.Memory = memory
		if stat, err := os.ReadFile(File(dir, "memory.stat")); err == nil {
			cached := field(stat, "active_file") + field(stat, "inactive_file")
			u.Memory -= min(cached, u.Memory)
		}
	}
	u.PIDs, _ = number(dir, "pids.current") // 0 without the controller
	if events, err := os.ReadFile(File(dir, "memory.events")); err == nil {
		u.OOMKills = field(events, "oom_kill")
	}
	return u, nil
}

// Usage is what this host charges to the group.
func (g *Group) Usage() (Usage, error) { return ReadUsage(g.dir) }

// Settings are the limits of the group in a directory, in the kernel's words: files, and what they say.
func Settings(dir string) map[string]string {
	set := make(map[string]string)
	for _, name := range []string{"cpu.max", "memory.max", "pids.max", "io.weight"} {
		if value, err := os.ReadFile(File(dir, name)); err == nil {
			set[name] = strings.TrimSpace(string(value))
		}
	}
	return set
}

// MemoryMax is how much memory the group may have, in bytes; 0: any.
func (g *Group) MemoryMax() uint64 {
	n, _ := number(g.dir, "memory.max") // "max" is none
	return n
}

func number(dir, name string) (uint64, error) {
	path := File(dir, name)
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return n, nil
}

// field is a value of a file with one key and one value in each line; 0 if it has none.
func field(file []byte, key string) uint64 {
	for line := range bytes.Lines(file) {
		name, value, _ := strings.Cut(strings.TrimSpace(string(line)), " ")
		if name == key {
			n, _ := strconv.ParseUint(value, 10, 64)
			return n
		}
	}
	return 0
}
