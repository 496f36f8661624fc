package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/term"
	"mvdan.cc/sh/v3/syntax"
)

const (
	keyCtrlC = 3
	keyTab   = '\t'
	// cancelLine makes the line editor drop its line: to the end, delete to the start, enter.
	cancelLine = "\x05\x15\r"
)

// keyboard is the terminal as the line editor reads it. A Ctrl-C would end the editor's
// input; the keyboard makes of it a line that is cancelled.
type keyboard struct {
	pending     []byte
	interrupted bool
}

func (k *keyboard) Read(p []byte) (int, error) {
	if len(k.pending) == 0 {
		var buf [256]byte
		n, err := os.Stdin.Read(buf[:])
		if n == 0 {
			return 0, err
		}
		for _, c := range buf[:n] {
			if c == keyCtrlC {
				k.interrupted = true
				k.pending = append(k.pending, cancelLine...)
			} else {
				k.pending = append(k.pending, c)
			}
		}
	}
	n := copy(p, k.pending)
	k.pending = k.pending[n:]
	return n, nil
}

func (k *keyboard) Write(p []byte) (int, error) { return os.Stdout.Write(p) }

// converse reads commands from the terminal until its end, and returns the last status.
func (s *shell) converse() int {
	// Ctrl-C is for what runs in the foreground. Caught, not ignored: children
	// would inherit that.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGQUIT)
	go func() {
		for range signals {
		}
	}()
	// Without job control nobody could wake up what Ctrl-Z stops.
	signal.Ignore(syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU)

	keys := &keyboard{}
	editor := term.NewTerminal(keys, "")
	editor.AutoCompleteCallback = s.complete
	text := ""
	for {
		line, err := s.readLine(editor, text != "")
		if keys.interrupted {
			keys.interrupted = false
			text = ""
			s.status = 128 + int(syscall.SIGINT)
			continue
		}
		if err != nil {
			if err != io.EOF {
				fmt.Fprintln(os.Stderr, "sh:", err)
			}
			if text != "" {
				fmt.Fprintln(os.Stderr, "sh: unexpected end of input")
			}
			return s.status
		}
		text += line + "\n"
		more, exit := s.runText(text)
		if exit {
			return s.status
		}
		if !more {
			text = ""
		}
	}
}

func (s *shell) readLine(editor *term.Terminal, more bool) (string, error) {
	state, err := term.MakeRaw(0)
	if err != nil {
		return "", err
	}
	defer term.Restore(0, state)
	if w, h, err := term.GetSize(0); err == nil && w > 0 && h > 0 {
		_ = editor.SetSize(w, h)
	}
	editor.SetPrompt(s.prompt(more))
	return editor.ReadLine()
}

// prompt is PS2 within a command, else PS1, or what tells user and directory.
func (s *shell) prompt(more bool) string {
	if more {
		return "> "
	}
	if ps1, ok := s.runner.Vars["PS1"]; ok && !strings.Contains(ps1.Str, "\\") {
		return ps1.Str
	}
	sign := "$"
	if os.Geteuid() == 0 {
		sign = "#"
	}
	return s.runner.Dir + " " + sign + " "
}

// runText runs what has been typed so far. more: it is not complete yet.
func (s *shell) runText(text string) (more, exit bool) {
	var stmts []*syntax.Stmt
	err := s.parser.Stmts(strings.NewReader(text), func(stmt *syntax.Stmt) bool {
		stmts = append(stmts, stmt)
		return true
	})
	if err != nil {
		if syntax.IsIncomplete(err) || s.parser.Incomplete() {
			return true, false
		}
		var perr syntax.ParseError
		if errors.As(err, &perr) {
			err = errors.New(perr.Text)
		}
		fmt.Fprintln(os.Stderr, "sh:", err)
		s.status = usageStatus
		return false, false
	}
	for _, stmt := range stmts {
		if !s.runStmt(stmt, "sh") {
			return false, true
		}
	}
	return false, false
}

// complete completes the word before the cursor: the first of a line as a command, others as
// a file.
func (s *shell) complete(line string, pos int, key rune) (string, int, bool) {
	if key != keyTab {
		return "", 0, false
	}
	start := strings.LastIndexAny(line[:pos], " \t;|&<>(") + 1
	word := line[start:pos]
	var found []string
	if strings.TrimSpace(line[:start]) == "" && !strings.Contains(word, "/") {
		for _, dir := range filepath.SplitList(s.runner.Env.Get("PATH").String()) {
			found = append(found, s.candidates(dir+"/", word, true)...)
		}
	} else {
		dir := ""
		if i := strings.LastIndexByte(word, '/'); i >= 0 {
			dir, word = word[:i+1], word[i+1:]
		}
		found = s.candidates(dir, word, false)
	}
	insert := commonPrefix(found)
	if len(insert) <= len(word) {
		return line, pos, true
	}
	insert = insert[len(word):]
	return line[:pos] + insert + line[pos:], pos + len(insert), true
}

// candidates lists the names in dir that begin with word, each with what follows it.
func (s *shell) candidates(dir, word string, commands bool) []string {
	path := dir
	if !filepath.IsAbs(path) {
		path = filepath.Join(s.runner.Dir, path)
	}
	entries, _ := os.ReadDir(path)
	var found []string
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), word) || (word == "" && strings.HasPrefix(e.Name(), ".")) {
			continue
		}
		suffix := " "
		if st, err := os.Stat(filepath.Join(path, e.Name())); err == nil && st.IsDir() {
			suffix = "/"
		}
		if commands && suffix == "/" {
			continue
		}
		found = append(found, e.Name()+suffix)
	}
	return found
}

func commonPrefix(words []string) string {
	if len(words) == 0 {
		return ""
	}
	prefix := words[0]
	for _, w := range words[1:] {
		for !strings.HasPrefix(w, prefix) {
			prefix = prefix[:len(prefix)-1]
		}
	}
	return prefix
}
