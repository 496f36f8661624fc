package api

import (
	"net/http"
	"strings"
)

// route finds out what a request is about and carries it out. Of a path, only the parts that mean something are looked at.
func (s *Server) route(method, path string, body []byte) (any, error) {
	tokens := strings.Split(strings.TrimSuffix(strings.TrimLeft(path, "/"), "/"), "/")
	first, rest := tokens[0], tokens[1:]
	switch method {
	case http.MethodGet:
		if len(body) > 0 {
			return nil, refuse("GET request cannot have a body.")
		}
		return s.get(first, rest)
	case http.MethodPut:
		if len(body) == 0 {
			return nil, refuse("Empty PUT request.")
		}
		return s.put(first, rest, body)
	case http.MethodPatch:
		if len(body) == 0 && first != "balloon" {
			return nil, refuse("Empty PATCH request.")
		}
		return s.patch(first, rest, body)
	}
	return nil, invalidPath(method, first)
}

func invalidPath(method, path string) error {
	return refuse("Invalid request method and/or path: %s %s.", method, path)
}

// part returns one of the further parts of a path, or "".
func part(rest []string, i int) string {
	if i < len(rest) {
		return rest[i]
	}
	return ""
}

func (s *Server) get(first string, rest []string) (any, error) {
	switch first {
	case "":
		return s.locked(always, s.instanceInfo)
	case "version":
		return map[string]string{"firecracker_version": Version}, nil
	case "machine-config":
		return s.locked(always, func() (any, error) { return s.resources.machine, nil })
	case "balloon":
		return s.getBalloon(rest)
	case "mmds":
		return s.getMMDS()
	case "vm":
		if part(rest, 0) == "config" {
			return s.locked(always, func() (any, error) { return s.fullConfig(), nil })
		}
	case "hotplug":
		if part(rest, 0) == "memory" {
			return nil, notOffered("hotplugged memory")
		}
	case "metrics":
		if part(rest, 0) == "prometheus" {
			return s.prometheus()
		}
	}
	return nil, invalidPath(http.MethodGet, first)
}

func (s *Server) put(first string, rest []string, body []byte) (any, error) {
	switch first {
	case "actions":
		return s.putAction(body)
	case "balloon":
		return do(s, body, preBoot, s.putBalloon)
	case "boot-source":
		return do(s, body, preBoot, s.putBootSource)
	case "cpu-config":
		return do(s, body, preBoot, s.putCPUConfig)
	case "drives":
		return named(s, rest, body, preBoot, func(d *drive) string { return d.DriveID }, s.putDrive)
	case "entropy":
		return do(s, body, preBoot, s.putEntropy)
	case "hotplug":
		if part(rest, 0) == "memory" {
			return nil, notOffered("hotplugged memory")
		}
	case "logger":
		return do(s, body, preBoot, s.putLogger)
	case "machine-config":
		return do(s, body, preBoot, s.putMachineConfig)
	case "metrics":
		return do(s, body, preBoot, s.putMetrics)
	case "mmds":
		if part(rest, 0) == "config" {
			return do(s, body, preBoot, s.putMMDSConfig)
		}
		if len(rest) > 0 {
			return nil, refuse("Unrecognized PUT request path `%s`.", rest[0])
		}
		return s.putMMDS(body)
	case "network-interfaces":
		return named(s, rest, body, preBoot, func(n *networkInterface) string { return n.IfaceID }, s.putNIC)
	case "pmem":
		return named(s, rest, body, preBoot, func(p *pmem) string { return p.ID }, s.putPmem)
	case "serial":
		return do(s, body, preBoot, s.putSerial)
	case "snapshot":
		switch part(rest, 0) {
		case "":
			return nil, refuse("Missing snapshot operation type.")
		case "create":
			return do(s, body, postBoot, s.createSnapshot)
		case "load":
			return do(s, body, preBoot, s.loadSnapshot)
		}
		return nil, invalidPath(http.MethodPut, "/snapshot/"+rest[0])
	case "vsock":
		return do(s, body, preBoot, s.putVsock)
	}
	return nil, invalidPath(http.MethodPut, first)
}

func (s *Server) patch(first string, rest []string, body []byte) (any, error) {
	switch first {
	case "balloon":
		return s.patchBalloon(rest, body)
	case "drives":
		return named(s, rest, body, postBoot, func(d *drivePatch) string { return d.DriveID }, s.patchDrive)
	case "hotplug":
		if part(rest, 0) == "memory" {
			return nil, notOffered("hotplugged memory")
		}
	case "machine-config":
		return do(s, body, preBoot, s.patchMachineConfig)
	case "mmds":
		return s.patchMMDS(body)
	case "network-interfaces":
		return named(s, rest, body, postBoot, func(n *networkInterfacePatch) string { return n.IfaceID }, s.patchNIC)
	case "pmem":
		return named(s, rest, body, postBoot, func(p *pmemPatch) string { return p.ID }, s.patchPmem)
	case "vm":
		return do(s, body, postBoot, s.patchVM)
	}
	return nil, invalidPath(http.MethodPatch, first)
}

// named is do for a path that ends in the name of a device, which the body must have as well.
func named[T any](s *Server, rest []string, body []byte, when phase, id func(*T) string, f func(*T) (any, error)) (any, error) {
	if err := checkID(part(rest, 0)); err != nil {
		return nil, err
	}
	var v T
	if err := decode(body, &v); err != nil {
		return nil, err
	}
	if id(&v) != rest[0] {
		return nil, errOtherID
	}
	return s.locked(when, func() (any, error) { return f(&v) })
}
