package main

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/hullvm/hull/cmd/internal/engine"
)

// publishedPorts are those of this host that lead to a container now, by the container's port.
func publishedPorts(r *engine.Record) []engine.PortBinding {
	if !r.State.Alive() {
		return nil
	}
	return slices.SortedFunc(slices.Values(r.State.Ports), func(a, b engine.PortBinding) int {
		return cmp.Or(cmp.Compare(a.Container, b.Container), cmp.Compare(a.Protocol, b.Protocol), a.Host.Compare(b.Host))
	})
}

// listedPorts are the ports of a running container as docker's ps lists them: those that are published, and those that
// its image exposes and nobody has published. Ports in a row are one entry if they have the same number on both sides.
func listedPorts(r *engine.Record) string {
	if !r.State.Alive() {
		return ""
	}
	type run struct{ address, protocol string }
	ports := make(map[run][]int) // that are shown in rows
	var runs []run
	var others []string
	add := func(at run, port int) {
		if ports[at] == nil {
			runs = append(runs, at)
		}
		ports[at] = append(ports[at], port)
	}
	published := make(map[string]bool)
	for _, p := range publishedPorts(r) {
		published[fmt.Sprintf("%d/%s", p.Container, p.Protocol)] = true
		if p.Host.Port() == p.Container {
			add(run{p.Host.Addr().String(), p.Protocol}, int(p.Container))
		} else {
			others = append(others, p.String())
		}
	}
	for _, exposed := range append(slices.Sorted(maps.Keys(r.ImageConfig.ExposedPorts)), r.Config.Expose...) {
		number, protocol, ok := strings.Cut(exposed, "/")
		if !ok {
			protocol = "tcp"
		}
		if port, err := strconv.ParseUint(number, 10, 16); err == nil && !published[number+"/"+protocol] {
			add(run{"", protocol}, int(port))
		}
	}
	var list []string
	for _, at := range runs {
		slices.Sort(ports[at])
		for _, both := range inRows(slices.Compact(ports[at])) {
			if at.address != "" {
				both = net.JoinHostPort(at.address, both) + "->" + both
			}
			list = append(list, both+"/"+at.protocol)
		}
	}
	return strings.Join(append(list, others...), ", ")
}

// inRows writes sorted numbers as those that stand alone and ranges of those that follow one another.
func inRows(sorted []int) []string {
	var list []string
	for len(sorted) > 0 {
		n := 1
		for n < len(sorted) && sorted[n] == sorted[n-1]+1 {
			n++
		}
		text := strconv.Itoa(sorted[0])
		if n > 1 {
			text += "-" + strconv.Itoa(sorted[n-1])
		}
		list = append(list, text)
		sorted = sorted[n:]
	}
	return list
}
