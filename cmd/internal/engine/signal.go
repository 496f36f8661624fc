package engine

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ErrSignal is wrapped by errors about signals that do not exist.
var ErrSignal = errors.New("invalid signal")

// ParseSignal reads a signal's name, with or without SIG, or its number.
func ParseSignal(s string) (unix.Signal, error) {
	if n, err := strconv.Atoi(s); err == nil {
		if n < 1 || n > 64 {
			return 0, fmt.Errorf("%w: %s", ErrSignal, s)
		}
		return unix.Signal(n), nil
	}
	name := strings.ToUpper(s)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if n := unix.SignalNum(name); n != 0 {
		return n, nil
	}
	for base, n := range map[string]int{"SIGRTMIN": 34, "SIGRTMAX": 64} {
		rest, ok := strings.CutPrefix(name, base)
		if !ok {
			continue
		}
		offset := 0
		if rest != "" {
			var err error
			if offset, err = strconv.Atoi(rest); err != nil {
				break
			}
		}
		if n += offset; n >= 34 && n <= 64 {
			return unix.Signal(n), nil
		}
	}
	return 0, fmt.Errorf("%w: %s", ErrSignal, s)
}

// stopSignal asks the container to stop: what the user said, or the image, or SIGTERM.
func (r *Record) stopSignal() unix.Signal {
	for _, name := range []string{r.Config.StopSignal, r.ImageConfig.StopSignal} {
		if name == "" {
			continue
		}
		if signal, err := ParseSignal(name); err == nil {
			return signal
		}
	}
	return unix.SIGTERM
}

// stopTimeout is how long the container may take to stop; negative: any time.
func (r *Record) stopTimeout() time.Duration {
	if r.Config.StopTimeout != nil {
		return *r.Config.StopTimeout
	}
	return DefaultStopTimeout
}
