package main

import (
	"cmp"
	"encoding/csv"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"

	"github.com/hullvm/hull/cmd/internal/engine"
)

// addMounts adds what -v and --mount gave to the configuration.
func (f *runFlags) addMounts(c *engine.Config) error {
	for _, given := range f.volumes {
		m, err := parseVolume(given)
		if err != nil {
			return fmt.Errorf("invalid volume specification %q: %w", given, err)
		}
		c.Mounts = append(c.Mounts, m)
	}
	c.VolumesFrom = f.volumesFrom
	for _, given := range f.volumesFrom {
		if ref, mode, _ := strings.Cut(given, ":"); ref == "" || !slices.Contains([]string{"", "ro", "rw"}, mode) {
			return fmt.Errorf("invalid volumes-from %q: want CONTAINER, with :ro for reading only", given)
		}
	}
	for _, given := range f.mounts {
		if err := addMount(c, given); err != nil {
			return fmt.Errorf("--mount %q: %w", given, err)
		}
	}
	return nil
}

// parseVolume reads what docker's -v takes: [SOURCE:]TARGET[:OPTIONS], where a source without a separator in it is the name
// of a volume, and without a source the volume has none.
func parseVolume(given string) (engine.Mount, error) {
	fields := strings.Split(given, ":")
	switch {
	case len(fields) == 1 && filepath.IsAbs(given):
		return engine.AnonymousMount(given), nil
	case len(fields) == 1:
		return engine.Mount{}, errors.New("the target must be an absolute path")
	case len(fields) > 3:
		return engine.Mount{}, errors.New("too many colons")
	case slices.Contains(fields, ""):
		return engine.Mount{}, errors.New("a part of it is empty")
	}
	m := engine.Mount{Source: fields[0], Target: fields[1], Create: true}
	if strings.HasPrefix(m.Source, ".") || filepath.IsAbs(m.Source) {
		var err error
		if m.Source, err = filepath.Abs(m.Source); err != nil {
			return m, err
		}
	} else {
		m.Volume, m.Create = true, false
	}
	if len(fields) == 3 {
		for option := range strings.SplitSeq(fields[2], ",") {
			if err := mountOption(&m, option); err != nil {
				return m, err
			}
		}
	}
	if m.NoCopy && !m.Volume {
		return m, errors.New(`option "nocopy": only volumes are filled on first use`)
	}
	return m, nil
}

// mountOption applies one of docker's options of -v. Those about labels of SELinux mean nothing in a VM.
func mountOption(m *engine.Mount, option string) error {
	switch option {
	case "ro", "readonly":
		m.ReadOnly = true
	case "nocopy":
		m.NoCopy = true
	case "rw", "z", "Z", "private", "rprivate", "consistent", "default":
	case "cached", "delegated":
		m.Cache = true
	case "shared", "rshared", "slave", "rslave":
		return fmt.Errorf("option %q: mounts do not spread between a VM and its host", option)
	default:
		return fmt.Errorf("unknown option %q", option)
	}
	return nil
}

// addMount reads what docker's --mount takes: KEY=VALUE pairs, as a line of CSV.
func addMount(c *engine.Config, given string) error {
	fields, err := csv.NewReader(strings.NewReader(given)).Read()
	if err != nil {
		return err
	}
	kind := "volume"
	var m engine.Mount
	var tmpfs []string
	onlyVolume := "" // a key that was given, of volumes only
	for _, field := range fields {
		key, value, hasValue := strings.Cut(field, "=")
		switch key = strings.ToLower(key); key {
		case "type":
			kind = strings.ToLower(value)
		case "source", "src":
			m.Source = value
		case "target", "dst", "destination":
			m.Target = value
		case "readonly", "ro":
			m.ReadOnly = true
			if hasValue {
				if m.ReadOnly, err = strconv.ParseBool(value); err != nil {
					return fmt.Errorf("invalid value for %s: %s", key, value)
				}
			}
		case "consistency", "bind-propagation":
			if err := mountOption(&m, strings.ToLower(value)); err != nil {
				return err
			}
		case "volume-nocopy":
			if m.NoCopy, err = strconv.ParseBool(cmp.Or(value, "true")); err != nil {
				return fmt.Errorf("invalid value for %s: %s", key, value)
			}
			onlyVolume = key
		case "volume-opt", "volume-label":
			onlyVolume = key
			name, option, _ := strings.Cut(value, "=")
			if name == "" {
				return fmt.Errorf("invalid value for %s: %q: want %s=NAME=VALUE", key, value, key)
			}
			set := &m.Options
			if key == "volume-label" {
				set = &m.Labels
			}
			if *set == nil {
				*set = make(map[string]string)
			}
			(*set)[name] = option
		case "volume-driver":
			onlyVolume = key
			if value != engine.DriverLocal {
				return fmt.Errorf("volume driver %q: there is %q", value, engine.DriverLocal)
			}
		case "tmpfs-size":
			size, err := units.RAMInBytes(value)
			if err != nil {
				return fmt.Errorf("invalid value for %s: %s", key, value)
			}
			tmpfs = append(tmpfs, fmt.Sprintf("size=%d", size))
		case "tmpfs-mode":
			mode, err := strconv.ParseUint(value, 8, 12)
			if err != nil {
				return fmt.Errorf("invalid value for %s: %s", key, value)
			}
			tmpfs = append(tmpfs, fmt.Sprintf("mode=%o", mode))
		default:
			return fmt.Errorf("unexpected key %q", key)
		}
	}
	if m.Target == "" {
		return errors.New("target is required")
	}
	if onlyVolume != "" && kind != "volume" {
		return fmt.Errorf("%s with type %q: it is of volumes", onlyVolume, kind)
	}
	if kind != "tmpfs" && len(tmpfs) > 0 {
		return fmt.Errorf("options of a tmpfs with type %q", kind)
	}
	switch kind {
	case "bind":
		if m.Source == "" {
			return errors.New("source is required")
		}
		// It must exist, unlike that of -v.
		if m.Source, err = filepath.Abs(m.Source); err != nil {
			return err
		}
		if _, err := os.Stat(m.Source); err != nil {
			return fmt.Errorf("bind source path does not exist: %s", m.Source)
		}
	case "volume":
		if m.Volume = true; m.Source == "" {
			m.Source, m.Anonymous = engine.AnonymousMount(m.Target).Source, true
		}
	case "tmpfs":
		return addTmpfs(c, m, tmpfs)
	default:
		return fmt.Errorf("type %q: must be bind, volume or tmpfs", kind)
	}
	c.Mounts = append(c.Mounts, m)
	return nil
}

func addTmpfs(c *engine.Config, m engine.Mount, options []string) error {
	if m.Source != "" {
		return errors.New("a tmpfs has no source")
	}
	if m.ReadOnly {
		options = append(options, "ro")
	}
	if _, twice := c.Tmpfs[m.Target]; twice {
		return fmt.Errorf("duplicate mount point: %s", m.Target)
	}
	if c.Tmpfs == nil {
		c.Tmpfs = make(map[string]string)
	}
	c.Tmpfs[m.Target] = strings.Join(options, ",")
	return nil
}

// parseShare reads what --share takes: PATH:TAG[:ro].
func parseShare(given string) (engine.BootShare, error) {
	rest, readOnly := strings.CutSuffix(given, ":ro")
	rest = strings.TrimSuffix(rest, ":rw")
	at := strings.LastIndexByte(rest, ':')
	if at < 1 || at == len(rest)-1 {
		return engine.BootShare{}, fmt.Errorf("--share %q: want PATH:TAG, with :ro for a read-only one", given)
	}
	return engine.BootShare{Path: rest[:at], Tag: rest[at+1:], ReadOnly: readOnly}, nil
}
