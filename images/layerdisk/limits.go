package layerdisk

// Sizes in bytes.
const (
	mib = int64(1) << 20
	gib = int64(1) << 30
)

// Limits bound what one layer may become. The zero value of each field means
// its default.
type Limits struct {
	// Unpacked is the most bytes all files of a layer may have together, holes included. Default 128 GiB.
	Unpacked int64
	// Entries is the most entries of a layer. Default 4,000,000.
	Entries int
}

// WithDefaults returns l with the defaults filled in.
func (l Limits) WithDefaults() Limits {
	if l.Unpacked <= 0 || l.Unpacked > maxDiskSize/2 {
		l.Unpacked = maxDiskSize / 2
	}
	if l.Entries <= 0 {
		l.Entries = 4_000_000
	}
	return l
}
