package engine

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"time"

	"github.com/hullvm/hull/vmm"
)

// Config is what a container was asked to be: the flags of `hull run`, before
// the image has had its say. It is kept in the container's record.
type Config struct {
	Image string `json:"image"` // as the user wrote it

	// Entrypoint replaces the image's when it is not nil; one empty string
	// stands for "none", as docker has it.
	Entrypoint []string `json:"entrypoint,omitempty"`
	Args       []string `json:"args,omitempty"` // replace the image's command
	// Env holds NAME=value, and a bare NAME for a variable to take out.
	Env        []string `json:"env,omitempty"`
	WorkingDir string   `json:"working_dir,omitempty"`
	User       string   `json:"user,omitempty"` // name or ID, with :group if wanted
	Hostname   string   `json:"hostname,omitempty"`
	ExtraHosts []string `json:"extra_hosts,omitempty"` // NAME:ADDRESS
	Terminal   bool     `json:"terminal,omitempty"`
	OpenStdin  bool     `json:"open_stdin,omitempty"`
	StdinOnce  bool     `json:"stdin_once,omitempty"` // the input ends with the first who is attached to it
	StopSignal string   `json:"stop_signal,omitempty"`
	// StopTimeout is how long the container may take to stop before it is killed; nil: DefaultStopTimeout, negative:
	// any time.
	StopTimeout *time.Duration `json:"stop_timeout,omitempty"`

	Restart RestartPolicy `json:"restart,omitzero"`
	Log     LogConfig     `json:"log,omitzero"`
	VMLog   VMLogConfig   `json:"vm_log,omitzero"`
	Health  *HealthCheck  `json:"health,omitempty"` // nil: the image's

	Labels     map[string]string `json:"labels,omitempty"`
	AutoRemove bool              `json:"auto_remove,omitempty"`

	ReadOnly bool              `json:"read_only,omitempty"`
	Tmpfs    map[string]string `json:"tmpfs,omitempty"` // path: mount options
	Mounts   []Mount           `json:"mounts,omitempty"`
	// VolumesFrom are containers whose mounts this one has too, with :ro behind for reading only.
	VolumesFrom []string `json:"volumes_from,omitempty"`
	TmpfsRoot   bool     `json:"tmpfs_root,omitempty"`
	CapAdd      []string `json:"cap_add,omitempty"`
	CapDrop     []string `json:"cap_drop,omitempty"`
	Ulimits     []Ulimit `json:"ulimits,omitempty"`

	// Privileged gives the workload all capabilities and hides nothing of /proc, /sys and /dev from it. All of that is
	// its VM's, and nothing of it the host's.
	Privileged  bool     `json:"privileged,omitempty"`
	SecurityOpt []string `json:"security_opt,omitempty"`

	Limits Limits `json:"limits,omitzero"`
	// CPUSet are the host's CPUs that the VM runs on; empty: any.
	CPUSet []int `json:"cpu_set,omitempty"`

	NetworkConfig

	Disks []Disk `json:"disks,omitempty"` // the first is the first letter after the container's own

	CPUs   float64 `json:"cpus"`   // of processing time; the VM has as many vCPUs, rounded up
	Memory uint64  `json:"memory"` // of the VM, bytes

	Kernel      string        `json:"kernel,omitempty"` // path; "" is the built-in one
	Initrd      string        `json:"initrd,omitempty"` // path; goes in front of what hull needs
	Append      string        `json:"append,omitempty"` // more of the kernel command line
	Cold        bool          `json:"cold,omitempty"`   // boot the VM, whatever there is to start it from
	BootTimeout time.Duration `json:"boot_timeout,omitempty"`
}

// Ulimit is one resource limit, named as ulimit(1) names it without RLIMIT_.
type Ulimit struct {
	Name string `json:"name"`
	Soft uint64 `json:"soft"`
	Hard uint64 `json:"hard"`
}

// Defaults of a container.
const (
	DefaultCPUs        = 1
	DefaultMemory      = 512 << 20
	DefaultBootTimeout = 30 * time.Second
	DefaultStopTimeout = 10 * time.Second
)

// MinMemory is the least memory of a container's VM in bytes: what the kernel,
// init and agent need, with a little room for the workload.
const MinMemory = 64 << 20

// pageSize is the granularity of guest memory, in bytes.
const pageSize = 4096

// fill sets what was left out and checks what does not depend on the image.
func (c *Config) fill() error {
	if c.CPUs == 0 {
		c.CPUs = DefaultCPUs
	}
	if c.Memory == 0 {
		c.Memory = DefaultMemory
	}
	if c.BootTimeout == 0 {
		c.BootTimeout = DefaultBootTimeout
	}
	if c.BootTimeout < 0 {
		return fmt.Errorf("boot timeout %v: must be positive", c.BootTimeout)
	}
	if err := CheckCPUs(c.CPUs); err != nil {
		return err
	}
	if c.Memory < MinMemory {
		return fmt.Errorf("memory of %d bytes: a container's VM needs at least %d MiB", c.Memory, MinMemory>>20)
	}
	if err := CheckMemory(c.Memory); err != nil {
		return err
	}
	if err := c.NetworkConfig.fill(); err != nil {
		return err
	}
	if err := checkSecurity(c.SecurityOpt); err != nil {
		return err
	}
	if err := c.Restart.check(); err != nil {
		return err
	}
	if c.AutoRemove && !c.Restart.None() {
		return errors.New("conflicting options: cannot specify both --restart and --rm")
	}
	if err := c.Log.check(); err != nil {
		return err
	}
	if err := c.VMLog.check(); err != nil {
		return err
	}
	if err := c.Health.check(); err != nil {
		return err
	}
	for _, path := range []*string{&c.Kernel, &c.Initrd} { // another process may use them
		if *path == "" {
			continue
		}
		var err error
		if *path, err = filepath.Abs(*path); err != nil {
			return fmt.Errorf("finding %s: %w", *path, err)
		}
	}
	if len(c.Disks) > maxDisks {
		return fmt.Errorf("%d disks: there can be %d", len(c.Disks), maxDisks)
	}
	for i := range c.Disks {
		if err := c.Disks[i].check(); err != nil {
			return err
		}
	}
	if err := c.fillMounts(); err != nil {
		return err
	}
	if c.Hostname != "" {
		if err := checkHostname(c.Hostname); err != nil {
			return err
		}
	}
	return nil
}

// CheckCPUs tells whether a VM may have this share of processing time.
func CheckCPUs(cpus float64) error {
	if math.IsNaN(cpus) || cpus < 0.01 || cpus > vmm.MaxCPUs {
		return fmt.Errorf("%g CPUs: must be 0.01 to %d", cpus, vmm.MaxCPUs)
	}
	return nil
}

// CheckMemory tells whether this host can give a VM that many bytes of memory.
// Memory is a ceiling and taken when it is touched, so what matters is what the
// host has and not what is free.
func CheckMemory(bytes uint64) error {
	if bytes < pageSize {
		return fmt.Errorf("memory of %d bytes: less than a page of %d", bytes, pageSize)
	}
	host, err := HostMemory()
	if err != nil {
		return err
	}
	if bytes > host {
		return fmt.Errorf("memory of %d MiB: this host has %d MiB", bytes>>20, host>>20)
	}
	return nil
}

// checkHostname applies the rules of hostname(7), leniently: an underscore is in use.
func checkHostname(name string) error {
	if len(name) > 63 {
		return fmt.Errorf("hostname %q: %d characters, at most 63 are allowed", name, len(name))
	}
	for i, r := range name {
		ok := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		if !ok && (i == 0 || r != '-' && r != '.' && r != '_') {
			return fmt.Errorf("hostname %q: only letters, digits, '-', '.' and '_' are allowed, the first a letter or digit", name)
		}
	}
	return nil
}
