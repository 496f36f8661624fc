package api

import (
	"errors"
	"os"

	"github.com/hullvm/hull/vmm"
)

// resources are all that was configured.
type resources struct {
	touched bool // something that a snapshot brings with it was configured

	machine   machineConfig
	boot      *bootSource
	drives    []*drive // the one with the root file system first
	nics      []*nic
	pmems     []*pmem
	vsock     *vsock
	entropy   *entropy
	serial    *serial
	balloon   *balloon
	cpuConfig *cpuConfig
	cpu       *vmm.CPUTemplate // of cpuConfig
	mmds      *mmdsConfig
	logger    *loggerConfig
	metrics   *metricsConfig
}

func (s *Server) putAction(body []byte) (any, error) {
	var a action
	if err := decode(body, &a); err != nil {
		return nil, err
	}
	switch a.ActionType {
	case actionInstanceStart:
		return s.locked(preBoot, func() (any, error) { return none(s.start()) })
	case actionFlushMetrics:
		return s.locked(postBoot, func() (any, error) { return none(s.flushMetrics()) })
	}
	return s.locked(postBoot, func() (any, error) { return none(s.sendCtrlAltDel()) })
}

func (s *Server) sendCtrlAltDel() error {
	if err := s.machine.SendCtrlAltDel(); err != nil {
		return refuse("Internal VMM error: %v", err)
	}
	return nil
}

// start makes the machine and lets it run. mu is held.
func (s *Server) start() error {
	if s.resources.boot == nil {
		return refuse("Start microvm error: Cannot start microvm without kernel configuration.")
	}
	m, err := s.make(nil)
	if err == nil {
		if err = m.Start(); err != nil {
			err = errors.Join(err, m.Close(), s.closeServices())
		}
	}
	if err != nil {
		return refuse("Start microvm error: %v", err)
	}
	s.run(m)
	return nil
}

// make makes a machine of all that was configured, which goes on from a snapshot if there is one. mu is held.
func (s *Server) make(from *restore) (*vmm.Machine, error) {
	var lent loans
	config, err := s.config(&lent)
	if err == nil && from != nil {
		config.Restore = &vmm.Snapshot{Memory: vmm.File{Path: from.memory}}
		config.Restore.State, err = lent.share(from.state)
	}
	if err == nil {
		err = config.Validate()
	}
	if err != nil {
		lent.takeBack()
		return nil, err
	}
	options := []vmm.Option{vmm.WithNetwork(s.serveMetadata)}
	if from != nil && from.handler != nil {
		options = append(options, vmm.WithMemoryBackend(from.handler, 0))
	}
	m, err := vmm.New(config, append(options, s.cfg.Options...)...)
	if err != nil {
		lent.takeBack()
		return nil, errors.Join(err, s.closeServices())
	}
	if s.cfg.Confine != nil {
		if err := s.cfg.Confine(); err != nil {
			return nil, errors.Join(err, m.Close(), s.closeServices())
		}
	}
	return m, nil
}

// run makes m the machine. mu is held.
func (s *Server) run(m *vmm.Machine) {
	s.machine = m
	s.pollBalloon()
	s.log.line(levelInfo, "The microVM was started.")
	go func() {
		<-m.Done()
		s.log.line(levelInfo, "The microVM has ended: %s", m.Wait().Message)
		close(s.ended)
	}()
}

// config is the machine as package vmm has it.
func (s *Server) config(lent *loans) (c vmm.Config, err error) {
	r := &s.resources
	c = vmm.Config{
		ID: s.cfg.ID, CPUs: int(r.machine.VCPUCount), Memory: r.machine.MemSizeMiB * mib, HugePages: r.machine.HugePages == hugePages2M,
		TrackDirty: r.machine.TrackDirtyPages, Keyboard: true, CPUTemplate: r.cpu,
	}
	if r.machine.HugePages == hugePagesTransparent {
		c.TransparentHugePages = "always"
	}
	if r.boot != nil { // else it goes on from a snapshot
		c.Kernel, c.CommandLine = vmm.File{Path: r.boot.KernelImagePath}, r.commandLine()
		if r.boot.InitrdPath != nil {
			c.Initrd = []vmm.File{{Path: *r.boot.InitrdPath}}
		}
	}
	for _, d := range r.drives {
		c.Disks = append(c.Disks, vmm.Disk{
			ID: r.diskID(d), ReadOnly: d.readOnly(), File: &vmm.File{Path: *d.PathOnHost}, Unsafe: *d.CacheType == cacheUnsafe, Limits: d.RateLimiter.disk(),
		})
	}
	for _, p := range r.pmems {
		c.Pmems = append(c.Pmems, vmm.Pmem{File: vmm.File{Path: p.PathOnHost}, ReadOnly: p.ReadOnly, Limits: p.RateLimiter.pmem()})
	}
	if r.vsock != nil {
		c.Vsock = &vmm.Vsock{CID: r.vsock.GuestCID, Path: r.vsock.UDSPath}
	}
	if r.entropy != nil {
		c.RNG = true
		c.RNGRate, c.RNGOps = r.entropy.limits()
	}
	if r.balloon != nil {
		c.Balloon, c.BalloonOptions = true, r.balloon.options()
	}
	for _, n := range r.nics {
		card, err := n.config(lent)
		if err != nil {
			return c, err
		}
		c.NICs = append(c.NICs, card)
	}
	if err := s.console(&c, lent); err != nil {
		return c, err
	}
	if s.cfg.Change != nil {
		s.cfg.Change(&c)
	}
	return c, nil
}

// console leads the serial port where it belongs.
func (s *Server) console(c *vmm.Config, lent *loans) error {
	lend := func(to **vmm.File, f *os.File) error {
		if f == nil {
			return nil
		}
		file, err := lent.share(f)
		if err != nil {
			return err
		}
		*to = &file
		return nil
	}
	if err := lend(&c.Serial.Input, s.cfg.Stdin); err != nil {
		return err
	}
	output := s.cfg.Stdout
	if configured := s.resources.serial; configured != nil {
		c.Serial.Rate = configured.RateLimiter.rate()
		if path := configured.SerialOutPath; path != nil {
			f, err := openOutput(*path)
			if err != nil {
				return err
			}
			defer f.Close() // the loan stays
			output = f
		}
	}
	return lend(&c.Serial.Output, output)
}

func (s *Server) patchVM(v *vmState) (any, error) {
	switch pause := v.State == vmPaused; {
	case pause == s.paused:
		return nil, nil
	case pause:
		if err := s.machine.Pause(); err != nil {
			return nil, refuse("Internal VMM error: %v", err)
		}
	default:
		resume := s.machine.Resume
		if s.fresh {
			resume = s.machine.Start
		}
		if err := resume(); err != nil {
			return nil, refuse("Internal VMM error: %v", err)
		}
		s.fresh = false
	}
	s.paused = v.State == vmPaused
	return nil, nil
}
