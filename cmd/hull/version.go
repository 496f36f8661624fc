package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func newVersion(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Show the version of hull",
		Example: "  hull version",
		Args:    exactArgs(0),
		RunE: func(cmd *cobra.Command, args []string) error {
			build := readBuild()
			fmt.Fprintf(a.stdout, "hull version %s\n Git commit:  %s\n Committed:   %s\n Go version:  %s\n OS/Arch:     %s/%s\n",
				build.version, build.commit, build.time, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return nil
		},
	}
}

// version is set by the linker: -X main.version=v1.2.3.
var version string

// build says which source a program was made from, as the Go tool noted it.
type build struct {
	version, commit, time string
}

func readBuild() build {
	b := build{version: version, commit: "unknown", time: "unknown"}
	info, ok := debug.ReadBuildInfo()
	if b.version == "" {
		b.version = "unknown"
		if ok && info.Main.Version != "" {
			b.version = info.Main.Version
		}
	}
	if !ok {
		return b
	}
	modified := ""
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.commit = s.Value[:min(len(s.Value), 12)]
		case "vcs.time":
			b.time = s.Value
		case "vcs.modified":
			if s.Value == "true" {
				modified = " (modified)"
			}
		}
	}
	b.commit += modified
	return b
}

func versionString() string { return readBuild().version }
