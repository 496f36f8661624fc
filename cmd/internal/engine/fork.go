package engine

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// forking is how many containers are forked at a time.
const forking = 4

// Fork makes n running copies of a running container, which goes on. Each is a container of its own: with another name, prefix
// and a number, address and identity, and with ports of its own where the source's are published at fixed ones. It reports each
// as it runs, in any order, never two at a time.
func (e *Engine) Fork(ctx context.Context, ref, prefix string, n int, report func(id string)) error {
	r, err := e.Get(ctx, ref)
	if err != nil {
		return err
	}
	if prefix == "" {
		prefix = r.Name
	}
	place, err := forkPlace(filepath.Join(e.store.dir(r.ID), checkpointsName))
	if err != nil {
		return fmt.Errorf("fork: %w", err)
	}
	defer place.Close()
	defer os.RemoveAll(place.Name()) // the copies have it mapped
	dir := filepath.Join(place.Name(), "saved")
	if err := e.saveContainer(ctx, r, dir, false); err != nil {
		return err
	}
	saved, err := readCheckpoint(dir)
	if err != nil {
		return err
	}
	c := &saved.Container.Config
	c.MAC, c.Ports = MAC{}, anyPorts(c.Ports)
	names, err := e.freeNames(ctx, prefix, n)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var errs []error
	slots := make(chan struct{}, forking)
	var work sync.WaitGroup
	for _, name := range names {
		slots <- struct{}{}
		work.Go(func() {
			defer func() { <-slots }()
			id, err := e.forkOne(ctx, saved, name)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, fmt.Errorf("fork %s: %w", name, err))
				return
			}
			report(id)
		})
	}
	work.Wait()
	return errors.Join(errs...)
}

// anyPorts are the ports of a copy: at any port of the host.
func anyPorts(ports []PortBinding) []PortBinding {
	var out []PortBinding
	for _, p := range ports {
		p.Host, p.HostEnd = netip.AddrPortFrom(p.Host.Addr(), 0), 0
		out = append(out, p)
	}
	return out
}

// forkOne makes one copy. Nothing is left of one that does not start.
func (e *Engine) forkOne(ctx context.Context, saved *checkpoint, name string) (string, error) {
	c, err := e.createFrom(ctx, saved, name)
	if err != nil {
		return "", err
	}
	_, err = c.Start(ctx, StartOptions{})
	if err = errors.Join(err, c.Release(ctx)); err == nil {
		return c.ID(), nil
	}
	removed := e.Remove(context.WithoutCancel(ctx), c.ID(), true)
	if errors.Is(removed, ErrNoContainer) {
		removed = nil // it goes when it ends
	}
	return "", errors.Join(err, removed)
}

// forkPlace makes a directory for what copies are made of, held as long as it is open. What a fork that was killed has left
// beside it goes.
func forkPlace(parent string) (*os.File, error) {
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(parent)
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil || !strings.HasPrefix(entry.Name(), newPrefix) || time.Since(info.ModTime()) < newPatience {
			continue
		}
		if f, err := os.Open(filepath.Join(parent, entry.Name())); err == nil {
			if flock(f, unix.LOCK_EX) == nil {
				_ = os.RemoveAll(f.Name()) // what cannot be removed now can be next time
			}
			f.Close()
		}
	}
	dir, err := os.MkdirTemp(parent, newPrefix)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(dir)
	if err == nil {
		if err = flock(f, unix.LOCK_EX); err == nil {
			return f, nil
		}
		f.Close()
	}
	return nil, errors.Join(err, os.Remove(dir))
}

// freeNames finds n names that begin with prefix and end with a number.
func (e *Engine) freeNames(ctx context.Context, prefix string, n int) ([]string, error) {
	all, err := e.List(ctx)
	if err != nil {
		return nil, err
	}
	taken := make(map[string]bool)
	for _, r := range all {
		if strings.HasPrefix(r.Name, prefix) {
			taken[r.Name] = true
		}
	}
	var names []string
	for i := 1; len(names) < n; i++ {
		name := fmt.Sprintf("%s-%d", prefix, i)
		if err := CheckName(name); err != nil {
			return nil, err
		}
		if !taken[name] {
			names = append(names, name)
		}
	}
	return names, nil
}
