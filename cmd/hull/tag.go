package main

import (
	"github.com/spf13/cobra"
)

func newTag(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "tag SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
		Short: "Give an image a further name",
		Long:  "Give an image a further name. An image that had the name loses it.",
		Example: `  hull tag debian:12 registry.example/debian:12
  hull tag "$(hull images -q debian:12)" app:1`,
		Args:              exactArgs(2),
		ValidArgsFunction: completeFirst(completeImages(a)),
		RunE: func(cmd *cobra.Command, args []string) error {
			store, err := a.images()
			if err != nil {
				return err
			}
			return store.Tag(cmd.Context(), args[0], args[1])
		},
	}
}
