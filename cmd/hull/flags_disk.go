package main

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/hullvm/hull/cmd/internal/engine"
)

// diskHelp begins what --disk says of itself.
const diskHelp = "Raw disk image `file`[,ro|,cow][,direct]: read-only, with writes that are gone at the end, past the page cache"

// parseDisks takes the values of --disk.
func parseDisks(given []string) (disks []engine.Disk, err error) {
	for _, one := range given {
		d, err := parseDisk(one)
		if err != nil {
			return nil, err
		}
		disks = append(disks, d)
	}
	return disks, nil
}

// parseDisk takes a file's path and the words after it. A comma before anything else is part of the path.
func parseDisk(given string) (engine.Disk, error) {
	d := engine.Disk{Path: given}
	for {
		i := strings.LastIndexByte(d.Path, ',')
		if i < 0 {
			break
		}
		option := map[string]*bool{"ro": &d.ReadOnly, "cow": &d.Overlay, "direct": &d.Direct}[d.Path[i+1:]]
		if option == nil {
			break
		}
		*option, d.Path = true, d.Path[:i]
	}
	switch {
	case d.Path == "":
		return d, fmt.Errorf("--disk %q: no file", given)
	case d.ReadOnly && d.Overlay:
		return d, fmt.Errorf("--disk %q: either ro or cow", given)
	}
	// A container may be started again from anywhere.
	path, err := filepath.Abs(d.Path)
	if err != nil {
		return d, fmt.Errorf("--disk %q: %w", given, err)
	}
	d.Path = path
	return d, nil
}

// parsePmems takes the values of --pmem.
func parsePmems(given []string) (files []engine.Pmem, err error) {
	for _, one := range given {
		path, readOnly := strings.CutSuffix(one, ",ro")
		if path == "" {
			return nil, fmt.Errorf("--pmem %q: no file", one)
		}
		files = append(files, engine.Pmem{Path: path, ReadOnly: readOnly})
	}
	return files, nil
}
