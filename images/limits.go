package images

import "github.com/hullvm/hull/images/layerdisk"

// Sizes in bytes.
const (
	mib = int64(1) << 20
	gib = int64(1) << 30
)

// Limits bound what a hostile image or registry can make this host store or
// hold in memory. The zero value of each field means its default.
type Limits struct {
	// Layer bounds each layer's unpacked form.
	Layer layerdisk.Limits
	// Blob is the most bytes one layer may have as it is stored or transferred. Default 64 GiB.
	Blob int64
	// Archive is the most bytes a whole archive given to Load may have, unpacked. Default 256 GiB.
	Archive int64
	// Manifest is the most bytes of one manifest, index or configuration. Default 4 MiB, as registries have it.
	Manifest int64
	// Layers is the most layers of one image. Default 127, as docker has it.
	Layers int
}

func (l Limits) withDefaults() Limits {
	l.Layer = l.Layer.WithDefaults()
	if l.Blob <= 0 {
		l.Blob = 64 * gib
	}
	if l.Archive <= 0 {
		l.Archive = 256 * gib
	}
	if l.Manifest <= 0 {
		l.Manifest = 4 * mib
	}
	if l.Layers <= 0 {
		l.Layers = 127
	}
	return l
}
