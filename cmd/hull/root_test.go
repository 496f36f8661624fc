package main

import (
	"slices"
	"testing"

	"github.com/spf13/cobra"
)

// walk calls visit for each command that a user can see.
func walk(cmd *cobra.Command, visit func(*cobra.Command)) {
	visit(cmd)
	for _, c := range cmd.Commands() {
		if !c.Hidden {
			walk(c, visit)
		}
	}
}

func TestEntriesAreNamedAsTheirCommands(t *testing.T) {
	a := newApp()
	seen := make(map[string]bool)
	for _, e := range entries() {
		if name := e.construct(a).Name(); name != e.name {
			t.Errorf("entry %q makes the command %q", e.name, name)
		}
		if seen[e.name] {
			t.Errorf("entry %q is there twice", e.name)
		}
		seen[e.name] = true
	}
}

func TestAsked(t *testing.T) {
	all := len(entries())
	for _, test := range []struct {
		args []string
		want int
	}{
		{nil, all},
		{[]string{"--help"}, all},
		{[]string{"--frobnicate", "run"}, all},
		{[]string{"help", "run"}, all},
		{[]string{"__complete", "run", ""}, all},
		{[]string{"frobnicate"}, all},
		{[]string{"run", "--rm", "ps"}, 1},
		{[]string{"container"}, 1},
		{[]string{"container", "ls"}, 1},
		{[]string{"container", "run"}, 1},
	} {
		got := asked(ungroup(test.args))
		if len(got) != test.want {
			t.Errorf("%q: %d commands are made, want %d", test.args, len(got), test.want)
		}
	}
	if got := asked(ungroup([]string{"container", "run", "ps"})); got[0].name != "run" {
		t.Errorf("container run is %q", got[0].name)
	}
	for _, name := range []string{"ps", "container", "supervise"} {
		if slices.Contains(grouped(), name) {
			t.Errorf("%q is in the group container as well", name)
		}
	}
}
