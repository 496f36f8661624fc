package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"github.com/hullvm/hull/images"
)

func newSave(a *app) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "save [OPTIONS] IMAGE [IMAGE...]",
		Short: "Write images to an archive",
		Long: `Write images to a tar that is both what docker save writes and an OCI image layout,
for hull load, docker load, podman and skopeo. It goes to standard output unless
--output names a file. An image that is named without a tag is saved with all tags.`,
		Example: `  hull save -o images.tar debian:12 app:1
  hull save app:1 | ssh host.example hull load
  hull save -o app.tar app:1 && skopeo copy docker-archive:app.tar oci:layout:1`,
		Args:              minArgs(1),
		ValidArgsFunction: completeImages(a),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output == "" && isTerminal(a.stdout) {
				return errors.New("cowardly refusing to save to a terminal. Use the -o flag or redirect")
			}
			store, err := a.images()
			if err != nil {
				return err
			}
			if output == "" {
				// An interrupt just ends this: nothing is left behind, and whoever reads may not go on.
				return store.Save(cmd.Context(), a.stdout, args, images.SaveOptions{})
			}
			ctx, stop := interruptible(cmd)
			defer stop()
			view := newProgress(a, a.stderr, !isTerminal(a.stderr))
			err = saveFile(output, func(w io.Writer) error {
				return store.Save(ctx, w, args, images.SaveOptions{Progress: view})
			})
			view.close()
			if err == nil {
				err = ctx.Err()
			}
			return err
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "Write to this `file`, which is replaced when all is written")
	return cmd
}

// saveFile replaces the file at path by what write writes, or leaves it as it is
// after an error. What is no regular file, such as a pipe, is written to.
func saveFile(path string, write func(io.Writer) error) error {
	info, err := os.Stat(path)
	switch {
	case err == nil && info.IsDir():
		return fmt.Errorf("%s: it is a directory", path)
	case err == nil && !info.Mode().IsRegular():
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		return errors.Join(write(f), f.Close())
	}
	f, err := renameio.NewPendingFile(path, renameio.WithPermissions(0o600), renameio.WithExistingPermissions())
	if err != nil {
		return err
	}
	defer f.Cleanup()
	if err := write(f); err != nil {
		return err
	}
	return f.CloseAtomicallyReplace()
}
