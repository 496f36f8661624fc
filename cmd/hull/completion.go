package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hullvm/hull/cmd/internal/engine"
)

func newCompletion(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "Write a shell's completion script",
		Long:  "Write a script that teaches a shell to complete hull's commands, flags, images and containers.",
		Example: `  hull completion bash > ~/.local/share/bash-completion/completions/hull
  hull completion zsh > ~/.zfunc/_hull    # where fpath has ~/.zfunc
  hull completion fish > ~/.config/fish/completions/hull.fish`,
		Args:      exactArgs(1),
		ValidArgs: []string{"bash", "zsh", "fish"},
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(a.stdout, true)
			case "zsh":
				return root.GenZshCompletion(a.stdout)
			case "fish":
				return root.GenFishCompletion(a.stdout, true)
			}
			return &usageError{cmd.CommandPath(), fmt.Errorf("unknown shell %q: bash, zsh and fish are known", args[0])}
		},
	}
}

// completeImages offers the names of images.
func completeImages(a *app) cobra.CompletionFunc {
	return completeNames(func(cmd *cobra.Command) ([]string, error) {
		store, err := a.images()
		if err != nil {
			return nil, err
		}
		all, err := store.List(cmd.Context())
		var names []string
		for _, image := range all {
			names = append(names, imageNames(image)...)
		}
		return names, err
	})
}

// completeContainers offers the names of containers.
func completeContainers(a *app) cobra.CompletionFunc {
	return completeRecords(a, func(*engine.Record) bool { return true })
}

// completeRunning offers the names of containers that run.
func completeRunning(a *app) cobra.CompletionFunc {
	return completeRecords(a, func(r *engine.Record) bool { return r.State.Alive() })
}

// completeStopped offers the names of containers that do not run.
func completeStopped(a *app) cobra.CompletionFunc {
	return completeRecords(a, func(r *engine.Record) bool { return !r.State.Alive() })
}

func completeRecords(a *app, fits func(*engine.Record) bool) cobra.CompletionFunc {
	return completeNames(func(cmd *cobra.Command) ([]string, error) {
		e, err := a.engine()
		if err != nil {
			return nil, err
		}
		all, err := e.List(cmd.Context())
		var names []string
		for _, r := range all {
			if fits(r) {
				names = append(names, r.Name)
			}
		}
		return names, err
	})
}

// completeNetworks offers the names of networks.
func completeNetworks(a *app) cobra.CompletionFunc {
	return completeNames(func(cmd *cobra.Command) ([]string, error) {
		e, err := a.engine()
		if err != nil {
			return nil, err
		}
		all, err := e.Networks(cmd.Context())
		var names []string
		for _, n := range all {
			names = append(names, n.Name)
		}
		return names, err
	})
}

// completeVolumes offers the names of volumes.
func completeVolumes(a *app) cobra.CompletionFunc {
	return completeNames(func(cmd *cobra.Command) ([]string, error) {
		e, err := a.engine()
		if err != nil {
			return nil, err
		}
		all, err := e.Volumes(cmd.Context())
		var names []string
		for _, v := range all {
			names = append(names, v.Name)
		}
		return names, err
	})
}

// completeNames offers names, but those that are on the command line already.
func completeNames(list func(*cobra.Command) ([]string, error)) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		names, err := list(cmd)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		names = slices.DeleteFunc(names, func(name string) bool { return slices.Contains(args, name) })
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeFirst offers something for the first argument, and nothing for others.
func completeFirst(first cobra.CompletionFunc) cobra.CompletionFunc {
	return completeInOrder(first, cobra.NoFileCompletions)
}

// completeCommand offers something for the first argument, and files for those of the command that follows.
func completeCommand(first cobra.CompletionFunc) cobra.CompletionFunc {
	return completeInOrder(first, func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return nil, cobra.ShellCompDirectiveDefault
	})
}

// completeInOrder has a function for each argument; the last is for all that follow.
func completeInOrder(inOrder ...cobra.CompletionFunc) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return inOrder[min(len(args), len(inOrder)-1)](cmd, args, prefix)
	}
}

// completeAny offers what each of several offers.
func completeAny(all ...cobra.CompletionFunc) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		var names []cobra.Completion
		for _, complete := range all {
			some, directive := complete(cmd, args, prefix)
			if directive&cobra.ShellCompDirectiveError != 0 {
				return nil, directive
			}
			names = append(names, some...)
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeCopied offers what hull cp takes: files, and containers, whose path follows a colon.
func completeCopied(a *app) cobra.CompletionFunc {
	containers := completeContainers(a)
	return func(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 1 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		names, directive := containers(cmd, nil, prefix)
		for i := range names {
			names[i] += ":"
		}
		if strings.ContainsAny(prefix, "/.") || directive&cobra.ShellCompDirectiveError != 0 {
			return nil, cobra.ShellCompDirectiveDefault
		}
		return names, cobra.ShellCompDirectiveNoSpace
	}
}

// completeFlag offers something for the value of a flag.
func completeFlag(cmd *cobra.Command, flag string, values cobra.CompletionFunc) {
	_ = cmd.RegisterFlagCompletionFunc(flag, values) // the flag exists
}
