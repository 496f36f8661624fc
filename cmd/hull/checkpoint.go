package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/hullvm/hull/cmd/internal/engine"
)

func newCheckpoint(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "checkpoint",
		Short:   "Manage checkpoints of containers",
		Example: "  hull checkpoint ls web",
		Args:    exactArgs(0),
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newCheckpointCreate(a), newCheckpointList(a), newCheckpointRemove(a))
	return cmd
}

const checkpointDirHelp = "`Directory` of the container's checkpoints, if not hull's own"

func newCheckpointCreate(a *app) *cobra.Command {
	var dir string
	var leave bool
	cmd := &cobra.Command{
		Use:   "create [OPTIONS] CONTAINER CHECKPOINT",
		Short: "Save a running container, which ends then",
		Long: `Save all of a running container, its memory and what it has written, under a name.
It ends then, unless --leave-running is given. hull start --checkpoint lets it go on.
Files that it has as disks (--disk) are copied, unless they are read-only. From then on a container that goes
on has its own of these, and the files stay as they are. Volumes and directories of this host are no part of
a checkpoint: they are mounted again as they are by then. A container that writes to a volume which is a disk can
only be saved as it ends, and goes on if nobody has written to that disk since.`,
		Example: `  hull checkpoint create --leave-running web before
  hull checkpoint create web night`,
		Args:              exactArgs(2),
		ValidArgsFunction: completeFirst(completeContainers(a)),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			if err := e.Checkpoint(cmd.Context(), args[0], dir, args[1], leave); err != nil {
				return err
			}
			fmt.Fprintln(a.stdout, args[1])
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "checkpoint-dir", "", checkpointDirHelp)
	cmd.Flags().BoolVar(&leave, "leave-running", false, "Let the container go on")
	return cmd
}

func newCheckpointList(a *app) *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:               "ls [OPTIONS] CONTAINER",
		Aliases:           []string{"list"},
		Short:             "List the checkpoints of a container",
		Example:           "  hull checkpoint ls web",
		Args:              exactArgs(1),
		ValidArgsFunction: completeFirst(completeContainers(a)),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			list, err := e.Checkpoints(cmd.Context(), args[0], dir)
			if err != nil {
				return err
			}
			fmt.Fprintln(a.stdout, "CHECKPOINT NAME")
			for _, c := range list {
				fmt.Fprintln(a.stdout, c.Name)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "checkpoint-dir", "", checkpointDirHelp)
	return cmd
}

func newCheckpointRemove(a *app) *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:               "rm [OPTIONS] CONTAINER CHECKPOINT",
		Aliases:           []string{"remove"},
		Short:             "Remove a checkpoint",
		Example:           "  hull checkpoint rm web before",
		Args:              exactArgs(2),
		ValidArgsFunction: completeFirst(completeContainers(a)),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			return e.RemoveCheckpoint(cmd.Context(), args[0], dir, args[1])
		},
	}
	cmd.Flags().StringVar(&dir, "checkpoint-dir", "", checkpointDirHelp)
	return cmd
}

func newSnapshot(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "snapshot CONTAINER DIRECTORY",
		Short: "Save a running container to a directory",
		Long: `Save all of a running container, its memory and what it has written, to a new directory. The
container goes on. hull restore makes a container of it, on this host or on another one.`,
		Example:           "  hull snapshot web ./web.snapshot",
		Args:              exactArgs(2),
		ValidArgsFunction: completeCommand(completeRunning(a)),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			return e.Snapshot(cmd.Context(), args[0], args[1])
		},
	}
}

func newRestore(a *app) *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "restore [OPTIONS] DIRECTORY",
		Short: "Start a container from what hull snapshot has saved",
		Long: `Make a container that goes on in the background where the saved one was, as a machine of its own: with
other addresses and names, and connections to the outside ended. If this host has not its image, it is pulled
from where it came from. It prints the container's ID.`,
		Example: "  hull restore --name web2 ./web.snapshot",
		Args:    exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			ctx := cmd.Context() // not that of the pull, which ends with it
			c, err := e.Restore(ctx, args[0], name)
			if missing, ok := errors.AsType[*engine.MissingImageError](err); ok && len(missing.Digests) > 0 {
				if err := pullSaved(a, cmd, e, missing); err != nil {
					return err
				}
				c, err = e.Restore(ctx, args[0], name)
			}
			if err != nil {
				return err
			}
			_, err = c.Start(ctx, engine.StartOptions{})
			if releaseErr := c.Release(ctx); err == nil {
				err = releaseErr
			}
			if err == nil {
				fmt.Fprintln(a.stdout, c.ID())
			}
			return err
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "`Name` of the container")
	return cmd
}

// pullSaved gets the image of a container that was saved on another host from one of the registries that had it then.
func pullSaved(a *app, cmd *cobra.Command, e *engine.Engine, missing *engine.MissingImageError) error {
	ctx, stop := interruptible(cmd)
	defer stop()
	a.say("Unable to find image '%s' locally", familiar(missing.Name))
	errs := []error{missing}
	for _, name := range missing.Digests {
		err := pull(ctx, a, e, name, pullOptions{out: a.stderr})
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// maxForks bounds how many copies one command makes.
const maxForks = 10000

func newFork(a *app) *cobra.Command {
	var prefix string
	var n int
	cmd := &cobra.Command{
		Use:   "fork [OPTIONS] CONTAINER",
		Short: "Make running copies of a running container",
		Long: `Make copies of a running container that go on where it is, while it goes on itself. They have their memory from
the same file, copy-on-write; each is a machine of its own, with another identity and address, and with copies of the
files that the first has as disks (--disk), unless they are read-only. It prints their IDs.`,
		Example: `  hull fork web
  hull fork -n 3 --name worker web`,
		Args:              exactArgs(1),
		ValidArgsFunction: completeFirst(completeRunning(a)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if n < 1 || n > maxForks {
				return fmt.Errorf("-n %d: must be 1 to %d", n, maxForks)
			}
			e, err := a.engine()
			if err != nil {
				return err
			}
			return e.Fork(cmd.Context(), args[0], prefix, n, func(id string) { fmt.Fprintln(a.stdout, id) })
		},
	}
	cmd.Flags().IntVarP(&n, "number", "n", 1, "How many")
	cmd.Flags().StringVar(&prefix, "name", "", "`Beginning` of their names, before a number (default: the container's name)")
	return cmd
}
