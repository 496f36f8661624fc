package layerdisk

import (
	"path"
	"strings"
)

// What Linux bounds paths with (limits.h).
const (
	nameMax = 255
	pathMax = 4096 // with the NUL at the end
)

// The names with which a layer deletes: OCI image-spec, layer.md, "Whiteouts".
const (
	whiteoutPrefix = ".wh."
	// whiteoutMeta begins names that aufs kept for itself; docker skips them.
	whiteoutMeta   = ".wh..wh."
	whiteoutOpaque = ".wh..wh..opq"
)

// cleanName turns the name of an entry, or the target of a hard link, into a
// path relative to the root of the layer: "." or components without "", "."
// and "..". An absolute name counts from that root, as docker has it.
func cleanName(name string) (string, error) {
	if strings.IndexByte(name, 0) >= 0 {
		return "", layerError(name, "the name has a NUL byte")
	}
	clean := path.Clean(strings.TrimLeft(name, "/"))
	if clean == ".." || strings.HasPrefix(clean, "../") {
		return "", layerError(name, "the name leads out of the layer")
	}
	if len(clean) >= pathMax {
		return "", layerError(name, "the name is longer than %d bytes", pathMax-1)
	}
	for rest := clean; rest != ""; {
		var component string
		component, rest, _ = strings.Cut(rest, "/")
		if len(component) > nameMax {
			return "", layerError(name, "a component of the name is longer than %d bytes", nameMax)
		}
	}
	return clean, nil
}

// splitName splits a cleaned name that is not "." into the components of its
// directory and the last one.
func splitName(clean string) (dir []string, base string) {
	components := strings.Split(clean, "/")
	last := len(components) - 1
	return components[:last], components[last]
}
