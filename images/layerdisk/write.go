package layerdisk

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/Microsoft/hcsshim/ext4/tar2ext4"
)

// lostFound is the directory e2fsck puts orphans in. The ext4 writer always
// makes it; a layer has it only when its archive does.
const lostFound = "lost+found"

// Write writes the disk image to f, a new and empty file, which it neither
// syncs nor closes. The file system's UUID is made of id, so that no two disk
// images of a stack have the same: overlayfs tells layers apart by it. open
// opens the uncompressed archive of a layer, by its number in what NewRecipe
// was given. The errors are ErrLayer, ErrLimit, and those of ctx, f and open.
func (r *Recipe) Write(ctx context.Context, f *os.File, id [sha256.Size]byte, open func(layer int) (io.ReadCloser, error)) (err error) {
	// A file that is not a directory, or a whiteout, of that name cannot replace the writer's directory.
	// It gets another name of the same length and is renamed on the disk.
	placeholder, own := "", r.root.children[lostFound]
	if own != nil && own.kind != directory {
		if placeholder, err = freeName(r.root); err != nil {
			return err
		}
	}
	rename := func(name string) string {
		if placeholder != "" && name == lostFound {
			return placeholder
		}
		return name
	}
	in := newStream(ctx, r, open, rename)
	out := &sparseFile{f: f}
	err = convert(in, out)
	if cerr := in.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if err := out.finish(); err != nil {
		return err
	}
	if own != nil && placeholder == "" {
		return amend(f, id, "", "")
	}
	return amend(f, id, lostFound, placeholder)
}

// freeName finds a name as long as lost+found that nothing at the root has.
func freeName(root *node) (string, error) {
	for n := range len(root.children) + 1 {
		name := fmt.Sprintf("lost%06d", n)
		if root.children[name] == nil {
			return name, nil
		}
	}
	return "", fmt.Errorf("no free name at the root: %w", ErrLayer)
}

// convert runs the ext4 writer. It panics where it finds itself in a state it
// did not foresee; with what comes from an image that must not end the program.
func convert(in io.Reader, out io.ReadWriteSeeker) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the ext4 writer gave up: %v: %w", p, ErrLayer)
		}
	}()
	err = tar2ext4.ConvertTarToExt4(in, out, tar2ext4.MaximumDiskSize(maxDiskSize))
	switch {
	case err == nil, errors.Is(err, ErrLayer), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case isSystemError(err):
		return err
	case strings.Contains(err.Error(), "maximum"), strings.Contains(err.Error(), "could not fit"), strings.Contains(err.Error(), "too big"):
		// What ext4 has no room for: 65,000 links or subdirectories, a block of extended attributes.
		return fmt.Errorf("%w: %w", err, ErrLimit)
	}
	return err
}

func isSystemError(err error) bool {
	var path *os.PathError
	return errors.As(err, &path)
}

// Build makes the disk image of a layer that nothing lies below, whatever its
// whiteouts say, from its uncompressed archive: Scan, NewRecipe and Write in one.
func Build(ctx context.Context, archive io.ReadSeeker, f *os.File, id [sha256.Size]byte, lim Limits) error {
	tree, err := Scan(ctx, archive, lim)
	if err != nil {
		return err
	}
	recipe, err := NewRecipe([]*Tree{tree})
	if err != nil {
		return err
	}
	return recipe.Write(ctx, f, id, func(int) (io.ReadCloser, error) {
		if _, err := archive.Seek(0, io.SeekStart); err != nil {
			return nil, err
		}
		return io.NopCloser(archive), nil
	})
}
