package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"

	"github.com/hullvm/hull/cmd/internal/engine"
)

// limitFlags are the flags about what a container may use.
type limitFlags struct {
	pids                                   int64
	blkioWeight                            int
	shmSize, cpuSet                        string
	readBytes, writeBytes, readOps, writes []string
}

func (f *limitFlags) register(flags *pflag.FlagSet) {
	flags.Int64Var(&f.pids, "pids-limit", 0, "`Number` of processes and threads; 0 or -1: any")
	flags.StringVar(&f.shmSize, "shm-size", "64m", "Size of /dev/shm: `bytes`, or with k, m, g")
	flags.StringVar(&f.cpuSet, "cpuset-cpus", "", "CPUs of this host that the VM may run on: `0-3,5`")
	flags.IntVar(&f.blkioWeight, "blkio-weight", 0, "The VM's `share` of this host's storage, 10 to 1000; 0: that of others")
	flags.StringArrayVar(&f.readBytes, "device-read-bps", nil, "Limit what is read from a disk in a second: `/dev/vdb:1mb`")
	flags.StringArrayVar(&f.writeBytes, "device-write-bps", nil, "Limit what is written to a disk in a second: `/dev/vdb:1mb`")
	flags.StringArrayVar(&f.readOps, "device-read-iops", nil, "Limit the reads from a disk in a second: `/dev/vdb:1000`")
	flags.StringArrayVar(&f.writes, "device-write-iops", nil, "Limit the writes to a disk in a second: `/dev/vdb:1000`")
}

func (f *limitFlags) apply(c *engine.Config) error {
	shm, err := parseMemory(f.shmSize)
	if err != nil {
		return fmt.Errorf("--shm-size: %w", err)
	}
	if f.blkioWeight != 0 && (f.blkioWeight < 10 || f.blkioWeight > 1000) {
		return fmt.Errorf("--blkio-weight %d: range of blkio weight is from 10 to 1000", f.blkioWeight)
	}
	c.Limits.PIDs, c.Limits.ShmSize, c.Limits.IOWeight = f.pids, shm, f.blkioWeight
	if c.CPUSet, err = parseCPUSet(f.cpuSet); err != nil {
		return fmt.Errorf("--cpuset-cpus: %w", err)
	}
	bytes := func(s string) (uint64, error) {
		n, err := units.RAMInBytes(s)
		return uint64(max(n, 0)), err
	}
	count := func(s string) (uint64, error) { return strconv.ParseUint(s, 10, 64) }
	for _, flag := range []struct {
		name  string
		given []string
		parse func(string) (uint64, error)
		rates *[]engine.DeviceRate
	}{
		{"device-read-bps", f.readBytes, bytes, &c.Limits.ReadBytes}, {"device-write-bps", f.writeBytes, bytes, &c.Limits.WriteBytes},
		{"device-read-iops", f.readOps, count, &c.Limits.ReadOps}, {"device-write-iops", f.writes, count, &c.Limits.WriteOps},
	} {
		for _, given := range flag.given {
			device, rate, ok := strings.Cut(given, ":")
			n, err := flag.parse(rate)
			if !ok || err != nil || n == 0 {
				return fmt.Errorf("--%s %q: want DEVICE:RATE", flag.name, given)
			}
			*flag.rates = append(*flag.rates, engine.DeviceRate{Device: device, Rate: n})
		}
	}
	return nil
}

// maxCPU is the highest number of a CPU that the kernel knows of.
const maxCPU = 1023

// parseCPUSet reads a list of CPUs as Linux writes it: 0-3,5.
func parseCPUSet(s string) ([]int, error) {
	if s == "" {
		return nil, nil
	}
	var cpus []int
	for part := range strings.SplitSeq(s, ",") {
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		first, err1 := strconv.Atoi(from)
		last, err2 := strconv.Atoi(to)
		if err1 != nil || err2 != nil || first < 0 || last < first || last > maxCPU {
			return nil, fmt.Errorf("%q is not a list of CPUs such as 0-3,5", s)
		}
		for cpu := first; cpu <= last; cpu++ {
			cpus = append(cpus, cpu)
		}
	}
	return cpus, nil
}
