package main

import (
	"context"
	"errors"
	"path/filepath"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/hullvm/hull/cmd/internal/engine"
)

func newCopy(a *app) *cobra.Command {
	var o engine.CopyOptions
	var quiet bool
	cmd := &cobra.Command{
		Use: `cp [OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-
  hull cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH`,
		Short: "Copy files between a container and this host",
		Long: `Copy files and directories between a container, running or not, and this host. "-" is a
tar on standard output or input. Directories are copied whole; "/." at the end of a source
stands for what the directory has. A path that contains a colon begins with / or ./.

A copy belongs to root in the container and to you on this host, unless --archive keeps
user and group. On this host it has no set-user-ID and set-group-ID bits, and devices are
left out. The VM of a container that does not run is booted for the copy.`,
		Example: `  hull cp web:/etc/hosts .
  hull cp site/. web:/srv
  hull cp web:/etc - | tar -tv`,
		Args:              exactArgs(2),
		ValidArgsFunction: completeCopied(a),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			ctx, stop := interruptible(cmd)
			defer stop()
			o.Skipped = func(name string) { a.say("%s: %s is a device, which is left out", cmd.CommandPath(), clean(name)) }
			to, moved, err := copyFiles(ctx, a, e, args[0], args[1], o)
			if err == nil && to != "" && !quiet {
				a.say("Successfully copied %s to %s", units.HumanSizeWithPrecision(float64(moved), 3), to)
			}
			return err
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.KeepOwners, "archive", "a", false, "Keep user and group of the source, by number")
	f.BoolVarP(&o.FollowLinks, "follow-link", "L", false, "Copy what a symbolic link at the source leads to")
	f.BoolVarP(&quiet, "quiet", "q", false, "Do not tell what was copied")
	return cmd
}

// copyFiles copies in the direction that the arguments say, and tells where to and how much; "" when there is nothing to tell.
func copyFiles(ctx context.Context, a *app, e *engine.Engine, from, to string, o engine.CopyOptions) (shown string, moved int64, err error) {
	fromContainer, fromPath := splitCopyArg(from)
	toContainer, toPath := splitCopyArg(to)
	switch {
	case fromContainer != "" && toContainer != "":
		return "", 0, errors.New("copying between containers is not supported")
	case fromContainer == "" && toContainer == "":
		return "", 0, errors.New("must specify at least one container source")
	case fromPath == "" || toPath == "":
		return "", 0, errors.New("a path must be given on both sides")
	case toContainer == "" && toPath == "-":
		if isTerminal(a.stdout) {
			return "", 0, errors.New("refusing to write a tar to a terminal: redirect it")
		}
		return "", 0, e.CopyFromTar(ctx, fromContainer, fromPath, a.stdout, o)
	case toContainer == "":
		if shown, err = filepath.Abs(toPath); err == nil {
			moved, err = e.CopyFrom(ctx, fromContainer, fromPath, toPath, o)
		}
		return shown, moved, err
	case fromPath == "-":
		return "", 0, e.CopyToTar(ctx, toContainer, a.stdin, toPath)
	}
	moved, err = e.CopyTo(ctx, toContainer, fromPath, toPath, o)
	return to, moved, err
}

// splitCopyArg takes CONTAINER:PATH apart, by docker's rules: what begins with a slash or a dot is a path of this host.
func splitCopyArg(arg string) (container, path string) {
	if filepath.IsAbs(arg) {
		return "", arg
	}
	container, path, ok := strings.Cut(arg, ":")
	if !ok || strings.HasPrefix(container, ".") {
		return "", arg
	}
	return container, path
}
