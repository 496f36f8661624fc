package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/guestinit/cgroup"
	"github.com/hullvm/hull/guestinit/proto"
)

const (
	// freezeTimeout bounds the wait for processes to stop.
	freezeTimeout = 10 * time.Second
	// userHZ is the unit of times in /proc: the kernel's ABI.
	userHZ = 100
	// maxArgs bounds the arguments of one process in a list, and allArgs those of all together, in bytes.
	maxArgs = 4096
	allArgs = 256 << 10
)

// running returns the container's cgroup and main process.
func (a *Agent) running() (*cgroup.Group, *process, error) {
	c, p, err := a.mounted()
	switch {
	case err != nil:
		return nil, nil, err
	case p == nil:
		return nil, nil, &proto.Error{Code: proto.CodeNoProcess, Message: "the container has not been started"}
	case c.group == nil:
		return nil, nil, &proto.Error{Code: proto.CodeUnsupported, Message: "this kernel has no cgroups"}
	}
	return c.group, p, nil
}

// processes lists the container's processes.
func (a *Agent) processes() (*proto.Processes, error) {
	group, _, err := a.running()
	if err != nil {
		return nil, err
	}
	memory, err := guestMemory()
	if err != nil {
		return nil, err
	}
	now := boottime()
	list := &proto.Processes{
		Ticks: userHZ, Now: now / (int64(time.Second) / userHZ), Boot: time.Now().Add(-time.Duration(now)).Unix(),
		Memory: memory,
	}
	pids := group.Processes()
	slices.Sort(pids)
	if list.More = len(pids) > proto.MaxProcesses; list.More {
		pids = pids[:proto.MaxProcesses]
	}
	budget := allArgs
	for _, pid := range pids {
		p, err := readProcess("/proc", pid, min(maxArgs, budget))
		if err != nil {
			continue // it has ended
		}
		for _, arg := range p.Args {
			budget -= len(arg) + 1
		}
		budget = max(budget, 0)
		list.List = append(list.List, p)
	}
	return list, nil
}

// guestMemory is how much memory there is, in bytes.
func guestMemory() (uint64, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0, fmt.Errorf("sysinfo: %w", err)
	}
	return info.Totalram * uint64(info.Unit), nil
}

// readProcess reads what proc has of a process; args is how much of its arguments, in bytes.
func readProcess(proc string, pid, args int) (proto.ProcessInfo, error) {
	dir := filepath.Join(proc, strconv.Itoa(pid))
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return proto.ProcessInfo{}, err
	}
	p, err := parseStat(stat)
	if err != nil {
		return p, fmt.Errorf("%s/stat: %w", dir, err)
	}
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return p, err
	}
	p.UID, p.GID = statusID(status, "Uid:"), statusID(status, "Gid:")
	if args > 0 {
		if p.Args, err = readArgs(filepath.Join(dir, "cmdline"), args); err != nil {
			return p, err
		}
	}
	return p, nil
}

// parseStat reads a stat line, proc(5). The second field is the program's name in parentheses, in which anything may stand.
func parseStat(stat []byte) (p proto.ProcessInfo, err error) {
	open, end := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	if open < 0 || end < open {
		return p, errors.New("no name in it")
	}
	const fields = 22 // up to rss, after the name
	rest := strings.Fields(string(stat[end+1:]))
	if len(rest) < fields {
		return p, fmt.Errorf("%d fields after the name, want %d", len(rest), fields)
	}
	p.Comm, p.State = string(stat[open+1:end]), rest[0]
	numbers := make([]int64, fields)
	for i := 1; i < fields; i++ {
		// Some are unsigned and may be larger, none of those that are wanted.
		numbers[i], _ = strconv.ParseInt(rest[i], 10, 64)
	}
	// Field n of proc(5) is numbers[n-3].
	pid, err := strconv.Atoi(strings.TrimSpace(string(stat[:open])))
	if err != nil {
		return p, err
	}
	p.PID, p.PPID, p.PGID, p.SID, p.TTY = pid, int(numbers[1]), int(numbers[2]), int(numbers[3]), int(numbers[4])
	p.User, p.System = numbers[11], numbers[12]
	p.Nice, p.Threads = int(numbers[16]), int(numbers[17])
	p.Start = numbers[19]
	p.Virtual = uint64(max(numbers[20], 0))
	p.RSS = uint64(max(numbers[21], 0)) * uint64(os.Getpagesize())
	return p, nil
}

// statusID reads the effective ID of a line such as "Uid:	real effective saved fs".
func statusID(status []byte, key string) uint32 {
	for line := range bytes.Lines(status) {
		if fields := strings.Fields(string(line)); len(fields) >= 3 && fields[0] == key {
			id, _ := strconv.ParseUint(fields[2], 10, 32)
			return uint32(id)
		}
	}
	return 0
}

// readArgs reads arguments that are zero-terminated.
func readArgs(path string, most int) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, int64(most)))
	if err != nil || len(raw) == 0 {
		return nil, err
	}
	return strings.Split(strings.TrimSuffix(string(raw), "\x00"), "\x00"), nil
}

// usage tells what the container uses.
func (a *Agent) usage() (*proto.Usage, error) {
	group, _, err := a.running()
	if err != nil {
		return nil, err
	}
	memory, err := guestMemory()
	if err != nil {
		return nil, err
	}
	use := group.Usage()
	u := &proto.Usage{
		Time: boottime(), CPU: use.CPU.Nanoseconds(), CPUs: runtime.NumCPU(),
		Memory: use.Memory, Limit: memory, PIDs: use.PIDs,
	}
	if use.Limit != 0 {
		u.Limit = min(u.Limit, use.Limit)
	}
	if raw, err := os.ReadFile("/proc/net/dev"); err == nil {
		u.NetworkIn, u.NetworkOut = parseNetDev(raw)
	}
	if raw, err := os.ReadFile("/proc/diskstats"); err == nil {
		u.BlockRead, u.BlockWrite = parseDiskstats(raw)
	}
	return u, nil
}

// parseNetDev adds up the bytes that network cards have received and sent, from /proc/net/dev.
func parseNetDev(raw []byte) (in, out uint64) {
	for line := range bytes.Lines(raw) {
		name, counters, ok := strings.Cut(string(line), ":")
		fields := strings.Fields(counters)
		if !ok || strings.TrimSpace(name) == "lo" || len(fields) < 9 {
			continue
		}
		received, _ := strconv.ParseUint(fields[0], 10, 64)
		sent, _ := strconv.ParseUint(fields[8], 10, 64)
		in, out = in+received, out+sent
	}
	return in, out
}

// parseDiskstats adds up what whole disks have read and written, from /proc/diskstats. The unit there is 512 bytes.
func parseDiskstats(raw []byte) (read, written uint64) {
	for line := range bytes.Lines(raw) {
		fields := strings.Fields(string(line))
		// The guest's disks are vda, vdb…; what is in a partition is in its disk as well.
		if len(fields) < 10 || !strings.HasPrefix(fields[2], "vd") || strings.ContainsAny(fields[2], "0123456789") {
			continue
		}
		r, _ := strconv.ParseUint(fields[5], 10, 64)
		w, _ := strconv.ParseUint(fields[9], 10, 64)
		read, written = read+512*r, written+512*w
	}
	return read, written
}
