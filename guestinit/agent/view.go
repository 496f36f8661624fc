package agent

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/guestinit/archive"
	"github.com/hullvm/hull/guestinit/proto"
)

// view is a root filesystem with what is mounted in it when the container runs, for one that does not: a mount namespace
// without a process.
type view struct {
	root      *archive.Root
	namespace *os.File // keeps it
}

func (v *view) close() {
	if v == nil {
		return
	}
	v.root.Close()
	v.namespace.Close()
}

// view opens the root directory as the container's processes see it, with all that is mounted there.
func (a *Agent) view() (*archive.Root, error) {
	c, p, err := a.mounted()
	if err != nil {
		return nil, err
	}
	if p == nil {
		return c.view.root.Clone()
	}
	var root *archive.Root
	inThread(func() { root, err = openRootOf(int(p.pidfd.Fd())) })
	return root, err
}

// openRootOf enters the mount namespace of a process and opens its root directory. It changes the calling thread for good.
func openRootOf(pidfd int) (*archive.Root, error) {
	// A mount namespace can be entered only by a thread that shares its root and
	// working directory with no other.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return nil, fmt.Errorf("entering the container: unshare: %w", err)
	}
	if err := unix.Setns(pidfd, unix.CLONE_NEWNS); err != nil {
		if errors.Is(err, unix.ESRCH) {
			return nil, &proto.Error{Code: proto.CodeNoProcess, Message: "the container has ended"}
		}
		return nil, fmt.Errorf("entering the container: setns: %w", err)
	}
	return archive.Open("/")
}

// makeView makes a view of the root filesystem at dir, where sources, by their number, are mounted at the destinations of shares.
// It changes the calling thread for good.
func makeView(dir string, shares []proto.Share, sources []string) (_ *view, err error) {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return nil, fmt.Errorf("making a mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return nil, fmt.Errorf("making all mounts private: %w", err)
	}
	v := &view{}
	if v.root, err = archive.Open(dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			v.root.Close()
		}
	}()
	order := make([]int, len(shares))
	for i := range order {
		order[i] = i
	}
	// One inside another comes after it.
	slices.SortFunc(order, func(i, j int) int { return cmp.Compare(shares[i].Destination, shares[j].Destination) })
	for _, i := range order {
		err := v.root.Mountpoint(shares[i].Destination, shares[i].File == "", func(at string) error {
			return unix.Mount(sources[i], at, "", unix.MS_BIND, "")
		})
		if err != nil {
			return nil, fmt.Errorf("mounting what is shared for %s: %w", shares[i].Destination, err)
		}
	}
	v.namespace, err = os.Open("/proc/thread-self/ns/mnt")
	return v, err
}

// inThread runs f on a thread that ends with it. That is never the first thread, which would stay as f leaves it: /proc/self shows
// the namespaces of that one.
func inThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			inThread(f) // on another one, as this one is taken
			runtime.UnlockOSThread()
			return
		}
		f()
	}()
	<-done
}
