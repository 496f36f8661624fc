// Package layerdisk turns the layers of a container image into read-only ext4
// disk images that the guest stacks with overlayfs.
//
// A layer is a tar archive of changes to the layers below it. It is read
// twice. [Scan] reads the headers and builds a [Tree]: what the layer would be
// if docker applied it to an empty directory, with later entries winning over
// earlier ones, parents followed through symbolic links inside the layer,
// hard links as names of one inode, and whiteouts kept apart. [NewRecipe]
// decides what the disk image of the layer holds, and [Recipe.Write] reads the
// archive again and streams file contents into the ext4 writer of
// github.com/Microsoft/hcsshim. Nothing is unpacked on the host, no path of the
// archive is ever looked up there.
//
// Most layers mean the same wherever they stand, so their disk image is a
// function of their own bytes. A layer needs to know those below it when
//
//   - it has a file but not the directories above it (as bazel, jib and ko make
//     layers): those directories must look as they do below;
//   - it deletes something below a directory that no layer below has: overlayfs
//     would show such a whiteout as a file;
//   - it has a hard link to a file of a layer below: no file system has links to
//     another one, so that layer and all below it become one image.
//
// [Recipe.InContext] tells.
//
// The result is reproducible: the same layers give the same bytes.
package layerdisk

import "errors"

var (
	// ErrLayer: the archive is damaged, or holds what no container file system can have.
	ErrLayer = errors.New("invalid layer")
	// ErrLimit: the layer is larger than Limits allow, or than the ext4 writer can do.
	ErrLimit = errors.New("larger than hull accepts")
)
