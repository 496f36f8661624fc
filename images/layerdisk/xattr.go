package layerdisk

import (
	"archive/tar"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// xattr is an extended attribute as it stands on the disk.
type xattr struct{ name, value string }

// paxXattr begins the PAX records that hold extended attributes.
const paxXattr = "SCHILY.xattr."

// overlayXattrs are what overlayfs keeps for itself. In an archive they would
// steer the guest's overlay (redirects, opaque directories), so they are left out.
const overlayXattrs = "trusted.overlay."

// opaqueXattr makes a directory opaque to overlayfs
// (Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories").
var opaqueXattr = xattr{"trusted.overlay.opaque", "y"}

// The attributes whose form in an archive is not that on an ext4 disk.
const (
	aclAccess  = "system.posix_acl_access"
	aclDefault = "system.posix_acl_default"
)

const xattrNameMax = 255 // XATTR_NAME_MAX in limits.h

// readXattrs takes the extended attributes out of an entry. Those that ext4
// has no place for are left out, as docker leaves out what the file system of
// its host does not support.
func readXattrs(h *tar.Header) ([]xattr, error) {
	var all []xattr
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, paxXattr)
		if !ok || strings.HasPrefix(name, overlayXattrs) {
			continue
		}
		namespace, rest, _ := strings.Cut(name, ".")
		switch {
		case name == aclAccess || name == aclDefault:
			disk, err := diskACL(value)
			if err != nil {
				return nil, layerError(h.Name, "extended attribute %s: %v", name, err)
			}
			value = disk
		case namespace != "user" && namespace != "trusted" && namespace != "security":
			continue
		case rest == "" || len(name) > xattrNameMax:
			return nil, layerError(h.Name, "an extended attribute has a name of %d bytes", len(name))
		}
		all = append(all, xattr{name, value})
	}
	slices.SortFunc(all, func(a, b xattr) int { return cmp.Compare(a.name, b.name) })
	return all, nil
}

// Versions and tags of POSIX ACLs: include/uapi/linux/posix_acl{,_xattr}.h and
// fs/ext4/acl.h in Linux.
const (
	aclXattrVersion = 2
	aclDiskVersion  = 1

	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20
)

// diskACL turns an ACL from the form of getxattr, in which archives carry it,
// into that of an ext4 disk: another version number, and no identifier where
// the tag needs none.
func diskACL(value string) (string, error) {
	const header, entry = 4, 8
	if len(value) < header || (len(value)-header)%entry != 0 {
		return "", fmt.Errorf("an access control list of %d bytes", len(value))
	}
	b := []byte(value)
	if v := binary.LittleEndian.Uint32(b); v != aclXattrVersion {
		return "", fmt.Errorf("an access control list of version %d", v)
	}
	out := binary.LittleEndian.AppendUint32(nil, aclDiskVersion)
	for b = b[header:]; len(b) > 0; b = b[entry:] {
		tag := binary.LittleEndian.Uint16(b)
		switch tag {
		case aclUserObj, aclGroupObj, aclMask, aclOther:
			out = append(out, b[:4]...)
		case aclUser, aclGroup:
			out = append(out, b[:entry]...)
		default:
			return "", errors.New("an access control list with an unknown tag")
		}
	}
	return string(out), nil
}
