package engine

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hullvm/hull/vmm"
)

// Limits bound what a container may use, besides the CPUs and the memory of its VM.
type Limits struct {
	PIDs    int64  `json:"pids,omitempty"`     // processes and threads; 0 and less: any number
	ShmSize uint64 `json:"shm_size,omitempty"` // of /dev/shm, bytes; 0: DefaultShmSize
	// IOWeight is the VM's share of this host's storage, 10 to 1000; 0: that of others.
	IOWeight int `json:"io_weight,omitempty"`

	// Rates of disks.
	ReadBytes  []DeviceRate `json:"read_bytes,omitempty"`
	WriteBytes []DeviceRate `json:"write_bytes,omitempty"`
	ReadOps    []DeviceRate `json:"read_ops,omitempty"`
	WriteOps   []DeviceRate `json:"write_ops,omitempty"`
}

// DefaultShmSize is the size of /dev/shm in bytes, docker's.
const DefaultShmSize = 64 << 20

// DeviceRate is how much a disk may do in a second.
type DeviceRate struct {
	Device string `json:"device"` // as the container sees it: /dev/vdb
	Rate   uint64 `json:"rate"`   // bytes or operations, at least 1
}

// pids is the limit of processes as the guest takes it; nil: none.
func (l *Limits) pids() *specs.LinuxPids {
	if l.PIDs <= 0 {
		return nil
	}
	return &specs.LinuxPids{Limit: &l.PIDs}
}

// shmSize is the size of /dev/shm in bytes.
func (l *Limits) shmSize() uint64 {
	if l.ShmSize == 0 {
		return DefaultShmSize
	}
	return l.ShmSize
}

// apply sets the rates of a VM's disks.
func (l *Limits) apply(disks []vmm.Disk) error {
	var names []string
	for i := range disks {
		names = append(names, diskName(i))
	}
	for _, kind := range []struct {
		rates []DeviceRate
		set   func(*vmm.Disk, uint64)
	}{
		{l.ReadBytes, func(d *vmm.Disk, n uint64) { d.Limits.ReadBytes.PerSecond = n }},
		{l.WriteBytes, func(d *vmm.Disk, n uint64) { d.Limits.WriteBytes.PerSecond = n }},
		{l.ReadOps, func(d *vmm.Disk, n uint64) { d.Limits.ReadOps.PerSecond = n }},
		{l.WriteOps, func(d *vmm.Disk, n uint64) { d.Limits.WriteOps.PerSecond = n }},
	} {
		for _, r := range kind.rates {
			i := slices.IndexFunc(names, func(name string) bool { return r.Device == "/dev/"+name })
			if i < 0 {
				return fmt.Errorf("limit of device %q: the container has the disks /dev/vda, of its image, to %s", r.Device, "/dev/"+names[len(names)-1])
			}
			kind.set(&disks[i], r.Rate)
		}
	}
	return nil
}

// diskName is the name that the guest gives its i-th disk.
func diskName(i int) string { return "vd" + string(rune('a'+i)) }

// checkSecurity tells whether the security options are ones that mean something here.
func checkSecurity(options []string) error {
	for _, o := range options {
		switch strings.Replace(o, ":", "=", 1) {
		case "no-new-privileges", "no-new-privileges=true", "no-new-privileges=false",
			"seccomp=unconfined", "apparmor=unconfined", "label=disable", "systempaths=unconfined":
		default:
			return fmt.Errorf("security option %q: %w: a container has a kernel of its own, without seccomp profiles and security modules", o, errors.ErrUnsupported)
		}
	}
	return nil
}

// noNewPrivileges tells whether programs may gain privileges by being executed.
func (c *Config) noNewPrivileges() bool {
	return slices.ContainsFunc(c.SecurityOpt, func(o string) bool {
		o = strings.Replace(o, ":", "=", 1)
		return o == "no-new-privileges" || o == "no-new-privileges=true"
	})
}

// openPaths tells whether nothing of /proc and /sys is to be hidden.
func (c *Config) openPaths() bool {
	return c.Privileged || slices.Contains(c.SecurityOpt, "systempaths=unconfined")
}
