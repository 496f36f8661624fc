package cgroup

import (
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Usage is what the processes of a cgroup use. What the kernel has no controller for is zero.
type Usage struct {
	CPU    time.Duration
	Memory uint64 // bytes, without files that the kernel has kept and has not used lately
	Limit  uint64 // of Memory, bytes; 0: none
	PIDs   uint64 // processes and threads
}

// Usage tells what the processes of the cgroup, and of those below it, use.
func (g *Group) Usage() Usage {
	var u Usage
	read := func(name string) []byte {
		raw, _ := os.ReadFile(filepath.Join(g.path, name)) // a kernel without the controller
		return raw
	}
	number := func(name string) uint64 {
		n, _ := strconv.ParseUint(strings.TrimSpace(string(read(name))), 10, 64)
		return n
	}
	u.CPU = time.Duration(field(read("cpu.stat"), "usage_usec")) * time.Microsecond
	u.Memory = number("memory.current")
	if inactive := uint64(field(read("memory.stat"), "inactive_file")); inactive < u.Memory {
		u.Memory -= inactive // as docker counts
	}
	u.Limit, u.PIDs = number("memory.max"), number("pids.current")
	return u
}

// Processes lists the processes of the cgroup and of those below it.
func (g *Group) Processes() []int {
	var pids []int
	_ = filepath.WalkDir(g.path, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil // gone meanwhile
		}
		raw, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		if err != nil {
			return nil
		}
		for s := range strings.FieldsSeq(string(raw)) {
			if pid, err := strconv.Atoi(s); err == nil && pid > 0 { // 0: of a PID namespace that we cannot see
				pids = append(pids, pid)
			}
		}
		return nil
	})
	return pids
}
