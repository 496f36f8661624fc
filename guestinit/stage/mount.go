package stage

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/guestinit/proto"
)

// mountOption is what an option in the style of fstab does to the flags.
type mountOption struct {
	flag  uintptr
	clear bool
}

// mountOptions returns the options that are flags of mount(2).
func mountOptions() map[string]mountOption {
	return map[string]mountOption{
		"defaults": {0, false}, "bind": {unix.MS_BIND, false}, "rbind": {unix.MS_BIND | unix.MS_REC, false},
		"ro": {unix.MS_RDONLY, false}, "rw": {unix.MS_RDONLY, true},
		"nosuid": {unix.MS_NOSUID, false}, "suid": {unix.MS_NOSUID, true},
		"nodev": {unix.MS_NODEV, false}, "dev": {unix.MS_NODEV, true},
		"noexec": {unix.MS_NOEXEC, false}, "exec": {unix.MS_NOEXEC, true},
		"sync": {unix.MS_SYNCHRONOUS, false}, "async": {unix.MS_SYNCHRONOUS, true}, "dirsync": {unix.MS_DIRSYNC, false},
		"mand": {unix.MS_MANDLOCK, false}, "nomand": {unix.MS_MANDLOCK, true},
		"atime": {unix.MS_NOATIME, true}, "noatime": {unix.MS_NOATIME, false},
		"diratime": {unix.MS_NODIRATIME, true}, "nodiratime": {unix.MS_NODIRATIME, false},
		"relatime": {unix.MS_RELATIME, false}, "norelatime": {unix.MS_RELATIME, true},
		"strictatime": {unix.MS_STRICTATIME, false}, "nostrictatime": {unix.MS_STRICTATIME, true},
		"nosymfollow": {unix.MS_NOSYMFOLLOW, false}, "silent": {unix.MS_SILENT, false}, "loud": {unix.MS_SILENT, true},
	}
}

// propagations returns the options that say how mounts spread.
func propagations() map[string]uintptr {
	return map[string]uintptr{
		"private": unix.MS_PRIVATE, "rprivate": unix.MS_PRIVATE | unix.MS_REC,
		"shared": unix.MS_SHARED, "rshared": unix.MS_SHARED | unix.MS_REC,
		"slave": unix.MS_SLAVE, "rslave": unix.MS_SLAVE | unix.MS_REC,
		"unbindable": unix.MS_UNBINDABLE, "runbindable": unix.MS_UNBINDABLE | unix.MS_REC,
	}
}

// parsedMount is a mount as the system calls want it.
type parsedMount struct {
	flags       uintptr
	propagation []uintptr
	data        string // options for the filesystem
}

func parseOptions(options []string) parsedMount {
	var p parsedMount
	flags, spreads := mountOptions(), propagations()
	var data []string
	for _, o := range options {
		if f, ok := flags[o]; ok {
			if f.clear {
				p.flags &^= f.flag
			} else {
				p.flags |= f.flag
			}
		} else if s, ok := spreads[o]; ok {
			p.propagation = append(p.propagation, s)
		} else {
			data = append(data, o)
		}
	}
	p.data = strings.Join(data, ",")
	return p
}

// mountAll mounts what the specification lists, in its order.
func (r *root) mountAll(mounts []specs.Mount) error {
	for i, m := range mounts {
		if err := r.mount(m); err != nil {
			return fmt.Errorf("mounting %s (%s) at %s (mount %d): %w", m.Source, m.Type, m.Destination, i, err)
		}
	}
	return nil
}

func (r *root) mount(m specs.Mount) error {
	if !filepath.IsAbs(m.Destination) {
		return &proto.Error{Code: proto.CodeInvalid, Message: "destination is not an absolute path"}
	}
	if filepath.Clean(m.Destination) == "/" {
		return &proto.Error{Code: proto.CodeInvalid, Message: "a mount over the root directory is not possible"}
	}
	if len(m.UIDMappings)+len(m.GIDMappings) > 0 {
		return &proto.Error{Code: proto.CodeUnsupported, Message: "mounts with mapped IDs are not supported"}
	}
	p := parseOptions(m.Options)
	if m.Type == "bind" {
		p.flags |= unix.MS_BIND
	}
	var target int
	var err error
	if p.flags&unix.MS_BIND != 0 {
		target, err = r.bindTarget(m.Source, m.Destination)
	} else {
		target, err = r.mkdir(m.Destination, 0o755)
	}
	if err != nil {
		return fmt.Errorf("making the mount point: %w", err)
	}
	defer func() { unix.Close(target) }()

	kind, source := m.Type, m.Source
	if kind == "cgroup" {
		kind = "cgroup2" // there is no other in a hull guest
	}
	flags := p.flags
	if flags&unix.MS_BIND != 0 {
		kind = ""
		flags &= unix.MS_BIND | unix.MS_REC
	}
	if err := unix.Mount(source, fdPath(target), kind, flags, p.data); err != nil {
		return err
	}
	// The descriptor leads to what is now below the mount; the rest concerns the mount.
	top, err := r.open(m.Destination, 0)
	if err != nil {
		return fmt.Errorf("opening the mount: %w", err)
	}
	defer unix.Close(top)
	if rest := p.flags &^ (unix.MS_BIND | unix.MS_REC); p.flags&unix.MS_BIND != 0 && rest != 0 {
		// The first call has ignored all flags but two.
		if err := unix.Mount("", fdPath(top), "", unix.MS_BIND|unix.MS_REMOUNT|rest, ""); err != nil {
			return fmt.Errorf("setting its options: %w", err)
		}
	}
	for _, flag := range p.propagation {
		if err := unix.Mount("", fdPath(top), "", flag, ""); err != nil {
			return fmt.Errorf("setting its propagation: %w", err)
		}
	}
	return nil
}

// bindTarget makes the mount point for source: a directory or a file, as source is.
func (r *root) bindTarget(source, destination string) (int, error) {
	st, err := os.Stat(source)
	if err != nil {
		return -1, err
	}
	if st.IsDir() {
		return r.mkdir(destination, 0o755)
	}
	return r.touch(destination)
}

// bindFile mounts a file of the agent's over a file of the container.
func (r *root) bindFile(source, destination string) error {
	target, err := r.touch(destination)
	if err == nil {
		err = unix.Mount(source, fdPath(target), "", unix.MS_BIND, "")
		unix.Close(target)
	}
	if err != nil {
		return fmt.Errorf("providing %s: %w", destination, err)
	}
	return nil
}
