package images

import (
	"errors"

	"github.com/hullvm/hull/images/layerdisk"
)

// What callers tell apart, with errors.Is. The text around them says what was
// being done and to what.
var (
	// ErrNotFound: no image in the store has this name or identifier.
	ErrNotFound = errors.New("not in the local store")
	// ErrAmbiguous: an abbreviated identifier fits several images.
	ErrAmbiguous = errors.New("more than one image has an identifier that starts like this")
	// ErrReference: the text is not an image name.
	ErrReference = errors.New("invalid image name")
	// ErrInUse: a container uses the image.
	ErrInUse = errors.New("in use")
	// ErrConflict: the image has further names, so removing it by its identifier needs force.
	ErrConflict = errors.New("has more than one name")
	// ErrBuiltin: the image is part of hull itself and cannot be removed.
	ErrBuiltin = errors.New("built into hull")
	// ErrArchive: what was given to Load or Import is not a whole, well-formed archive.
	ErrArchive = errors.New("not a valid image archive")
	// ErrManifest: a manifest, index or image configuration that breaks its format.
	ErrManifest = errors.New("invalid image manifest")
	// ErrDigest: content that does not have the digest or the size that was promised.
	ErrDigest = errors.New("content differs from its digest")
	// ErrUnsupported: a well-formed thing that hull has no use for, such as an unknown media type.
	ErrUnsupported = errors.New("not supported")
	// ErrPlatform: the image does not exist for the wanted platform.
	ErrPlatform = errors.New("no image for this platform")
	// ErrLayer: a layer that is damaged, or holds what no container file system can have.
	ErrLayer = layerdisk.ErrLayer
	// ErrLimit: larger than Limits allow.
	ErrLimit = layerdisk.ErrLimit
	// ErrDenied: the registry wants credentials, or other ones.
	ErrDenied = errors.New("denied by the registry")
	// ErrNoSuchImage: the registry does not have the image.
	ErrNoSuchImage = errors.New("not in the registry")
	// ErrRegistry: the registry cannot be reached or does not do what it should.
	ErrRegistry = errors.New("registry failed")
	// ErrMissing: the index names an image whose files are gone.
	ErrMissing = errors.New("files of this image are missing from the store; load or pull it again")
)
