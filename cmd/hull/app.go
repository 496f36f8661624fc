package main

import (
	"fmt"
	"os"

	"golang.org/x/term"

	"github.com/hullvm/hull/cmd/internal/engine"
	"github.com/hullvm/hull/cmd/internal/engine/timeline"
	"github.com/hullvm/hull/images"
	"github.com/hullvm/hull/kvm"
)

// app is what the commands share: the process's surroundings, and the engine
// once one of them needs it.
type app struct {
	stdin          *os.File
	stdout, stderr *os.File
	getenv         func(string) string
	line           *timeline.Timeline // begins with the process

	opened *engine.Engine
}

func newApp() *app {
	return &app{
		stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr,
		getenv: os.Getenv,
		line:   startTimeline(),
	}
}

// engine opens the engine on this user's directories.
func (a *app) engine() (*engine.Engine, error) {
	if a.opened == nil {
		dirs, err := engine.Directories(a.getenv, os.Geteuid())
		if err != nil {
			return nil, err
		}
		o := engine.Options{Dirs: dirs, Probe: probe}
		if a.getenv(envCold) == "" {
			o.Templates = []string{"/proc/self/exe", "template"}
		}
		a.opened = engine.New(o)
	}
	return a.opened, nil
}

// images opens the image store.
func (a *app) images() (*images.Store, error) {
	e, err := a.engine()
	if err != nil {
		return nil, err
	}
	return e.Images()
}

func (a *app) close() {
	if a.opened != nil {
		_ = a.opened.Close() // all that matters has been written and synced
	}
}

// probe tells whether this host's KVM can boot Linux.
func probe() error {
	s, err := kvm.Open()
	if err != nil {
		return err
	}
	defer s.Close()
	return s.RequireLinux()
}

// isTerminal tells whether f is a terminal.
func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// color tells whether what is written to f may have colours: on terminals, unless
// the user said no (https://no-color.org).
func (a *app) color(f *os.File) bool {
	return isTerminal(f) && a.getenv("NO_COLOR") == "" && a.getenv("TERM") != "dumb"
}

// width is the width of the terminal f in characters, or a usual one.
func width(f *os.File) int {
	if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 0 {
		return w
	}
	return 80
}

// say writes a line for people, on standard error.
func (a *app) say(format string, args ...any) {
	fmt.Fprintf(a.stderr, format+"\n", args...)
}
