package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/hullvm/hull/guestinit/proto"
)

// mountVolumes mounts disks in directories of the agent's own, and makes what is on them the sources of the bind mounts that
// they are for.
func (a *Agent) mountVolumes(c *container, s *proto.Start) error {
	for i, v := range s.Volumes {
		m := bindAt(s.Spec, v.Destination)
		switch {
		case m == nil:
			return &proto.Error{Code: proto.CodeInvalid, Message: fmt.Sprintf("disk %s: no bind mount has the destination %s", v.Disk, v.Destination)}
		case a.opts.Volume == nil:
			return &proto.Error{Code: proto.CodeUnsupported, Message: "this agent mounts no volumes"}
		}
		dir := filepath.Join(a.opts.Dir, "volume", strconv.Itoa(i))
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		if err := a.opts.Volume(v.Disk, dir, v.ReadOnly); err != nil {
			return fmt.Errorf("mounting the volume at %s: %w", v.Destination, err)
		}
		a.mu.Lock()
		c.shares = append(c.shares, dir)
		root := c.root.Dir()
		a.mu.Unlock()
		// Not the root of the file system: there are things in that of an empty one.
		m.Source = filepath.Join(dir, "data")
		if v.ReadOnly {
			m.Options = append(m.Options, "ro")
			continue
		}
		if err := os.Mkdir(m.Source, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("volume at %s: %w", v.Destination, err)
		}
		if !v.Copy {
			continue
		}
		if err := populate(root, v.Destination, m.Source); err != nil {
			return fmt.Errorf("filling the volume at %s: %w", v.Destination, err)
		}
	}
	return nil
}
