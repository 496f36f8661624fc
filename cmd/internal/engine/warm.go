package engine

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/hullvm/hull/guestinit/proto"
	"github.com/hullvm/hull/images"
	"github.com/hullvm/hull/images/bundle"
	"github.com/hullvm/hull/vmm"
)

// warm is what a life knows of the template that it starts from, or that it could have started from.
type warm struct {
	shape  Shape
	fits   bool          // a VM of this container can start from a template
	opened bool          // it does
	failed bool          // it has tried to
	client *proto.Client // the agent of a VM that has started from one
}

// fromTemplate has the VM start from a template if it can.
func (r *run) fromTemplate(files *bundle.Files, config *vmm.Config, table *fileTable) {
	c := &r.record.Config
	if c.Cold || r.checkpoint != nil || r.engine.templates == nil || r.warm.failed {
		return
	}
	if r.warm.shape, r.warm.fits = shapeOf(files, config, c); r.warm.fits {
		config.Restore = r.engine.openTemplate(r.warm.shape, table)
		r.warm.opened = config.Restore != nil
	}
}

// awaken has a VM that has started from a template answer, and become this container's. A template that does not is thrown
// away, and the VM starts once more without.
func (r *run) awaken(ctx context.Context, files *bundle.Files) error {
	if !r.warm.opened {
		return nil
	}
	err := r.becomeContainer(ctx)
	if killed, ok := errors.AsType[*VMError](err); err == nil || ctx.Err() != nil || ok && killed.Signal != 0 {
		return err // somebody has ended it, and nothing is wrong with the template
	}
	r.vm.kill()
	r.network.close()
	r.network, r.guestDisks = nil, nil
	r.engine.dropTemplate(r.warm.shape)
	r.warm.opened, r.warm.failed = false, true
	r.attach.Note(fmt.Sprintf("the saved VM did not start (%v); booting one", err))
	r.vm, err = r.launch(ctx, files)
	return err
}

// becomeContainer tells the agent of a template what is this container's.
func (r *run) becomeContainer(ctx context.Context) error {
	bounded, cancel := context.WithTimeout(ctx, r.record.Config.BootTimeout)
	defer cancel()
	go func() {
		select {
		case <-r.vm.done:
			cancel()
		case <-bounded.Done():
		}
	}()
	client, err := acceptAgent(bounded, r.listener)
	if err == nil {
		if err = r.thawTemplate(bounded, client); err == nil {
			r.warm.client = client
			return nil
		}
		client.Close()
	}
	if ctx.Err() != nil {
		return err
	}
	// A connection may break before the end of the VM is known, which says more.
	soon, cancelSoon := context.WithTimeout(ctx, goneSoon)
	defer cancelSoon()
	if r.vm.waitDone(soon) == nil {
		return r.vm.result().err()
	}
	return err
}

func (r *run) thawTemplate(ctx context.Context, client *proto.Client) error {
	size, err := layersSize(r.disks)
	if err != nil {
		return err
	}
	thaw := anonymous()
	thaw.EndConnections = false // it has none
	thaw.Disks = []proto.ChangedDisk{{Disk: layersDevice, Size: size}}
	if r.network != nil {
		for i, card := range r.network.cards {
			thaw.Interfaces = append(thaw.Interfaces, proto.Readdress{Was: templateMAC(i).String(), Interface: proto.Interface{MAC: card.MAC}})
		}
	}
	return client.Thaw(ctx, *thaw)
}

// layersSize is how large the disk of these layers is, in bytes.
func layersSize(disks []images.Disk) (int64, error) {
	sizes := make([]uint64, len(disks))
	for i, d := range disks {
		info, err := os.Stat(d.Path)
		if err != nil {
			return 0, fmt.Errorf("an image layer: %w", err)
		}
		sizes[i] = uint64(info.Size())
	}
	return int64(vmm.LayersSize(sizes)), nil
}
