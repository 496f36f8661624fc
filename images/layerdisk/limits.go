package layerdisk

// Sizes in bytes.
const (
	mib = int64(1) << 20
	gib = int64(1) << 30
)

// maxDiskSize is what the ext4 writer reserves group descriptors for. It is a
// constant because it decides the layout: the same layer must always become
// the same bytes.
const maxDiskSize = 256 * gib

// maxFileSize keeps each file within one leaf block of extents: 340 extents of
// 128 MiB are 42.5 GiB, and the ext4 writer of hcsshim v0.15.0 miscounts the
// extents of the second leaf block (compactext4.writeExtents).
const maxFileSize = 40 * gib

// Limits bound what one layer may become. The zero value of each field means
// its default.
type Limits struct {
	// Unpacked is the most bytes all files of a layer may have together, holes included. Default and maximum 128 GiB.
	Unpacked int64
	// Entries is the most entries of a layer, parent directories it does not list included. Default 2,000,000.
	Entries int
	// Metadata is the most bytes of names, link targets and extended attributes. Default 256 MiB.
	Metadata int64
}

// WithDefaults returns l with the defaults filled in.
func (l Limits) WithDefaults() Limits {
	if l.Unpacked <= 0 || l.Unpacked > maxDiskSize/2 {
		l.Unpacked = maxDiskSize / 2
	}
	if l.Entries <= 0 {
		l.Entries = 2_000_000
	}
	if l.Metadata <= 0 {
		l.Metadata = 256 * mib
	}
	return l
}
