package engine

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/hullvm/hull/guestinit/proto"
)

// FileChange is a file of a container that is not as in its image.
type FileChange struct {
	Kind string // A: added, C: changed, D: deleted
	Path string // absolute
}

// maxChangedPath is the longest path in a list of changes, in bytes (PATH_MAX).
const maxChangedPath = 4096

// Diff calls each for every change that a container, which need not run, has made to its image. Directories come before what is in
// them.
func (e *Engine) Diff(ctx context.Context, ref string, each func(FileChange) error) (err error) {
	g, err := e.enterAny(ctx, ref, false)
	if err != nil {
		return err
	}
	defer g.endWith(&err)
	return g.receive(ctx, g.client.Changes, func(r io.Reader) error { return readChanges(r, each) })
}

// readChanges reads a list of changes to its end. What it says is the guest's.
func readChanges(r io.Reader, each func(FileChange) error) error {
	in := bufio.NewReader(r)
	for {
		var c proto.Change
		err := proto.ReadFrame(in, &c)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("list of changes: %w", err)
		}
		switch c.Kind {
		case proto.KindAdded, proto.KindModified, proto.KindDeleted:
		default:
			return fmt.Errorf("list of changes: the guest's agent names a change of kind %.20q", c.Kind)
		}
		if len(c.Path) > maxChangedPath || !strings.HasPrefix(c.Path, "/") {
			return fmt.Errorf("list of changes: %.100q is not the path of a file", c.Path)
		}
		if err := each(FileChange(c)); err != nil {
			return err
		}
	}
}

// Export writes the whole root filesystem of a container, which need not run, to w, as a tar. What is mounted in it is left out.
func (e *Engine) Export(ctx context.Context, ref string, w io.Writer) (err error) {
	g, err := e.enterAny(ctx, ref, false)
	if err != nil {
		return err
	}
	defer g.endWith(&err)
	g.emit("export", nil)
	return g.receive(ctx, func(ctx context.Context, transfer string) error {
		return g.client.Pack(ctx, &proto.Pack{Transfer: transfer, Source: proto.SourceRoot})
	}, func(r io.Reader) error { return copyAll(w, r) })
}
