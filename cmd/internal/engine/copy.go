package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/hullvm/hull/guestinit/archive"
	"github.com/hullvm/hull/guestinit/proto"
)

// CopyOptions are those of `hull cp`.
type CopyOptions struct {
	// FollowLinks copies what a symbolic link at the source leads to, and not the link.
	FollowLinks bool
	// KeepOwners keeps users and groups by number. Without it a copy belongs to root in the container, to this user
	// on this host.
	KeepOwners bool
	// Skipped is told of each device node that is not made on this host. May be nil.
	Skipped func(name string)
}

// Errors of copies, in docker's words.
var (
	errCannotCopyDir = errors.New("cannot copy directory")
	errDirNotExists  = errors.New("no such directory")
	errReadOnlyRoot  = errors.New("container rootfs is marked read-only")
)

// CopyFrom copies a file or directory out of a container, which need not run, to a path of this host, by docker's rules for
// the two paths. It returns how many bytes of archive that took.
func (e *Engine) CopyFrom(ctx context.Context, ref, from, to string, o CopyOptions) (moved int64, err error) {
	if err := checkOutputPath(to); err != nil {
		return 0, err
	}
	g, err := e.enterAny(ctx, ref, true)
	if err != nil {
		return 0, err
	}
	defer g.endWith(&err)
	source, name, isDir, err := g.source(ctx, ref, from, o.FollowLinks)
	if err != nil {
		return 0, err
	}
	target, err := hostTarget(to)
	if err != nil {
		return 0, err
	}
	dir, name, err := target.place(name, isDir)
	if err != nil {
		return 0, fmt.Errorf("copying %s:%s to %s: %w", ref, from, to, err)
	}
	root, err := archive.Open(dir)
	if err != nil {
		return 0, err
	}
	defer root.Close()
	err = g.packed(ctx, source, name, func(r io.Reader) error {
		unpack := archive.UnpackOptions{KeepOwners: o.KeepOwners, Skipped: o.Skipped}
		return archive.Unpack(ctx, r, root, "/", unpack)
	})
	return g.moved, err
}

// CopyFromTar writes a file or directory of a container to w, as a tar.
func (e *Engine) CopyFromTar(ctx context.Context, ref, from string, w io.Writer, o CopyOptions) (err error) {
	g, err := e.enterAny(ctx, ref, true)
	if err != nil {
		return err
	}
	defer g.endWith(&err)
	source, name, _, err := g.source(ctx, ref, from, o.FollowLinks)
	if err != nil {
		return err
	}
	return g.packed(ctx, source, name, func(r io.Reader) error { return copyAll(w, r) })
}

// CopyTo copies a file or directory of this host into a container, which need not run. It returns how many bytes of archive
// that took.
func (e *Engine) CopyTo(ctx context.Context, ref, from, to string, o CopyOptions) (moved int64, err error) {
	source, err := openHostSource(from, o.FollowLinks)
	if err != nil {
		return 0, err
	}
	defer source.root.Close()
	g, err := e.enterAny(ctx, ref, true)
	if err != nil {
		return 0, err
	}
	defer g.endWith(&err)
	target, err := g.target(ctx, to)
	if err != nil {
		return 0, err
	}
	dir, name, err := target.place(source.name, source.isDir)
	if err != nil {
		return 0, fmt.Errorf("copying %s to %s:%s: %w", from, ref, to, err)
	}
	err = g.unpacked(ctx, ref, dir, o.KeepOwners, func(w io.Writer) error {
		a := archive.NewWriter(w)
		if err := a.Pack(source.root, source.base, name); err != nil {
			return err
		}
		return a.Close()
	})
	return g.moved, err
}

// CopyToTar unpacks a tar into a directory of a container.
func (e *Engine) CopyToTar(ctx context.Context, ref string, r io.Reader, to string) (err error) {
	g, err := e.enterAny(ctx, ref, true)
	if err != nil {
		return err
	}
	defer g.endWith(&err)
	target, err := g.target(ctx, to)
	if err != nil {
		return err
	}
	if !target.isDir {
		return fmt.Errorf("destination \"%s:%s\" must be a directory", ref, to)
	}
	return g.unpacked(ctx, ref, target.path, true, func(w io.Writer) error { return copyAll(w, r) })
}

// endWith ends the connection and reports its failure if there is none yet.
func (g *inside) endWith(err *error) {
	if endErr := g.end(); *err == nil {
		*err = endErr
	}
}

// isMissing tells whether the agent has not found a file.
func isMissing(err error) bool {
	var refused *proto.Error
	return errors.As(err, &refused) && refused.Code == proto.CodeNotFound
}

func missing(ref, path string) error {
	return fmt.Errorf("could not find the file %s in container %s", path, ref)
}

// source finds what is to be copied out of the container: its path there, and its name in the archive.
func (g *inside) source(ctx context.Context, ref, from string, follow bool) (source, name string, isDir bool, err error) {
	info, err := g.client.Stat(ctx, from)
	if isMissing(err) {
		return "", "", false, missing(ref, from)
	}
	if err != nil {
		return "", "", false, err
	}
	name = baseName(from)
	if follow && fs.FileMode(info.Mode)&fs.ModeSymlink != 0 {
		from = info.Target
		if info, err = g.client.Stat(ctx, from); isMissing(err) {
			return "", "", false, missing(ref, from)
		} else if err != nil {
			return "", "", false, err
		}
	}
	return from, name, fs.FileMode(info.Mode).IsDir(), nil
}

// target finds out what a path in the container is, as the place to copy to.
func (g *inside) target(ctx context.Context, to string) (copyTarget, error) {
	t := copyTarget{path: path.Join("/", to), asDir: wantsDir(to)}
	if err := g.checkWritable(to); err != nil {
		return t, err
	}
	info, err := g.client.Stat(ctx, to)
	if err == nil && fs.FileMode(info.Mode)&fs.ModeSymlink != 0 {
		t.path = path.Join("/", info.Target)
		info, err = g.client.Stat(ctx, t.path)
	}
	if err != nil && !isMissing(err) {
		return t, err
	}
	t.exists, t.isDir = err == nil, err == nil && fs.FileMode(info.Mode).IsDir()
	return t, nil
}

// checkWritable tells whether something can be put to a path of the container for good.
func (g *inside) checkWritable(to string) error {
	c := &g.record.Config
	if g.record.State.Up() || c.mountedAbove(to) {
		return nil // the guest's kernel knows
	}
	switch {
	case c.ReadOnly:
		return errReadOnlyRoot
	case c.TmpfsRoot:
		return fmt.Errorf("container %s keeps what is written in memory (--tmpfs-root), and does not run", g.record.Name)
	}
	return nil
}

// mountedAbove tells whether a path is in a directory or volume of this host.
func (c *Config) mountedAbove(name string) bool {
	name = path.Join("/", name)
	return slices.ContainsFunc(c.Mounts, func(m Mount) bool {
		target := path.Clean(m.Target)
		return name == target || strings.HasPrefix(name, target+"/")
	})
}

// packed has the agent archive a path under a name, and take read the archive.
func (g *inside) packed(ctx context.Context, source, name string, take func(io.Reader) error) error {
	return g.receive(ctx, func(ctx context.Context, transfer string) error {
		return g.client.Pack(ctx, &proto.Pack{Transfer: transfer, Source: proto.SourcePath, Path: source, Name: name})
	}, take)
}

// unpacked has the agent unpack what give writes.
func (g *inside) unpacked(ctx context.Context, ref, dir string, keepOwners bool, give func(io.Writer) error) error {
	err := g.send(ctx, func(ctx context.Context, transfer string) error {
		return g.client.Unpack(ctx, &proto.Unpack{Transfer: transfer, Path: dir, KeepOwners: keepOwners})
	}, give)
	if isMissing(err) {
		return missing(ref, dir)
	}
	return err
}

// copyAll is io.Copy without its shortcuts: files of this process's may be non-blocking by somebody else's doing.
func copyAll(w io.Writer, r io.Reader) error {
	_, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, make([]byte, pumpBuffer))
	return err
}
