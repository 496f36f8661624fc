// Package images keeps container images on this host in the form in which a
// virtual machine uses them: each layer once, as a read-only ext4 disk image.
//
// # What is where
//
// A [Store] lives in hull's data directory:
//
//	images/index.json            which images there are, and under which names
//	images/blobs/sha256/HEX      manifests, configurations and layer archives, by digest, as registries have them
//	images/partial/              layers on their way from a registry; kept so that a pull resumes
//	images/tmp/, layers/tmp/     files being written, marks that there may be garbage (sweep.go), signs of use (store.go)
//	images/lock                  shared by whoever adds or uses images, exclusive for whoever deletes files
//	images/index.lock            held while index.json is replaced
//	layers/sha256-HEX.ext4       one layer as a disk image, named by its diffID
//	layers/chain-sha256-HEX.ext4 a layer that could only be built knowing the layers below it, by chain ID
//
// Images arrive through [Store.Load] (archives of docker save, OCI layouts),
// [Store.Import] (a root file system) and [Store.Pull] (a registry), are found
// with [Store.Get], [Store.List] and [Store.Inspect], are handed on byte by byte
// with [Store.Push] and [Store.Save], and leave with [Store.Remove] and
// [Store.Prune]. The package prints nothing: what a terminal shows comes from
// [Progress].
//
// # What it promises
//
// Several processes may use one store at once. Every file is written under a
// temporary name, flushed to the disk and renamed; index.json is replaced last.
// A process killed at any moment, or a full disk, therefore leaves the store as
// it was, and the next [Open] removes what the dead process had begun: a lock
// (flock) on each temporary file tells the living from the dead.
//
// Nothing from an image is ever unpacked on the host: a layer goes from its tar
// stream straight into an ext4 image (package layerdisk), so symbolic links,
// "..", device nodes and setuid files in it are only data.
//
// What comes from outside is checked once, where it comes in: names, sizes and
// digests against [Limits] and against what the manifest said.
//
// Start reading at store.go, then ingest.go, which all three ways in share, and
// original.go, which both ways out do.
package images
