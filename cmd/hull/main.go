// Command hull runs containers, and bare kernels, in microVMs.
//
// Each subcommand has a file of its own that holds its flags, its output and its
// exit status, and nothing else: what containers are and how they live is in
// package engine, images are in package images. The split of standard output and
// standard error, the columns and the exit statuses are docker's.
//
// This program is started for every command a user types, and for every
// container; it has to reach main within some milliseconds. So it opens what it
// needs when it needs it (see app), and what it links is measured.
package main

import (
	"os"
)

func main() {
	os.Exit(run(newApp(), os.Args[1:]))
}
