package rootfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

// ErrUnknownFilesystem is wrapped by errors about a disk without a filesystem that can be a layer.
var ErrUnknownFilesystem = errors.New("no filesystem that hull knows (ext4, erofs, squashfs, xfs, btrfs)")

// signature is how a filesystem is recognised.
type signature struct {
	kind   string
	offset int
	magic  []byte
}

func signatures() []signature {
	le16, le32 := binary.LittleEndian.AppendUint16, binary.LittleEndian.AppendUint32
	return []signature{
		{"ext4", 1024 + 0x38, le16(nil, 0xef53)},
		{"erofs", 1024, le32(nil, 0xe0f5e1e2)},
		{"squashfs", 0, []byte("hsqs")},
		{"xfs", 0, []byte("XFSB")},
		{"btrfs", 0x10040, []byte("_BHRfS_M")},
	}
}

// probe finds out which filesystem a device has.
func probe(device string) (string, error) {
	f, err := os.Open(device)
	if err != nil {
		return "", err
	}
	defer f.Close()
	for _, s := range signatures() {
		buf := make([]byte, len(s.magic))
		if _, err := f.ReadAt(buf, int64(s.offset)); err != nil {
			if errors.Is(err, io.EOF) {
				continue
			}
			return "", fmt.Errorf("reading %s: %w", device, err)
		}
		if string(buf) == string(s.magic) {
			return s.kind, nil
		}
	}
	return "", fmt.Errorf("%s: %w", device, ErrUnknownFilesystem)
}
