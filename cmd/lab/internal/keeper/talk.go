package keeper

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/gofrs/flock"

	"github.com/hullvm/hull/cmd/lab/internal/wire"
)

// Dial opens a stream to the machine, through its keeper.
func (p Place) Dial() (*net.UnixConn, error) {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: p.path(".sock"), Net: "unix"})
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, fmt.Errorf("lab %s: %w", p.name, ErrNone)
	}
	if err != nil {
		return nil, fmt.Errorf("lab %s: %w", p.name, err)
	}
	return conn, nil
}

// Status asks for the machine's status.
func (p Place) Status() (wire.Status, error) {
	var status wire.Status
	conn, err := p.Dial()
	if err != nil {
		return status, err
	}
	defer conn.Close()
	if err := wire.Write(conn, wire.KindStatus, nil); err != nil {
		return status, fmt.Errorf("lab %s: %w", p.name, err)
	}
	_, payload, err := wire.Read(conn)
	if err == nil {
		err = json.Unmarshal(payload, &status)
	}
	if err != nil {
		return status, fmt.Errorf("lab %s: asking for its status: %w", p.name, err)
	}
	return status, nil
}

// Stop ends the machine and returns when nothing of it is left.
func (p Place) Stop() error {
	conn, err := p.Dial()
	if err != nil {
		p.sweep()
		return err
	}
	defer conn.Close()
	if err := wire.Write(conn, wire.KindStop, nil); err != nil {
		return fmt.Errorf("lab %s: %w", p.name, err)
	}
	_, _ = io.Copy(io.Discard, conn)
	lock := flock.New(p.path(".lock"))
	if err := lock.Lock(); err != nil {
		return fmt.Errorf("lab %s: %w", p.name, err)
	}
	p.remove()
	return lock.Unlock()
}

// sweep removes what a killed keeper left behind.
func (p Place) sweep() {
	lock := flock.New(p.path(".lock"))
	if locked, err := lock.TryLock(); err == nil && locked {
		p.remove()
		_ = lock.Unlock()
	}
}

func (p Place) remove() {
	for _, suffix := range []string{".sock", ".log", ".lock"} {
		os.Remove(p.path(suffix))
	}
}

// Places lists the machines that may be running in the directory of p.
func (p Place) Places() []Place {
	socks, _ := filepath.Glob(filepath.Join(p.dir, "*.sock"))
	var places []Place
	for _, sock := range socks {
		places = append(places, Place{p.dir, strings.TrimSuffix(filepath.Base(sock), ".sock")})
	}
	return places
}

// Name is the machine's name.
func (p Place) Name() string { return p.name }

// checkPrivate reports a directory that other users could have prepared.
func checkPrivate(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || !ok || int(stat.Uid) != os.Getuid() || info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("lab: %s: want a directory of this user's with mode 0700", dir)
	}
	return nil
}
