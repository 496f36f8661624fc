package bundle

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Files are the paths of the unpacked members.
type Files struct {
	Dir         string
	Kernel      string
	Initramfs   string
	VMM         string
	Uroot       string
	UrootConfig string
	Scratch     string
	Volume      string
}

// ErrUnsafeCache is wrapped by Extract's error when others could change what is in the cache.
var ErrUnsafeCache = errors.New("cache directory is not safe")

const (
	lockName    = ".lock"
	tempPrefix  = ".tmp-"
	keepBundles = 4                  // that many unpacked bundles are kept …
	keepFor     = 7 * 24 * time.Hour // … and those used within this time
	touchAfter  = 24 * time.Hour     // how exactly the time of the last use is known
)

// Extract makes sure that the members are unpacked in a directory of cacheDir
// and returns their paths. cacheDir is made (0700) when it is missing. What is there already is used
// if kind, owner, mode and size of everything are as they should be, else unpacked afresh.
// Any number of processes may do so at once; one that is killed in the middle
// leaves nothing that would be mistaken for a good copy.
func (b *Bundle) Extract(cacheDir string) (*Files, error) {
	f, err := b.extract(cacheDir)
	if err != nil {
		return nil, fmt.Errorf("unpacking the guest kernel and images to %s: %w", cacheDir, err)
	}
	return f, nil
}

func (b *Bundle) extract(cacheDir string) (*Files, error) {
	cacheDir, err := filepath.Abs(cacheDir)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(cacheDir, b.id)
	files := &Files{
		Dir:         dir,
		Kernel:      filepath.Join(dir, NameKernel),
		Initramfs:   filepath.Join(dir, NameInitramfs),
		VMM:         filepath.Join(dir, NameVMM),
		Uroot:       filepath.Join(dir, NameUroot),
		UrootConfig: filepath.Join(dir, NameUrootConfig),
		Scratch:     filepath.Join(dir, NameScratch),
		Volume:      filepath.Join(dir, NameVolume),
	}
	if err := checkCache(cacheDir); err == nil && b.good(dir) {
		return files, nil
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err := os.MkdirAll(cacheDir, 0o700); err != nil {
		return nil, err
	}
	if err := checkCache(cacheDir); err != nil {
		return nil, err
	}
	unlock, err := lock(filepath.Join(cacheDir, lockName))
	if err != nil {
		return nil, err
	}
	defer unlock()
	if b.good(dir) {
		return files, nil // someone else has done it meanwhile
	}
	removeStale(cacheDir)
	if err := b.unpack(cacheDir, dir); err != nil {
		return nil, err
	}
	prune(cacheDir)
	return files, nil
}

// checkCache refuses a directory in which others than its owner could
// replace things: the kernel is mapped from there, and hull-vmm executed.
func checkCache(dir string) error {
	st, err := os.Stat(dir)
	if err != nil {
		return err
	}
	owner := st.Sys().(*syscall.Stat_t).Uid
	switch {
	case !st.IsDir():
		return fmt.Errorf("%w: not a directory", ErrUnsafeCache)
	case owner != 0 && int(owner) != os.Geteuid():
		return fmt.Errorf("%w: it belongs to user %d", ErrUnsafeCache, owner)
	case st.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("%w: others may write to it (mode %04o)", ErrUnsafeCache, st.Mode().Perm())
	}
	return nil
}

// good tells whether dir holds the unpacked members.
func (b *Bundle) good(dir string) bool {
	st, err := os.Lstat(dir)
	if err != nil || !st.IsDir() || !private(st, 0o700) {
		return false
	}
	for _, name := range Members() {
		m, err := os.Lstat(filepath.Join(dir, name))
		if err != nil || !m.Mode().IsRegular() || !private(m, memberMode(name)) || m.Size() != b.manifest.Members[name].Size {
			return false
		}
	}
	if now := time.Now(); now.Sub(st.ModTime()) > touchAfter {
		_ = os.Chtimes(dir, now, now) // only makes pruning wiser
	}
	return true
}

func private(st fs.FileInfo, mode fs.FileMode) bool {
	return st.Mode().Perm() == mode && int(st.Sys().(*syscall.Stat_t).Uid) == os.Geteuid()
}

func memberMode(name string) fs.FileMode {
	if name == NameVMM {
		return 0o500
	}
	return 0o400
}

// unpack writes all members to a fresh directory and then puts it in dir's place.
func (b *Bundle) unpack(cacheDir, dir string) (err error) {
	temp, err := os.MkdirTemp(cacheDir, tempPrefix) // 0700
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(temp)
		}
	}()
	for _, name := range Members() {
		if err := b.unpackMember(filepath.Join(temp, name), name); err != nil {
			return err
		}
	}
	if err := os.Rename(temp, dir); err == nil {
		return nil
	}
	// Something that is not good is in the way. Programs that have its files open keep them.
	old, err := os.MkdirTemp(cacheDir, tempPrefix)
	if err != nil {
		return err
	}
	defer os.RemoveAll(old)
	if err := os.Rename(dir, filepath.Join(old, "old")); err != nil {
		return err
	}
	return os.Rename(temp, dir)
}

func (b *Bundle) unpackMember(path, name string) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, memberMode(name))
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	if err := f.Chmod(memberMode(name)); err != nil { // whatever the umask
		return err
	}
	if err := b.copyMember(f, name); err != nil {
		return err
	}
	// A size that is right must mean content that is right, also after a power cut.
	return f.Sync()
}

func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}

// removeStale removes what killed processes have left. The lock is held, so
// that nobody is still at it. Failing to is no reason to fail.
func removeStale(cacheDir string) {
	entries, _ := os.ReadDir(cacheDir)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), tempPrefix) {
			_ = os.RemoveAll(filepath.Join(cacheDir, e.Name()))
		}
	}
}

// prune removes bundles that have not been used for long, so that upgrades do
// not fill the disk.
func prune(cacheDir string) {
	entries, _ := os.ReadDir(cacheDir)
	var dirs []fs.FileInfo
	for _, e := range entries {
		if !isID(e.Name()) {
			continue
		}
		if st, err := e.Info(); err == nil && st.IsDir() {
			dirs = append(dirs, st)
		}
	}
	slices.SortFunc(dirs, func(a, b fs.FileInfo) int { return b.ModTime().Compare(a.ModTime()) })
	for i, st := range dirs {
		if i >= keepBundles && time.Since(st.ModTime()) > keepFor {
			_ = os.RemoveAll(filepath.Join(cacheDir, st.Name()))
		}
	}
}

// isID tells whether a name is one that Extract gives a directory.
func isID(name string) bool {
	return len(name) == 32 && strings.Trim(name, "0123456789abcdef") == ""
}
