package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/guestinit/proto"
)

// mountShares mounts what the host shares in directories of the agent's own, and makes them the sources of the bind
// mounts that they are for.
func (a *Agent) mountShares(c *container, s *proto.Start) error {
	for i := range s.Shares {
		share := &s.Shares[i]
		m := bindAt(s.Spec, share.Destination)
		if m == nil {
			return &proto.Error{Code: proto.CodeInvalid, Message: fmt.Sprintf("share %s: no bind mount has the destination %s", share.Tag, share.Destination)}
		}
		source, err := a.mountShare(c, i, share)
		if err != nil {
			return err
		}
		if share.Copy && share.File == "" && !share.ReadOnly {
			a.mu.Lock()
			root := c.root.Dir()
			a.mu.Unlock()
			if err := populate(root, share.Destination, source); err != nil {
				return fmt.Errorf("filling the volume at %s: %w", share.Destination, err)
			}
		}
		m.Source = source
		if share.ReadOnly {
			m.Options = append(m.Options, "ro")
		}
	}
	return nil
}

// mountShare mounts share number i and returns the path of what is shared.
func (a *Agent) mountShare(c *container, i int, share *proto.Share) (source string, err error) {
	switch {
	case share.File != "" && (share.File == ".." || share.File == "." || filepath.Base(share.File) != share.File):
		return "", &proto.Error{Code: proto.CodeInvalid, Message: fmt.Sprintf("share %s: %q is not the name of a file", share.Tag, share.File)}
	case a.opts.Share == nil:
		return "", &proto.Error{Code: proto.CodeUnsupported, Message: "this agent mounts no shares"}
	}
	dir := filepath.Join(a.opts.Dir, "share", strconv.Itoa(i))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	if err := a.opts.Share(share.Tag, dir, share.ReadOnly); err != nil {
		return "", fmt.Errorf("mounting what is shared for %s: %w", share.Destination, err)
	}
	a.mu.Lock()
	c.shares = append(c.shares, dir)
	a.mu.Unlock()
	return filepath.Join(dir, share.File), nil
}

// bindAt returns the bind mount with a destination.
func bindAt(spec *specs.Spec, destination string) *specs.Mount {
	for i := range spec.Mounts {
		if m := &spec.Mounts[i]; m.Type == "bind" && m.Destination == destination {
			return m
		}
	}
	return nil
}

// unmountShare writes what programs have left in memory, through mappings, and unmounts.
func unmountShare(dir string) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == nil {
		err = unix.Syncfs(fd)
		unix.Close(fd)
	}
	if err == nil {
		err = unix.Unmount(dir, unix.MNT_DETACH)
	}
	if err != nil {
		return fmt.Errorf("unmounting %s: %w", dir, err)
	}
	return nil
}
