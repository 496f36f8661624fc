package images

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// ErrChange: an instruction that cannot change an image's configuration.
var ErrChange = errors.New("invalid change")

// ApplyChange changes an image's configuration by one Dockerfile instruction
// out of CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, SHELL,
// STOPSIGNAL, USER, VOLUME and WORKDIR, as docker's --change does. The error is ErrChange.
func ApplyChange(c *v1.Config, change string) error {
	word, rest, _ := strings.Cut(strings.TrimLeft(change, " \t\n"), " ")
	rest = strings.TrimSpace(rest)
	fail := func(why string) error {
		return fmt.Errorf("change %q: %s: %w", shorten(change), why, ErrChange)
	}
	apply, ok := map[string]func(*v1.Config, string) error{
		"CMD": changeCmd, "ENTRYPOINT": changeEntrypoint, "ENV": changeEnv, "EXPOSE": changeExpose,
		"HEALTHCHECK": changeHealthcheck, "LABEL": changeLabel, "ONBUILD": changeOnBuild, "SHELL": changeShell,
		"STOPSIGNAL": changeStopSignal, "USER": changeUser, "VOLUME": changeVolume, "WORKDIR": changeWorkdir,
	}[strings.ToUpper(word)]
	switch {
	case !ok:
		return fail("the instruction must be one of CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, SHELL, STOPSIGNAL, USER, VOLUME, WORKDIR")
	case rest == "":
		return fail("it has no argument")
	case strings.IndexByte(rest, 0) >= 0:
		return fail("it has a NUL byte")
	}
	if err := apply(c, rest); err != nil {
		return fail(err.Error())
	}
	return nil
}

// command reads the argument of CMD and its like: a JSON array of strings, or
// a line for the shell.
func command(c *v1.Config, s string) []string {
	if list, ok := jsonList(s); ok {
		return list
	}
	shell := c.Shell
	if len(shell) == 0 {
		shell = []string{"/bin/sh", "-c"}
	}
	return append(append([]string{}, shell...), s)
}

func jsonList(s string) ([]string, bool) {
	if !strings.HasPrefix(s, "[") {
		return nil, false
	}
	var list []string
	if json.Unmarshal([]byte(s), &list) != nil {
		return nil, false
	}
	return list, true
}

func changeCmd(c *v1.Config, s string) error {
	c.Cmd = command(c, s)
	return nil
}

func changeEntrypoint(c *v1.Config, s string) error {
	c.Entrypoint = command(c, s)
	return nil
}

func changeShell(c *v1.Config, s string) error {
	list, ok := jsonList(s)
	if !ok || len(list) == 0 {
		return errors.New("SHELL takes a JSON array")
	}
	c.Shell = list
	return nil
}

// changeEnv sets variables: "ENV a=1 b='x y'" or the old form "ENV a anything".
func changeEnv(c *v1.Config, s string) error {
	return eachPair(s, func(key, value string) error {
		for i, old := range c.Env {
			if name, _, _ := strings.Cut(old, "="); name == key {
				c.Env[i] = key + "=" + value
				return nil
			}
		}
		c.Env = append(c.Env, key+"="+value)
		return nil
	})
}

func changeLabel(c *v1.Config, s string) error {
	return eachPair(s, func(key, value string) error {
		if c.Labels == nil {
			c.Labels = make(map[string]string)
		}
		c.Labels[key] = value
		return nil
	})
}

// eachPair calls set for each key=value of a line.
func eachPair(s string, set func(key, value string) error) error {
	words, err := splitWords(s)
	if err != nil {
		return err
	}
	if !strings.Contains(words[0], "=") {
		key, value, _ := strings.Cut(s, " ")
		if value = strings.TrimSpace(value); value == "" {
			return errors.New("it must be key=value")
		}
		return set(key, value)
	}
	for _, w := range words {
		key, value, ok := strings.Cut(w, "=")
		if !ok || key == "" {
			return fmt.Errorf("%q is not key=value", w)
		}
		if err := set(key, value); err != nil {
			return err
		}
	}
	return nil
}

// splitWords splits at spaces outside quotes and takes quotes and backslashes
// away, the way a Dockerfile is read.
func splitWords(s string) ([]string, error) {
	var words []string
	var word strings.Builder
	var quote rune
	inWord, escaped := false, false
	for _, r := range s {
		switch {
		case escaped:
			if quote == '"' && r != '"' && r != '\\' && r != '$' {
				word.WriteByte('\\')
			}
			word.WriteRune(r)
			escaped = false
		case r == '\\' && quote != '\'':
			escaped, inWord = true, true
		case quote != 0:
			if r == quote {
				quote = 0
				continue
			}
			word.WriteRune(r)
		case r == '"' || r == '\'':
			quote, inWord = r, true
		case r == ' ' || r == '\t' || r == '\n':
			if inWord {
				words = append(words, word.String())
				word.Reset()
				inWord = false
			}
		default:
			word.WriteRune(r)
			inWord = true
		}
	}
	if quote != 0 || escaped {
		return nil, errors.New("a quote or backslash is not finished")
	}
	if inWord {
		words = append(words, word.String())
	}
	if len(words) == 0 {
		return nil, errors.New("it has no argument")
	}
	return words, nil
}

func changeExpose(c *v1.Config, s string) error {
	words, err := splitWords(s)
	if err != nil {
		return err
	}
	for _, w := range words {
		ports, proto, ok := strings.Cut(w, "/")
		if !ok {
			proto = "tcp"
		}
		first, last, isRange := strings.Cut(ports, "-")
		if !isRange {
			last = first
		}
		from, err1 := strconv.ParseUint(first, 10, 16)
		to, err2 := strconv.ParseUint(last, 10, 16)
		proto = strings.ToLower(proto)
		if err1 != nil || err2 != nil || from == 0 || from > to || proto != "tcp" && proto != "udp" && proto != "sctp" {
			return fmt.Errorf("%q is not a port or range with /tcp, /udp or /sctp", w)
		}
		if c.ExposedPorts == nil {
			c.ExposedPorts = make(map[string]struct{})
		}
		for port := from; port <= to; port++ {
			c.ExposedPorts[fmt.Sprintf("%d/%s", port, proto)] = struct{}{}
		}
	}
	return nil
}

func changeVolume(c *v1.Config, s string) error {
	words, ok := jsonList(s)
	if !ok {
		var err error
		if words, err = splitWords(s); err != nil {
			return err
		}
	}
	for _, w := range words {
		if !path.IsAbs(w) {
			return fmt.Errorf("%q is not an absolute path", w)
		}
		if c.Volumes == nil {
			c.Volumes = make(map[string]struct{})
		}
		c.Volumes[w] = struct{}{}
	}
	return nil
}

// changeWorkdir sets the directory; a relative one counts from the one before.
func changeWorkdir(c *v1.Config, s string) error {
	if !path.IsAbs(s) {
		s = path.Join("/", c.WorkingDir, s)
	}
	c.WorkingDir = path.Clean(s)
	return nil
}

func changeUser(c *v1.Config, s string) error {
	c.User = s
	return nil
}

func changeStopSignal(c *v1.Config, s string) error {
	c.StopSignal = s
	return nil
}

func changeOnBuild(c *v1.Config, s string) error {
	c.OnBuild = append(c.OnBuild, s)
	return nil
}

// changeHealthcheck reads "NONE" or "[--interval=D] [--timeout=D] [--start-period=D] [--retries=N] CMD command".
func changeHealthcheck(c *v1.Config, s string) error {
	var check v1.HealthConfig
	for {
		word, rest, _ := strings.Cut(s, " ")
		rest = strings.TrimSpace(rest)
		option, value, _ := strings.Cut(word, "=")
		var err error
		switch {
		case strings.EqualFold(word, "NONE") && rest == "":
			c.Healthcheck = &v1.HealthConfig{Test: []string{"NONE"}}
			return nil
		case strings.EqualFold(word, "CMD") && rest != "":
			if list, ok := jsonList(rest); ok {
				check.Test = append([]string{"CMD"}, list...)
			} else {
				check.Test = []string{"CMD-SHELL", rest}
			}
			c.Healthcheck = &check
			return nil
		case option == "--interval":
			check.Interval, err = time.ParseDuration(value)
		case option == "--timeout":
			check.Timeout, err = time.ParseDuration(value)
		case option == "--start-period":
			check.StartPeriod, err = time.ParseDuration(value)
		case option == "--retries":
			check.Retries, err = strconv.Atoi(value)
		default:
			return errors.New("it must be NONE or CMD with a command")
		}
		if err == nil && (check.Interval < 0 || check.Timeout < 0 || check.StartPeriod < 0 || check.Retries < 0) {
			err = errors.New("it is negative")
		}
		if err != nil {
			return fmt.Errorf("%s: %w", option, err)
		}
		s = rest
	}
}
