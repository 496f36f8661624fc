package api

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
)

// maxConfigFile bounds a configuration file, in bytes.
const maxConfigFile = 1 << 20

// fullConfig is what was configured. mu is held.
func (s *Server) fullConfig() fullConfig {
	r := &s.resources
	c := fullConfig{
		Balloon: r.balloon, BootSource: r.boot, Logger: r.logger, MachineConfig: &r.machine, Metrics: r.metrics, MMDSConfig: r.mmds,
		Serial: r.serial, Vsock: r.vsock, Entropy: r.entropy,
		Drives: []drive{}, NetworkInterfaces: []networkInterface{}, Pmem: []pmem{},
	}
	for _, d := range r.drives {
		c.Drives = append(c.Drives, *d)
	}
	for _, n := range r.nics {
		c.NetworkInterfaces = append(c.NetworkInterfaces, n.networkInterface)
	}
	for _, p := range r.pmems {
		c.Pmem = append(c.Pmem, *p)
	}
	if r.cpuConfig != nil {
		c.CPUConfig = ptr(json.RawMessage(encode(r.cpuConfig)))
	}
	return c
}

// LoadFile does what a configuration file says, as if each part of it had been requested, and starts the machine.
func (s *Server) LoadFile(path string) error {
	body, err := readFile(path)
	if err != nil {
		return fmt.Errorf("configuration file: %w", err)
	}
	if err := s.load(body); err != nil {
		return fmt.Errorf("configuration file %s: %w", path, err)
	}
	return nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	body, err := io.ReadAll(io.LimitReader(f, maxConfigFile+1))
	if err == nil && len(body) > maxConfigFile {
		err = fmt.Errorf("%s: it is longer than %d bytes", path, maxConfigFile)
	}
	return body, err
}

func (s *Server) load(body []byte) error {
	var c fullConfig
	if err := decode(body, &c); err != nil {
		return err
	}
	switch {
	case c.BootSource == nil:
		return refuse("missing field `boot-source`")
	case c.MemoryHotplug != nil && string(*c.MemoryHotplug) != "null":
		return notOffered("hotplugged memory")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.allowed(preBoot); err != nil {
		return err
	}
	if err := s.configure(&c); err != nil {
		return err
	}
	return s.start()
}

// configure does what the requests for each part do, in the order in which they depend upon one another. mu is held.
func (s *Server) configure(c *fullConfig) error {
	steps := []func() error{
		set(c.Logger, s.putLogger), set(c.Metrics, s.putMetrics), set(c.MachineConfig, s.putMachineConfig),
		set(c.BootSource, s.putBootSource), set(c.Vsock, s.putVsock), set(c.Entropy, s.putEntropy), set(c.Serial, s.putSerial),
		set(c.Balloon, s.putBalloon),
	}
	for i := range c.Drives {
		steps = append(steps, withID(c.Drives[i].DriveID, set(&c.Drives[i], s.putDrive)))
	}
	for i := range c.Pmem {
		steps = append(steps, withID(c.Pmem[i].ID, set(&c.Pmem[i], s.putPmem)))
	}
	for i := range c.NetworkInterfaces {
		steps = append(steps, withID(c.NetworkInterfaces[i].IfaceID, set(&c.NetworkInterfaces[i], s.putNIC)))
	}
	steps = append(steps, set(c.MMDSConfig, s.putMMDSConfig), func() error { return s.loadCPUConfig(c.CPUConfig) })
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// set is a step that does nothing for what is not there.
func set[T any](v *T, f func(*T) (any, error)) func() error {
	return func() error {
		if v == nil {
			return nil
		}
		_, err := f(v)
		return err
	}
}

// withID is a step for a device whose name is checked first.
func withID(id string, f func() error) func() error {
	return func() error {
		if err := checkID(id); err != nil {
			return err
		}
		return f()
	}
}

// loadCPUConfig takes a template, or the path of a file with one.
func (s *Server) loadCPUConfig(raw *json.RawMessage) error {
	if raw == nil || string(*raw) == "null" {
		return nil
	}
	body := []byte(*raw)
	var path string
	if json.Unmarshal(body, &path) == nil {
		var err error
		if body, err = readFile(path); err != nil {
			return fmt.Errorf("CPU template: %w", err)
		}
	}
	var c cpuConfig
	if err := decode(body, &c); err != nil {
		return err
	}
	_, err := s.putCPUConfig(&c)
	return err
}

// LoadMetadata puts what a file has into the metadata store.
func (s *Server) LoadMetadata(path string) error {
	body, err := readFile(path)
	if err == nil {
		_, err = s.putMMDS(body)
	}
	if err != nil {
		return fmt.Errorf("metadata: %w", err)
	}
	return nil
}
