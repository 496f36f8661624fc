package engine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/hullvm/hull/guestinit/proto"
	"github.com/hullvm/hull/images/bundle"
	"github.com/hullvm/hull/vmm"
)

// serviceVM is the VM of a container that does not run, booted for as long as somebody looks into it: with the container's disks and
// kernel, but without its workload and its network.
type serviceVM struct {
	*run
	client *proto.Client
	mounts bool // it has the directories and volumes of this host that the container has
}

// offPatience is how long the guest may take to power itself off.
const offPatience = 10 * time.Second

// serve boots the VM of a container whose lock the caller has taken. The lock is let go with the VM.
func (e *Engine) serve(ctx context.Context, id string, lock *lockFile, mounts bool) (_ *inside, err error) {
	v := &serviceVM{mounts: mounts}
	defer func() {
		if err != nil {
			err = fmt.Errorf("booting the container's VM to look into it: %w", err)
			if v.run == nil {
				lock.Close()
				return
			}
			_ = v.end() // the first error is the one to tell
		}
	}()
	r, err := e.store.load(id)
	if err != nil {
		return nil, err
	}
	image, unhold, err := e.acquire(ctx, r.ImageID)
	if err != nil {
		return nil, err
	}
	// The disks of --disk may be somebody else's by now.
	record := *r
	record.Config.Disks = nil
	v.run = &run{Container: e.hold(&record, lock), record: &record}
	v.disks, v.unhold = image.Disks, unhold
	if err := v.boot(ctx); err != nil {
		return nil, err
	}
	return &inside{record: r, client: v.client, socket: v.socket(), end: v.end, emit: e.emitter(r)}, nil
}

// boot starts the VM and has its agent mount the root filesystem.
func (v *serviceVM) boot(ctx context.Context) error {
	if v.engine.probe != nil {
		if err := v.engine.probe(); err != nil {
			return err
		}
	}
	files, err := v.engine.Files()
	if err != nil {
		return err
	}
	if err := v.engine.store.makeRunDir(v.record.ID); err != nil {
		return err
	}
	if v.listener, err = listenHost(v.socket(), proto.PortControl); err != nil {
		return err
	}
	if v.vm, err = v.startVM(files); err != nil {
		return err
	}
	bootTime := v.record.Config.BootTimeout
	ctx, cancel := context.WithTimeoutCause(ctx, bootTime, fmt.Errorf("%w within %v (see --boot-timeout)", errBootTimeout, bootTime))
	defer cancel()
	ctx, gone := context.WithCancelCause(ctx)
	defer gone(nil)
	go func() {
		if v.vm.waitDone(ctx) == nil {
			gone(errVMGone)
		}
	}()
	err = v.mount(ctx, v.listener)
	switch cause := context.Cause(ctx); {
	case err == nil:
		return nil
	case errors.Is(cause, errVMGone):
		return v.vm.result().err()
	case cause != nil:
		return cause
	}
	return err
}

func (v *serviceVM) startVM(files *bundle.Files) (*vmProcess, error) {
	table := &fileTable{}
	table.lend(v.lock.file) // whoever holds this is alive
	config, err := v.vmConfig(files, table)
	if err == nil && v.mounts {
		config.Shares, err = v.share(&config, table)
	}
	if err == nil {
		err = v.engine.store.lendUser(&config, table)
	}
	if err != nil {
		table.close()
		return nil, err
	}
	group, _, err := v.engine.store.group(v.record.ID, v.record.Config.CPUs, 0, &config)
	if err != nil {
		table.close()
		return nil, err
	}
	return startVM(vmSpec{
		program: files.VMM, name: ShortID(v.record.ID), config: config, files: table, group: group, onEvent: func(vmm.Event) {},
	})
}

func (v *serviceVM) mount(ctx context.Context, l *net.UnixListener) error {
	client, err := acceptAgent(ctx, l)
	if err != nil {
		return err
	}
	v.client = client
	if hello := client.Hello(); !hello.Has(proto.FeatureFiles) {
		return errors.New("the guest's agent is too old for that")
	}
	c := &v.record.Config
	root := proto.RootFS{Disk: layersDevice, Layers: len(v.disks)}
	if !c.TmpfsRoot {
		root.Upper = scratchDevice
	}
	return client.Mount(ctx, &proto.Mount{Root: root, Time: time.Now().UnixNano(), Shares: v.shares, Volumes: v.volumes})
}

// end shuts the VM down in order, so that what was written is on its disk, and lets go of the container. It must do so even if the
// work was interrupted.
func (v *serviceVM) end() error {
	var err error
	if v.vm != nil {
		err = v.powerOff()
		v.vm.stop()
	}
	if v.client != nil {
		v.client.Close()
	}
	if v.listener != nil {
		v.listener.Close()
	}
	v.unhold()
	err = errors.Join(err, v.engine.store.removeRunDir(v.record.ID))
	return errors.Join(err, v.lock.Close())
}

// powerOff asks the guest to end, and waits until it has.
func (v *serviceVM) powerOff() error {
	if v.client == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), offPatience)
	defer cancel()
	if err := v.client.Shutdown(ctx); err != nil {
		return err
	}
	if err := v.vm.waitDone(ctx); err != nil {
		return fmt.Errorf("the container's VM has not powered off within %v", offPatience)
	}
	return nil
}
