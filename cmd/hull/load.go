package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/hullvm/hull/images"
)

func newLoad(a *app) *cobra.Command {
	var input, platform string
	var quiet bool
	cmd := &cobra.Command{
		Use:   "load [OPTIONS]",
		Short: "Load images from an archive",
		Long: `Load images from what docker save writes, or from an OCI image layout: a tar, plain
or compressed with gzip or zstd, or a directory. Without --input it comes from
standard input. Either all images of the archive are loaded or none.`,
		Example: `  docker save debian:12 | hull load
  hull load -i image.tar.zst
  hull load -i oci-layout/`,
		Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, args []string) error {
			if input == "" && isTerminal(a.stdin) {
				return &usageError{cmd.CommandPath(), errors.New("requested load from stdin, but stdin is empty")}
			}
			store, err := a.images()
			if err != nil {
				return err
			}
			ctx, stop := interruptible(cmd)
			defer stop()
			// The result goes to standard output; what happens until then does not.
			view := newProgress(a, a.stderr, quiet || !isTerminal(a.stderr))
			options := images.LoadOptions{Progress: view, Platform: platform}
			var loaded []*images.Image
			if input == "" {
				loaded, err = store.Load(ctx, a.stdin, options)
			} else {
				loaded, err = store.LoadPath(ctx, input, options)
			}
			view.close()
			if err != nil {
				return err
			}
			for _, image := range loaded {
				names := imageNames(image)
				if len(names) == 0 {
					fmt.Fprintf(a.stdout, "Loaded image ID: %s\n", image.ID)
				}
				for _, name := range names {
					fmt.Fprintf(a.stdout, "Loaded image: %s\n", name)
				}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVarP(&input, "input", "i", "", "Read from this `file` or directory")
	f.BoolVarP(&quiet, "quiet", "q", false, "Do not show progress")
	f.StringVar(&platform, "platform", "", "`Platform` to choose where an archive has several")
	return cmd
}

func newImport(a *app) *cobra.Command {
	var changes []string
	var message, platform string
	cmd := &cobra.Command{
		Use:   "import [OPTIONS] FILE|- [NAME[:TAG]]",
		Short: "Make an image of a root filesystem's tar",
		Long: `Make an image of one layer from the tar of a root filesystem, plain or compressed
with gzip, zstd or xz. Its ID is printed.`,
		Example: `  hull import rootfs.tar.xz debian:mine
  tar -C rootfs -c . | hull import -c 'CMD ["bash"]' -c 'ENV LANG=C.UTF-8' - debian:mine`,
		Args: func(cmd *cobra.Command, args []string) error {
			return errors.Join(minArgs(1)(cmd, args), maxArgs(2)(cmd, args))
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			in := a.stdin
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return err
				}
				defer f.Close()
				in = f
			}
			store, err := a.images()
			if err != nil {
				return err
			}
			ctx, stop := interruptible(cmd)
			defer stop()
			view := newProgress(a, a.stderr, !isTerminal(a.stderr))
			options := images.ImportOptions{Progress: view, Changes: changes, Message: message, Platform: platform}
			if len(args) == 2 {
				options.Reference = args[1]
			}
			image, err := store.Import(ctx, in, options)
			view.close()
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			fmt.Fprintln(a.stdout, image.ID)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringArrayVarP(&changes, "change", "c", nil, "Set part of the image's configuration: a Dockerfile `instruction`")
	f.StringVarP(&message, "message", "m", "", "`Text` for the image's history")
	f.StringVar(&platform, "platform", "", "`Platform` that the filesystem is for")
	return cmd
}
