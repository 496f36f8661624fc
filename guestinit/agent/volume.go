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
	for i := range s.Volumes {
		v := &s.Volumes[i]
		m := bindAt(s.Spec, v.Destination)
		if m == nil {
			return &proto.Error{Code: proto.CodeInvalid, Message: fmt.Sprintf("disk %s: no bind mount has the destination %s", v.Disk, v.Destination)}
		}
		source, err := a.mountVolume(c, i, v)
		if err != nil {
			return err
		}
		m.Source = source
		if v.ReadOnly {
			m.Options = append(m.Options, "ro")
			continue
		}
		if !v.Copy {
			continue
		}
		a.mu.Lock()
		root := c.root.Dir()
		a.mu.Unlock()
		if err := populate(root, v.Destination, source); err != nil {
			return fmt.Errorf("filling the volume at %s: %w", v.Destination, err)
		}
	}
	return nil
}

// mountVolume mounts disk number i and returns the path of what is on it.
func (a *Agent) mountVolume(c *container, i int, v *proto.Volume) (source string, err error) {
	if a.opts.Volume == nil {
		return "", &proto.Error{Code: proto.CodeUnsupported, Message: "this agent mounts no volumes"}
	}
	dir := filepath.Join(a.opts.Dir, "volume", strconv.Itoa(i))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	if err := a.opts.Volume(v.Disk, dir, v.ReadOnly); err != nil {
		return "", fmt.Errorf("mounting the volume at %s: %w", v.Destination, err)
	}
	a.mu.Lock()
	c.shares = append(c.shares, dir)
	a.mu.Unlock()
	// Not the root of the file system: there are things in that of an empty one.
	source = filepath.Join(dir, "data")
	if v.ReadOnly {
		return source, nil
	}
	if err := os.Mkdir(source, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("volume at %s: %w", v.Destination, err)
	}
	return source, nil
}
