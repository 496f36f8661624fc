package engine

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// DefaultPath is the PATH of a container whose image has none.
const DefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// environment puts a container's environment together by docker's rules: the
// user's variables win over the image's, those over the defaults. An entry of
// the user's without "=" takes the variable out. HOME is not here: it depends on
// the image's passwd file, so the guest's agent adds it.
func environment(user, image []string, hostname string, terminal bool) []string {
	env := []string{"PATH=" + DefaultPath, "HOSTNAME=" + hostname}
	if terminal {
		env = append(env, "TERM=xterm")
	}
	given := make(map[string]bool)
	for _, entry := range user {
		name, _, _ := strings.Cut(entry, "=")
		given[name] = true
	}
	overrides := append([]string(nil), user...)
	for _, entry := range image {
		if name, _, _ := strings.Cut(entry, "="); !given[name] {
			overrides = append(overrides, entry)
		}
	}
	return override(env, overrides)
}

// override applies entries to env in order: NAME=value replaces in place or
// appends, a bare NAME removes.
func override(env, entries []string) []string {
	for _, entry := range entries {
		name, _, hasValue := strings.Cut(entry, "=")
		at := -1
		for i, e := range env {
			if n, _, _ := strings.Cut(e, "="); n == name {
				at = i
			}
		}
		switch {
		case hasValue && at >= 0:
			env[at] = entry
		case hasValue:
			env = append(env, entry)
		case at >= 0:
			env = append(env[:at], env[at+1:]...)
		}
	}
	return env
}

// ResolveEnv turns what -e takes into entries of [Config.Env]: NAME=value as it
// is, and a bare NAME into the value that lookup has for it, or into itself,
// which removes the variable, when it has none.
func ResolveEnv(entry string, lookup func(string) (string, bool)) (string, error) {
	name, _, hasValue := strings.Cut(entry, "=")
	switch {
	case name == "":
		return "", fmt.Errorf("invalid environment variable %q: it has no name", entry)
	case strings.ContainsRune(entry, 0):
		return "", fmt.Errorf("invalid environment variable %q: it has a zero byte", name)
	case hasValue:
		return entry, nil
	}
	if value, ok := lookup(name); ok {
		return name + "=" + value, nil
	}
	return name, nil
}

// maxEnvLine is the longest line of an environment file, in bytes: execve(2)
// takes no longer string (MAX_ARG_STRLEN).
const maxEnvLine = 128 << 10

// ParseEnvFile reads the variables of a file as --env-file takes it: NAME=value
// or NAME on each line, nothing quoted or expanded; lines that begin with #, and
// empty ones, do not count. A bare NAME that lookup does not know is left out.
func ParseEnvFile(r io.Reader, lookup func(string) (string, bool)) ([]string, error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxEnvLine)
	var env []string
	for n := 1; lines.Scan(); n++ {
		raw := lines.Bytes()
		if n == 1 {
			raw = bytes.TrimPrefix(raw, []byte("\xef\xbb\xbf")) // a byte order mark
		}
		if !utf8.Valid(raw) {
			return nil, fmt.Errorf("line %d: not UTF-8", n)
		}
		line := strings.TrimLeftFunc(string(raw), unicode.IsSpace)
		if line == "" || line[0] == '#' {
			continue
		}
		name, _, hasValue := strings.Cut(line, "=")
		if name == "" {
			return nil, fmt.Errorf("line %d: no variable name", n)
		}
		if strings.ContainsFunc(name, unicode.IsSpace) {
			return nil, fmt.Errorf("line %d: variable %q contains whitespaces", n, name)
		}
		entry, err := ResolveEnv(line, lookup)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if hasValue || strings.Contains(entry, "=") {
			env = append(env, entry)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	return env, nil
}
