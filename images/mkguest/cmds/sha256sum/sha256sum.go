// Command sha256sum prints or checks SHA-256 sums.
//
//	sha256sum [-c] [FILE]...
package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
)

func main() {
	check := flag.Bool("c", false, "read sums from the files and check them")
	flag.Parse()
	files := flag.Args()
	if len(files) == 0 {
		files = []string{"-"}
	}
	status := 0
	for _, name := range files {
		do := print
		if *check {
			do = verify
		}
		if err := do(name); err != nil {
			fmt.Fprintln(os.Stderr, "sha256sum:", err)
			status = 1
		}
	}
	os.Exit(status)
}

func open(name string) (*os.File, error) {
	if name == "-" {
		return os.Stdin, nil
	}
	return os.Open(name)
}

func sum(name string) (string, error) {
	f, err := open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func print(name string) error {
	s, err := sum(name)
	if err == nil {
		_, err = fmt.Printf("%s  %s\n", s, name)
	}
	return err
}

// verify checks the files that a list of sums names.
func verify(list string) error {
	f, err := open(list)
	if err != nil {
		return err
	}
	defer f.Close()
	failed := 0
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		want, name, ok := strings.Cut(lines.Text(), " ")
		if !ok || len(name) < 2 {
			return fmt.Errorf("%s: not a line with a sum: %q", list, lines.Text())
		}
		name = name[1:] // a space, or a star for binary
		got, err := sum(name)
		switch {
		case err != nil:
			fmt.Printf("%s: FAILED open or read\n", name)
			failed++
		case got != strings.ToLower(want):
			fmt.Printf("%s: FAILED\n", name)
			failed++
		default:
			fmt.Printf("%s: OK\n", name)
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	if failed > 0 {
		return fmt.Errorf("%s: %d files differ or cannot be read", list, failed)
	}
	return nil
}
