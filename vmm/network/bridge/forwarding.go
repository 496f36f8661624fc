package bridge

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Setting is a setting of this host's kernel, below /proc/sys.
type Setting struct {
	Name     string
	Old, New string // Old: what it is before it is changed
}

const sysctls = "/proc/sys"

// Forwarding lists what is to be changed so that this host's kernel passes packets on, as a router does: nothing where that is so
// already.
//
// A host that routes IPv6 takes no default route of its own from router advertisements any more, unless it is told to.
func Forwarding(ipv6 bool) ([]Setting, error) { return forwarding(sysctls, ipv6) }

func forwarding(root string, ipv6 bool) ([]Setting, error) {
	wanted := []Setting{{"net/ipv4/ip_forward", "0", "1"}}
	if ipv6 {
		accept, err := filepath.Glob(filepath.Join(root, "net/ipv6/conf/*/accept_ra"))
		if err != nil {
			return nil, err
		}
		for _, path := range accept {
			// What is to come is not to listen to routers for that: taps will.
			if name := filepath.Base(filepath.Dir(path)); name != "all" && name != "default" && name != "lo" {
				wanted = append(wanted, Setting{strings.TrimPrefix(path, root+"/"), "1", "2"})
			}
		}
		wanted = append(wanted, Setting{"net/ipv6/conf/all/forwarding", "0", "1"})
	}
	var changes []Setting
	for _, s := range wanted {
		now, err := os.ReadFile(filepath.Join(root, s.Name))
		switch {
		case errors.Is(err, os.ErrNotExist): // an interface that has just gone, or no IPv6
		case err != nil:
			return nil, fmt.Errorf("having this host pass packets on: %w", err)
		case strings.TrimSpace(string(now)) == s.Old:
			changes = append(changes, s)
		}
	}
	return changes, nil
}

// Change makes the settings what they are to be; back, what they were, in the reverse order.
func Change(list []Setting, back bool) error { return change(sysctls, list, back) }

func change(root string, list []Setting, back bool) error {
	var errs []error
	list = slices.Clone(list)
	if back {
		slices.Reverse(list)
	}
	for _, s := range list {
		value := s.New
		if back {
			value = s.Old
		}
		if !filepath.IsLocal(s.Name) || !strings.HasPrefix(s.Name, "net/") {
			continue // no setting of Forwarding's
		}
		if err := os.WriteFile(filepath.Join(root, s.Name), []byte(value), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("setting %s: %w", s.Name, explain(err)))
		}
	}
	return errors.Join(errs...)
}
