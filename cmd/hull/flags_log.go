package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/docker/go-units"

	"github.com/hullvm/hull/cmd/internal/engine"
)

// parseLog reads --log-driver and --log-opt.
func parseLog(driver string, options []string) (engine.LogConfig, error) {
	c := engine.LogConfig{Driver: driver}
	for _, option := range options {
		key, value, _ := strings.Cut(option, "=")
		var err error
		switch key {
		case "max-size":
			c.MaxSize, err = units.FromHumanSize(value) // of 1,000 bytes a kB, as docker has it here
		case "max-file":
			c.MaxFiles, err = strconv.Atoi(value)
		case "mode", "compress", "labels", "env", "tag": // docker's others, which change nothing that can be seen here
		default:
			return c, fmt.Errorf("unknown log opt '%s' for %s log driver", key, driver)
		}
		if err != nil || key == "max-size" && c.MaxSize <= 0 || key == "max-file" && c.MaxFiles <= 0 {
			return c, fmt.Errorf("--log-opt %s: invalid value %q", key, value)
		}
	}
	return c, nil
}
