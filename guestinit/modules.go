package guestinit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// loadModules loads the modules that the host has put into dir for a kernel that
// does not have everything built in. Their names begin with numbers that put them
// in the order in which they need each other. One that fails is reported and
// passed over: what needs it will say so.
func loadModules(dir string, say func(string)) {
	entries, err := os.ReadDir(dir) // sorted by name
	if err != nil {
		return
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".ko") {
			continue
		}
		path := filepath.Join(dir, e.Name())
		if err := loadModule(path); err != nil {
			say(fmt.Sprintf("loading the module %s: %v", path, err))
		}
		// A loaded module's file is memory for nothing.
		_ = os.Remove(path)
	}
}

func loadModule(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.FinitModule(fd, "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}
