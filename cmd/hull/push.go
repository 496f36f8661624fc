package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hullvm/hull/images"
)

func newPush(a *app) *cobra.Command {
	var all, quiet, insecure bool
	var platform string
	cmd := &cobra.Command{
		Use:   "push [OPTIONS] NAME[:TAG]",
		Short: "Send an image to its registry",
		Long: `Send an image to the registry that its name says: what the registry does not have of
it. An image that was pulled keeps its digest. Credentials are those of hull login,
which are docker's.`,
		Example: `  hull tag app:1 registry.example/app:1.2 && hull push registry.example/app:1.2
  hull push --all-tags registry.example/team/app`,
		Args:              exactArgs(1),
		ValidArgsFunction: completeFirst(completeImages(a)),
		RunE: func(cmd *cobra.Command, args []string) error {
			ref, err := images.ParseReference(args[0])
			if err != nil {
				return err
			}
			tagged := strings.HasSuffix(args[0], ":"+ref.Tag)
			if all && (tagged || ref.Digest != "") {
				return errors.New("tag can't be used with --all-tags/-a")
			}
			store, err := a.images()
			if err != nil {
				return err
			}
			ctx, stop := interruptible(cmd)
			defer stop()
			if !quiet {
				if !all && !tagged && ref.Digest == "" {
					fmt.Fprintf(a.stdout, "Using default tag: %s\n", ref.Tag)
				}
				fmt.Fprintf(a.stdout, "The push refers to repository [%s]\n", ref.Repository())
			}
			var view *progressView
			_, err = store.Push(ctx, args[0], images.PushOptions{
				AllTags: all, Insecure: insecure, Platform: platform,
				Progress: images.ProgressFunc(func(e images.Event) { view.Progress(e) }),
				Begin:    func(images.Reference) { view = newProgress(a, a.stdout, quiet) },
				End: func(p images.Pushed) {
					view.close()
					view = nil
					if !quiet {
						fmt.Fprintf(a.stdout, "%s: digest: %s size: %d\n", p.Reference.Tag, p.Digest, p.Size)
					}
				},
			})
			if view != nil {
				view.close()
			}
			if err == nil && quiet {
				if all {
					ref.Tag = ""
				}
				fmt.Fprintln(a.stdout, ref)
			}
			return deniedHint(err, ref)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&all, "all-tags", "a", false, "Push all tags of the repository")
	f.BoolVarP(&quiet, "quiet", "q", false, "Show the image's name only")
	f.StringVar(&platform, "platform", "", "Push only if the image is for this `platform`; it is for one in any case")
	f.BoolVar(&insecure, "insecure", false, "Allow plain HTTP and unknown certificates")
	return cmd
}
