package vmm

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/virtio"
	"github.com/hullvm/hull/virtio/balloon"
	"github.com/hullvm/hull/virtio/console"
	"github.com/hullvm/hull/virtio/fs"
	"github.com/hullvm/hull/virtio/net"
	"github.com/hullvm/hull/virtio/rng"
	"github.com/hullvm/hull/virtio/vsock"
	"github.com/hullvm/hull/vmm/network"
	"github.com/hullvm/hull/vmm/share"
)

// virtioDevice is a device to be made.
type virtioDevice struct {
	name string
	make func() (virtio.Device, error)
}

// virtioDevices lists the virtio devices of the configuration, in the order in
// which the guest numbers them: disks first, so that they are /dev/vda and on.
func (m *Machine) virtioDevices() []virtioDevice {
	var list []virtioDevice
	for i, d := range m.cfg.Disks {
		list = append(list, virtioDevice{fmt.Sprintf("disk %d", i), func() (virtio.Device, error) { return m.newDisk(d) }})
	}
	for i, n := range m.cfg.NICs {
		list = append(list, virtioDevice{fmt.Sprintf("network card %d", i), func() (virtio.Device, error) { return m.nic(n) }})
	}
	if v := m.cfg.Vsock; v != nil {
		list = append(list, virtioDevice{"vsock", func() (virtio.Device, error) { return m.vsock(v) }})
	}
	for i, p := range m.cfg.Pmems {
		list = append(list, virtioDevice{fmt.Sprintf("persistent memory %d", i), func() (virtio.Device, error) { return m.pmem(p) }})
	}
	if c := m.cfg.Console; c != nil {
		list = append(list, virtioDevice{"console", func() (virtio.Device, error) { return m.attachConsole(c) }})
	}
	if m.cfg.RNG {
		list = append(list, virtioDevice{"entropy device", func() (virtio.Device, error) {
			rate := m.cfg.RNGRate
			if rate == (virtio.Rate{}) {
				rate = virtio.Rate{PerSecond: rngPerSecond, Burst: rngBurst}
			}
			m.rng = rng.New(rng.Config{Rate: rate, Ops: m.cfg.RNGOps})
			return m.rng, nil
		}})
	}
	if m.cfg.Balloon {
		list = append(list, virtioDevice{"balloon", func() (_ virtio.Device, err error) {
			m.balloon, err = balloon.New(balloon.Config{
				Discard: m.mem.Discard, Rate: virtio.Rate{PerSecond: balloonPerSecond, Burst: balloonBurst},
				Without: m.cfg.BalloonOptions.without(),
			})
			if err == nil {
				m.balloon.SetTarget(m.cfg.BalloonOptions.Target)
			}
			return m.balloon, err
		}})
	}
	for _, s := range m.cfg.Shares {
		list = append(list, virtioDevice{fmt.Sprintf("share %q", s.Tag), func() (virtio.Device, error) { return m.share(s) }})
	}
	return list
}

// maxShareQueues bounds the request queues of a share, each of which has a
// thread while it is busy.
const maxShareQueues = 4

// share makes a file system device, whose files Close closes.
func (m *Machine) share(cfg Share) (virtio.Device, error) {
	f, err := cfg.File.Open(unix.O_PATH)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	nodes, files := share.Room(len(m.cfg.Shares))
	s, err := share.New(share.Config{File: f, ReadOnly: cfg.ReadOnly, Cache: cfg.Cache, MaxNodes: nodes, MaxFiles: files})
	if err != nil {
		return nil, err
	}
	m.closing(s.Close)
	return fs.New(fs.Config{
		Tag: cfg.Tag, Queues: min(m.cfg.CPUs, maxShareQueues), ReadDirPlus: cfg.Cache, FileSystem: s,
	})
}

// nic makes a network card, whose socket or tap Close closes.
func (m *Machine) nic(cfg NIC) (virtio.Device, error) {
	backends, err := m.backends(cfg)
	if err != nil {
		return nil, err
	}
	if m.wrapNIC != nil {
		if backends, err = m.wrapNIC(len(m.nics), backends); err != nil {
			return nil, err
		}
	}
	d, err := net.New(net.Config{MAC: cfg.MAC, MTU: cfg.MTU, Backends: backends, RX: cfg.RX, TX: cfg.TX})
	if err == nil {
		m.nics = append(m.nics, d)
	}
	return d, err
}

func (m *Machine) backends(cfg NIC) (list []net.Backend, err error) {
	named := cfg.Tap
	if cfg.Socket != nil {
		named = []File{*cfg.Socket}
	}
	files := make([]*os.File, len(named))
	for i, n := range named {
		if files[i], err = n.Open(os.O_RDWR); err != nil {
			return nil, err
		}
		m.closing(files[i].Close)
	}
	if cfg.Socket != nil {
		socket, err := network.NewSocket(files[0])
		return []net.Backend{socket}, err
	}
	taps, err := network.NewTap(files...)
	for _, t := range taps {
		list = append(list, t)
	}
	return list, err
}

// vsock makes the socket device, whose host end listens until Close.
func (m *Machine) vsock(cfg *Vsock) (virtio.Device, error) {
	d, err := vsock.New(vsock.Config{GuestCID: cfg.CID, Path: cfg.Path})
	if err != nil {
		return nil, err
	}
	m.closing(d.Close)
	return d, nil
}

// attachConsole makes the virtio console, whose last output Close waits for.
func (m *Machine) attachConsole(cfg *Console) (virtio.Device, error) {
	output, err := m.openOutput(cfg.Output, nil)
	if err != nil {
		return nil, err
	}
	m.console = console.New(console.Config{Output: output, Rows: cfg.Rows, Cols: cfg.Cols})
	m.closing(m.flushConsole)
	return m.console, m.openInput(cfg.Input, m.console)
}
