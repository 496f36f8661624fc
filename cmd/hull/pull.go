package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/hullvm/hull/cmd/internal/engine"
	"github.com/hullvm/hull/images"
)

func newPull(a *app) *cobra.Command {
	var quiet, insecure bool
	var platform string
	cmd := &cobra.Command{
		Use:   "pull [OPTIONS] NAME[:TAG|@DIGEST]",
		Short: "Fetch an image from its registry",
		Long: `Fetch an image from its registry. A pull that is cut short goes on, the next time,
from where it was. Credentials are those of hull login, which are docker's.`,
		Example: `  hull pull debian:12
  hull pull -q --platform linux/amd64 registry.example/app:1.2`,
		Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			ctx, stop := interruptible(cmd)
			defer stop()
			return pull(ctx, a, e, args[0], pullOptions{out: a.stdout, quiet: quiet, insecure: insecure, platform: platform, name: true})
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&quiet, "quiet", "q", false, "Show the image's name only")
	f.BoolVar(&insecure, "insecure", false, "Allow plain HTTP and unknown certificates")
	f.StringVar(&platform, "platform", "", "`Platform` of the image; only linux/amd64 can be run")
	return cmd
}

type pullOptions struct {
	out      *os.File // where to show what happens
	quiet    bool
	name     bool // end with the image's full name, as the command does
	insecure bool
	platform string
}

// pull fetches an image and shows it as docker does.
func pull(ctx context.Context, a *app, e *engine.Engine, given string, o pullOptions) error {
	ref, err := images.ParseReference(given)
	if err != nil {
		return err
	}
	store, err := e.Images()
	if err != nil {
		return err
	}
	if !o.quiet {
		if given == ref.FamiliarRepository() {
			fmt.Fprintf(o.out, "Using default tag: %s\n", ref.Tag)
		}
		tag := ref.Tag
		if tag == "" {
			tag = ref.Digest
		}
		fmt.Fprintf(o.out, "%s: Pulling from %s\n", tag, ref.Path)
	}
	view := newProgress(a, o.out, o.quiet)
	_, pulled, err := store.Pull(ctx, given, images.PullOptions{Progress: view, Insecure: o.insecure, Platform: o.platform})
	view.close()
	if err != nil {
		return deniedHint(err, ref)
	}
	if !o.quiet {
		fmt.Fprintf(o.out, "Digest: %s\n", pulled.Digest)
		status := "Downloaded newer image for"
		if pulled.UpToDate {
			status = "Image is up to date for"
		}
		fmt.Fprintf(o.out, "Status: %s %s\n", status, ref.Familiar())
	}
	if o.name {
		fmt.Fprintln(o.out, ref)
	}
	return nil
}
