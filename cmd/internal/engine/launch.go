package engine

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hullvm/hull/cmd/internal/engine/timeline"
	"github.com/hullvm/hull/guestinit/proto"
	"github.com/hullvm/hull/images/bundle"
	"github.com/hullvm/hull/vmm"
)

// start prepares what the VM needs and starts its process. On an error nothing
// is left that Release would not remove.
func (r *run) start(ctx context.Context) error {
	files, err := r.engine.Files()
	if err != nil {
		return err
	}
	for _, socket := range []string{r.socket(), hostSocket(r.socket(), proto.PortControl)} {
		if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) { // of the life before
			return err
		}
	}
	if err := r.takeCheckpoint(); err != nil {
		return err
	}
	listener, err := listenHost(r.socket(), proto.PortControl)
	if err != nil {
		return err
	}
	vm, err := r.launch(ctx, files)
	if err != nil {
		listener.Close()
		return err
	}
	r.listener, r.vm = listener, vm
	if err := r.awaken(ctx, files); err != nil {
		if r.vm != nil {
			r.vm.kill()
		}
		listener.Close()
		return err
	}
	return nil
}

func (r *run) launch(ctx context.Context, files *bundle.Files) (*vmProcess, error) {
	table := &fileTable{}
	// Whoever holds this is alive: the VM must not outlive what it writes to
	// being given to somebody else.
	table.lend(r.lock.file)
	config, err := r.vmConfig(files, table)
	r.memory = config.Memory
	if err == nil {
		config.Shares, err = r.share(&config, table)
	}
	if err == nil {
		err = r.record.Config.Limits.apply(config.Disks)
	}
	if err == nil {
		r.network, err = newNetwork(ctx, &r.record.Config.NetworkConfig,
			networkGuest{hostname: r.record.Hostname(), cpus: config.CPUs, note: r.attach.Note, store: &r.engine.store, record: r.record}, table)
	}
	if err != nil {
		table.close()
		return nil, err
	}
	if r.network != nil {
		config.NICs = append(config.NICs, r.network.nics...)
	}
	r.fromTemplate(files, &config, table)
	if err := r.engine.store.lendUser(&config, table); err != nil {
		table.close()
		return nil, err
	}
	group, bounds, err := r.engine.store.group(r.record.ID, r.record.Config.CPUs, r.record.Config.Limits.IOWeight, &config)
	if err != nil {
		table.close()
		return nil, err
	}
	r.unhold() // the layers are open, and the record says that they are in use
	r.line.Mark(timeline.Prepared, monotonic())
	vm, err := startVM(vmSpec{
		program: files.VMM,
		name:    ShortID(r.record.ID),
		config:  config,
		files:   table,
		cpus:    r.record.Config.CPUSet,
		group:   group,
		onEvent: func(e vmm.Event) {
			markStage(r.line, e)
			r.log.event(e)
		},
	})
	if err != nil {
		return nil, err
	}
	r.log.Info("VM process started", "pid", vm.process.Pid, "from", r.origin(), "cpus", config.CPUs, "memory", config.Memory, "user", config.User)
	if group != nil && vm.group == nil {
		bounds = &GroupState{None: "this host's kernel, or a sandbox, starts no process in a cgroup"}
	}
	ref, err := ProcessOf(vm.process.Pid)
	if err == nil {
		err = r.save(func(s *State) { s.VM, s.Ports, s.Group = ref, r.network.published(), bounds })
	}
	if err != nil {
		select {
		case <-vm.done: // it has ended that early: what it says is of more interest
			return vm, nil
		default:
		}
		vm.kill()
		return nil, fmt.Errorf("noting the VM process: %w", err)
	}
	return vm, nil
}

// origin says in a word what the VM starts from.
func (r *run) origin() string {
	switch {
	case r.checkpoint != nil:
		return "checkpoint"
	case r.warm.opened:
		return "template"
	}
	return "kernel"
}

// vmConfig describes the container's VM. The files go to table.
func (r *run) vmConfig(files *bundle.Files, table *fileTable) (vmm.Config, error) {
	c := &r.record.Config
	config := vmm.Config{
		ID:           r.record.ID,
		CPUs:         vcpus(c.CPUs),
		Memory:       c.Memory &^ (pageSize - 1),
		CommandLine:  containerCommandLine(c.Append),
		Vsock:        &vmm.Vsock{CID: guestCID, Path: r.socket()},
		RNG:          true,
		Balloon:      true,
		OrphanRemove: r.orphans(),
	}
	var err error
	if r.checkpoint != nil {
		err = r.restore(&config, table)
	} else {
		err = guestKernel(&config, c.Kernel, c.Initrd, files, table)
	}
	if err != nil {
		return vmm.Config{}, err
	}
	layers, err := layersDisk(r.disks, table)
	if err != nil {
		return vmm.Config{}, err
	}
	config.Disks = append(config.Disks, layers)
	if !c.TmpfsRoot {
		var disk vmm.Disk
		if r.checkpoint != nil {
			disk, err = r.restoredScratch(!c.AutoRemove, table)
		} else {
			disk, err = r.openScratch(files.Scratch, !c.AutoRemove, table)
		}
		if err != nil {
			return vmm.Config{}, fmt.Errorf("making the container's disk: %w", err)
		}
		disk.ID, r.scratch = scratchID, &disk
		config.Disks = append(config.Disks, disk)
	}
	r.ownDisks = nil
	for i := range c.Disks {
		disk, err := c.Disks[i].open(i, &r.engine.store, table)
		if err != nil {
			return vmm.Config{}, err
		}
		config.Disks = append(config.Disks, disk)
		r.ownDisks = append(r.ownDisks, disk)
		r.guestDisks = append(r.guestDisks, diskName(len(config.Disks)-1))
	}
	return config, config.Validate()
}

// orphans lists what a VM process removes that finds itself alone. The record
// goes before its directory: what is left without it is no container.
func (r *run) orphans() []string {
	s, id := &r.engine.store, r.record.ID
	list := []string{s.runDir(id), s.ownerLink(id)}
	if r.record.Config.AutoRemove {
		for _, m := range r.record.Config.Mounts {
			if m.Volume && m.Anonymous {
				list = append(list, s.volumeRoot(m.Source))
			}
		}
		list = append([]string{filepath.Join(s.dir(id), recordName), s.dir(id), s.nameLink(r.record.Name)}, list...)
	}
	return list
}

// containerCommandLine is the kernel command line of a container's VM.
func containerCommandLine(more string) string {
	return strings.TrimSpace("console=ttyS0 quiet panic=-1 hull.mode=run " + more)
}

// entropyBytes is how much randomness a guest is given: what its generator's
// state holds.
const entropyBytes = 32

// startRequest is what the agent is asked to do.
func (r *run) startRequest() (*proto.Start, error) {
	spec, err := buildSpec(r.record)
	if err != nil {
		return nil, err
	}
	c := &r.record.Config
	if c.Terminal {
		if rows, cols, ok := r.attach.size(); ok {
			spec.Process.ConsoleSize = &specs.Box{Height: uint(rows), Width: uint(cols)}
		}
	}
	hosts, err := hostsFile(r.record.Hostname(), r.network.address(), c.ExtraHosts)
	if err != nil {
		return nil, err
	}
	hostname := r.record.Hostname() + "\n"
	entropy := make([]byte, entropyBytes)
	rand.Read(entropy) // never fails
	request := &proto.Start{
		Process: proto.InitProcess,
		Spec:    spec,
		Root:    proto.RootFS{Disk: layersDevice, Layers: len(r.disks), ReadOnly: c.ReadOnly, Volatile: c.AutoRemove},
		Streams: r.attach.names(c.Terminal),
		Time:    time.Now().UnixNano(),
		Entropy: entropy,
		Disks:   r.guestDisks,
		Shares:  r.shares,
		Volumes: r.volumes,
	}
	if !c.TmpfsRoot {
		request.Root.Upper = scratchDevice
	}
	if r.network != nil {
		resolv := r.network.resolvConf(&c.NetworkConfig)
		request.ResolvConf, request.Interfaces = &resolv, r.network.cards
	}
	request.Hosts, request.Hostname = &hosts, &hostname
	for target, file := range map[string]**string{
		"/etc/hosts": &request.Hosts, "/etc/hostname": &request.Hostname, "/etc/resolv.conf": &request.ResolvConf,
	} {
		if c.mountedAt(target) {
			*file = nil // the user's own
		}
	}
	return request, nil
}

// markStage notes a stage that the VM process reports.
func markStage(line *timeline.Timeline, e vmm.Event) {
	if e.Event != "stage" {
		return
	}
	stages := map[string]string{
		vmm.StageProcess: timeline.Process,
		vmm.StageKVM:     timeline.KVM,
		vmm.StageMemory:  timeline.Memory,
		vmm.StageDevices: timeline.Devices,
		vmm.StageRun:     timeline.Run,
		vmm.StageEntry:   timeline.Entry,
	}
	if stage, ok := stages[e.Name]; ok {
		line.Mark(stage, e.Time)
	}
}
