package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/hullvm/hull/cmd/internal/engine"
)

// maxShape bounds what a template is described with, in bytes.
const maxShape = 64 << 10

// newTemplate is for hull itself: it makes the VM that later ones start from.
func newTemplate(a *app) *cobra.Command {
	return &cobra.Command{
		Use:    "template",
		Short:  "Save a VM that has booted; hull starts this itself",
		Hidden: true,
		Args:   exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var s engine.Shape
			if err := json.NewDecoder(io.LimitReader(cmd.InOrStdin(), maxShape)).Decode(&s); err != nil {
				return fmt.Errorf("reading which template is wanted: %w", err)
			}
			e, err := a.engine()
			if err != nil {
				return err
			}
			return e.MakeTemplate(cmd.Context(), s)
		},
	}
}
