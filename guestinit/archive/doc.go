// Package archive carries files between a guest and its host as a tar, which both sides make and take apart with
// the same code.
//
// [Writer] makes one, [Unpack] takes one apart. Both work below a [Root]: a directory that symbolic links in it,
// and "..", do not lead out of, whoever changes it meanwhile. That is the kernel's work (openat2(2), RESOLVE_IN_ROOT), and all
// that is done to a file is done through the directory it was found in.
//
// On the host an archive comes from a guest, which may be hostile. Unpack makes of it nothing but directories, files,
// links and FIFOs, and only with [UnpackOptions.Trusted] what else an archive can have; what it
// keeps in memory is bounded by the length of a path.
package archive
