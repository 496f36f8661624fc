package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

// verdict is what came of one check.
type verdict string

const (
	verdictOK   verdict = "ok"
	verdictWarn verdict = "warn" // works, but not as well as it could
	verdictFail verdict = "FAIL" // `hull run` cannot work
)

// finding is one line of hull doctor.
type finding struct {
	verdict verdict
	subject string
	what    string
	mend    string // what to do about it; "" when there is nothing to do
}

func newDoctor(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Show what this host lets hull do",
		Long: `Check what hull needs of this host, and say how to mend what is missing. The exit
status is 1 if hull run cannot work.`,
		Example: "  hull doctor",
		Args:    exactArgs(0),
		RunE: func(cmd *cobra.Command, args []string) error {
			color := a.color(a.stdout)
			failed := false
			for _, f := range examine(a) {
				fmt.Fprintf(a.stdout, "%s  %-16s %s\n", mark(f.verdict, color), f.subject, clean(f.what))
				if f.mend != "" {
					fmt.Fprintf(a.stdout, "      %-16s → %s\n", "", clean(f.mend))
				}
				failed = failed || f.verdict == verdictFail
			}
			if failed {
				return &statusError{status: statusFailed}
			}
			return nil
		},
	}
}

// mark is a verdict at a fixed width, green, yellow or red.
func mark(v verdict, color bool) string {
	text := fmt.Sprintf("%-4s", v)
	if !color {
		return text
	}
	codes := map[verdict]string{verdictOK: "32", verdictWarn: "33", verdictFail: "1;31"}
	return "\x1b[" + codes[v] + "m" + text + "\x1b[0m"
}
