// Package layerdisk turns the layers of a container image into read-only ext4
// disk images that the guest stacks with overlayfs.
package layerdisk

// maxDiskSize is what the ext4 writer reserves group descriptors for. It is a
// constant because it decides the layout: the same layer must always become
// the same bytes.
const maxDiskSize = 256 * gib
