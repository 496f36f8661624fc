package guestinit

import (
	"strconv"
	"strings"
)

// ModeRun is the value of hull.mode with which init serves the host.
const ModeRun = "run"

// CommandLine is what the kernel command line says to init:
//
//	hull.mode=run        serve the host; else: a shell on the console
//	hull.root=/dev/vda   disk with the root filesystem for the shell
//	hull.upper=/dev/vdb  disk for what is written there; else it is kept in memory
//	hull.exec="COMMAND"  command for the shell to execute instead of reading the console
//	hull.init=PATH       program to execute instead of a shell
//	hull.tty=ROWSxCOLS   size of the terminal that the console is shown on
//
// The kernel itself makes environment variables of words such as TERM=xterm.
type CommandLine struct {
	Mode       string
	Root       string
	Upper      string
	Exec       string
	Init       string
	Rows, Cols uint16 // 0: unknown
}

// ParseCommandLine picks out the words that are for init. Of a word given twice the last counts.
func ParseCommandLine(s string) CommandLine {
	var c CommandLine
	for _, word := range split(s) {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "hull.mode":
			c.Mode = value
		case "hull.root":
			c.Root = strings.TrimPrefix(value, "/dev/")
		case "hull.upper":
			c.Upper = strings.TrimPrefix(value, "/dev/")
		case "hull.exec":
			c.Exec = value
		case "hull.init":
			c.Init = value
		case "hull.tty":
			rows, cols, _ := strings.Cut(value, "x")
			r, err1 := strconv.ParseUint(rows, 10, 16)
			w, err2 := strconv.ParseUint(cols, 10, 16)
			if err1 == nil && err2 == nil {
				c.Rows, c.Cols = uint16(r), uint16(w)
			}
		}
	}
	return c
}

// split splits a command line as the kernel does: at white space that is not
// within double quotes. The quotes are dropped.
func split(s string) []string {
	var words []string
	var word strings.Builder
	quoted, any := false, false
	for _, c := range []byte(s) {
		switch {
		case c == '"':
			quoted, any = !quoted, true
		case !quoted && (c == ' ' || c == '\t' || c == '\n' || c == '\r'):
			if any {
				words = append(words, word.String())
			}
			word.Reset()
			any = false
		default:
			word.WriteByte(c)
			any = true
		}
	}
	if any {
		words = append(words, word.String())
	}
	return words
}
