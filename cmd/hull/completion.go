package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func newCompletion(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "Write a shell's completion script",
		Long:  "Write a script that teaches a shell to complete hull's commands, flags, images and containers.",
		Example: `  hull completion bash > /etc/bash_completion.d/hull
  hull completion zsh > "${fpath[1]}/_hull"
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

// completeImages offers the names of images for the first argument.
func completeImages(a *app) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 && cmd.Name() == "run" {
			return nil, cobra.ShellCompDirectiveDefault
		}
		store, err := a.images()
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		all, err := store.List(cmd.Context())
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var names []cobra.Completion
		for _, image := range all {
			names = append(names, imageNames(image)...)
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeContainers offers the names of containers.
func completeContainers(a *app) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		e, err := a.engine()
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		all, err := e.List(cmd.Context())
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var names []cobra.Completion
		for _, r := range all {
			names = append(names, r.Name)
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}
