package api

import (
	"errors"
	"os"
	"slices"

	"github.com/hullvm/hull/vmm"
)

func (s *Server) putVsock(v *vsock) (any, error) {
	s.resources.touched = true
	switch {
	case v.GuestCID < 3 || v.GuestCID == 0xffffffff:
		return nil, refuse("Vsock config error: The guest CID %d must be 3 to 4294967294.", v.GuestCID)
	case v.UDSPath == "" || len(v.UDSPath) > maxSocketPath:
		return nil, refuse("Vsock config error: Cannot create backend for vsock device: the path of its socket must have 1 to %d bytes", maxSocketPath)
	}
	s.resources.vsock = v
	return nil, nil
}

// maxSocketPath is sizeof(sun_path) less the final NUL, and less what a port of the guest's adds.
const maxSocketPath = 107 - len("_4294967295")

func (s *Server) putEntropy(e *entropy) (any, error) {
	s.resources.touched = true
	s.resources.entropy = e
	return nil, nil
}

func (s *Server) putSerial(c *serial) (any, error) {
	if c.SerialOutPath != nil {
		f, err := openOutput(*c.SerialOutPath)
		if err != nil {
			return nil, refuse("Serial config error: %s", osError(err))
		}
		if err := f.Close(); err != nil {
			return nil, err
		}
	}
	s.resources.serial = c
	return nil, nil
}

// putPmem adds a file that is the guest's memory, or replaces the one of the same name.
func (s *Server) putPmem(p *pmem) (any, error) {
	s.resources.touched = true
	if p.RootDevice && s.resources.otherRoot("", p.ID) {
		return nil, refuse("Pmem device error: Attempt to add pmem as a root device while the root device defined as a block device or other pmem device")
	}
	flag := os.O_RDWR
	if p.ReadOnly {
		flag = os.O_RDONLY
	}
	f, err := os.OpenFile(p.PathOnHost, flag, 0)
	if err != nil {
		return nil, refuse("Pmem device error: Error opening backing file: %s", osError(err))
	}
	info, err := f.Stat()
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, refuse("Pmem device error: Error accessing backing file metadata: %s", osError(err))
	}
	if !info.Mode().IsRegular() || info.Size() == 0 {
		return nil, refuse("Pmem device error: Error backing file size is 0")
	}
	if at := slices.IndexFunc(s.resources.pmems, func(o *pmem) bool { return o.ID == p.ID }); at >= 0 {
		s.resources.pmems[at] = p
	} else {
		s.resources.pmems = append(s.resources.pmems, p)
	}
	return nil, nil
}

// patchPmem changes the limits of a persistent memory while the guest runs.
func (s *Server) patchPmem(p *pmemPatch) (any, error) {
	at := slices.IndexFunc(s.resources.pmems, func(o *pmem) bool { return o.ID == p.ID })
	if at < 0 {
		return nil, refuse("Pmem device error: there is no device %q", p.ID)
	}
	limiter := s.resources.pmems[at].RateLimiter.patched(p.RateLimiter)
	if err := s.machine.SetPmemLimits(at, limiter.pmem()); err != nil {
		return nil, refuse("Pmem device error: %v", err)
	}
	s.resources.pmems[at].RateLimiter = limiter
	return nil, nil
}

// limits are those of random bytes and of requests for them; without any, package vmm has its own of bytes.
func (e *entropy) limits() (bytes, ops vmm.Rate) { return e.RateLimiter.buckets() }
