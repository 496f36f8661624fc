package engine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/hullvm/hull/vmm/jail"
)

// Dirs says where on this host things are kept. All paths are absolute.
type Dirs struct {
	Data  string // images and containers: kept
	Run   string // sockets and locks of what lives: gone with the next boot of the host
	Cache string // what can be unpacked again
}

// Directories answers where hull keeps its things for a process with this
// environment and user ID. $HULL_DATA_DIR, $HULL_RUN_DIR and $HULL_CACHE_DIR
// win; then root has the system's places and everybody else those of the XDG
// base directory specification.
func Directories(getenv func(string) string, uid int) (Dirs, error) {
	d := Dirs{
		Data:  getenv("HULL_DATA_DIR"),
		Run:   getenv("HULL_RUN_DIR"),
		Cache: getenv("HULL_CACHE_DIR"),
	}
	home := getenv("HOME")
	inHome := func(xdg, fallback string) (string, error) {
		if dir := getenv(xdg); dir != "" {
			return filepath.Join(dir, "hull"), nil
		}
		if home == "" {
			return "", fmt.Errorf("neither $%s nor $HOME is set: cannot tell where to keep things", xdg)
		}
		return filepath.Join(home, fallback, "hull"), nil
	}
	var err error
	if d.Data == "" && uid == 0 {
		d.Data = "/var/lib/hull"
	} else if d.Data == "" {
		if d.Data, err = inHome("XDG_DATA_HOME", ".local/share"); err != nil {
			return Dirs{}, err
		}
	}
	switch {
	case d.Run != "":
	case uid == 0:
		d.Run = "/run/hull"
	case getenv("XDG_RUNTIME_DIR") != "":
		d.Run = filepath.Join(getenv("XDG_RUNTIME_DIR"), "hull")
	default:
		// No session manager made a runtime directory. A private directory
		// with the user's ID in its name is what others fall back to as well.
		d.Run = filepath.Join(os.TempDir(), "hull-"+strconv.Itoa(uid))
	}
	switch {
	case d.Cache != "":
	case uid == 0 && home == "" && getenv("XDG_CACHE_HOME") == "":
		d.Cache = "/var/cache/hull"
	default:
		if d.Cache, err = inHome("XDG_CACHE_HOME", ".cache"); err != nil {
			return Dirs{}, err
		}
	}
	for _, dir := range []*string{&d.Data, &d.Run, &d.Cache} {
		if *dir, err = filepath.Abs(*dir); err != nil {
			return Dirs{}, fmt.Errorf("finding hull's directories: %w", err)
		}
	}
	return d, nil
}

// ErrForeignDir is wrapped by errors about a directory that somebody else owns
// or can write to.
var ErrForeignDir = errors.New("not private to this user")

// makePrivate creates dir, with its parents, for this user alone. One that
// exists must belong to this user and be closed to others: whoever could write
// to it could choose what hull runs.
func makePrivate(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("creating directory %s: %w", dir, err)
	}
	return checkPrivate(dir)
}

// makeCommon creates dir like makePrivate. VM processes that are users of their own may remove from it what is theirs.
func makeCommon(dir string) error {
	if err := makePrivate(dir); err != nil || !jail.OwnUsers() {
		return err
	}
	if err := jail.Open(dir); err != nil && !noOwners(err) {
		return fmt.Errorf("opening directory %s to VM processes: %w", dir, err)
	}
	return nil
}

// noOwners tells whether an error means that other users cannot own files here: in a user namespace without them, or on a file system that
// keeps no owners.
func noOwners(err error) bool {
	return errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.EPERM) || errors.Is(err, errors.ErrUnsupported)
}

func checkPrivate(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("checking directory %s: %w", dir, err)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || !ok || int(stat.Uid) != os.Geteuid() {
		return fmt.Errorf("checking directory %s: %w: not a directory of user %d", dir, ErrForeignDir, os.Geteuid())
	}
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		if open, err := jail.IsOpen(dir); err == nil && open {
			return nil
		}
		return fmt.Errorf("checking directory %s: %w: others may write to it (mode %04o); chmod go-w it", dir, ErrForeignDir, mode)
	}
	return nil
}
