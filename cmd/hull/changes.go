package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/hullvm/hull/cmd/internal/engine"
	"github.com/hullvm/hull/images"
)

func newDiff(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "diff CONTAINER",
		Short: "Show what a container has changed",
		Long: `Show which files of a container, running or not, are not as in its image: A were added,
C changed, D deleted. A directory is listed with what has changed in it.`,
		Example:           `  hull diff web`,
		Args:              exactArgs(1),
		ValidArgsFunction: completeFirst(completeContainers(a)),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			ctx, stop := interruptible(cmd)
			defer stop()
			out := bufio.NewWriter(a.stdout)
			err = e.Diff(ctx, args[0], func(c engine.FileChange) error {
				_, err := fmt.Fprintf(out, "%s %s\n", c.Kind, clean(c.Path))
				return err
			})
			if err != nil {
				return err
			}
			return out.Flush()
		},
	}
}

func newExport(a *app) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "export [OPTIONS] CONTAINER",
		Short: "Write a container's filesystem as a tar",
		Long: `Write the whole root filesystem of a container, running or not, as a tar to standard output
or to a file, without what is mounted in it.`,
		Example: `  hull export web | tar -tv
  hull export -o web.tar web`,
		Args:              exactArgs(1),
		ValidArgsFunction: completeFirst(completeContainers(a)),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if output == "" && isTerminal(a.stdout) {
				return errTerminalOutput
			}
			e, err := a.engine()
			if err != nil {
				return err
			}
			ctx, stop := interruptible(cmd)
			defer stop()
			if output == "" {
				return e.Export(ctx, args[0], a.stdout)
			}
			return writeWhole(output, func(f *os.File) error { return e.Export(ctx, args[0], f) })
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "Write to this `file`")
	return cmd
}

// writeWhole writes a file that is there whole or not at all.
func writeWhole(path string, write func(*os.File) error) (err error) {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("failed to write %s: it is no regular file", path)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".hull-")
	if err != nil {
		return err
	}
	defer func() {
		f.Close()
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	if err := write(f); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func newCommit(a *app) *cobra.Command {
	o := engine.CommitOptions{Pause: true}
	cmd := &cobra.Command{
		Use:   "commit [OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
		Short: "Make an image of what a container has changed",
		Long: `Make an image of a container, running or not: the layers of its image and one with what
the container has changed. Its ID is printed. Volumes are not part of it.`,
		Example: `  hull commit web web:patched
  hull commit -m 'with curl' -c 'CMD ["sh"]' -c 'ENV LANG=C.UTF-8' web`,
		Args: func(cmd *cobra.Command, args []string) error {
			if err := minArgs(1)(cmd, args); err != nil {
				return err
			}
			return maxArgs(2)(cmd, args)
		},
		ValidArgsFunction: completeFirst(completeContainers(a)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 2 {
				o.Reference = args[1]
				if _, err := images.ParseReference(o.Reference); err != nil { // before a VM is booted for it
					return err
				}
			}
			e, err := a.engine()
			if err != nil {
				return err
			}
			ctx, stop := interruptible(cmd)
			defer stop()
			view := newProgress(a, a.stderr, !isTerminal(a.stderr))
			o.Progress = view
			image, err := e.Commit(ctx, args[0], o)
			view.close()
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(a.stdout, image.ID)
			return err
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.Author, "author", "a", "", "`Name` for the image's history")
	f.StringVarP(&o.Message, "message", "m", "", "`Text` for the image's history")
	f.StringArrayVarP(&o.Changes, "change", "c", nil, "Set part of the image's configuration: a Dockerfile `instruction`")
	f.BoolVarP(&o.Pause, "pause", "p", true, "Pause the container meanwhile")
	return cmd
}
