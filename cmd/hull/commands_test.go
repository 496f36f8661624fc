package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// patience is how long a script waits for something before it fails. The lab is
// slow.
const patience = 2 * time.Minute

// scriptCommands are the commands of scripts besides testscript's own.
func scriptCommands() map[string]func(*testscript.TestScript, bool, []string) {
	return map[string]func(*testscript.TestScript, bool, []string){
		"exits":    scriptExits,
		"until":    scriptUntil,
		"start":    scriptStart,
		"await":    scriptAwait,
		"signal":   scriptSignal,
		"finish":   scriptFinish,
		"same":     scriptSame,
		"random":   scriptRandom,
		"elapsed":  scriptElapsed,
		"fastest":  scriptFastest,
		"nothing":  scriptNothing,
		"examples": scriptExamples,
	}
}

// exits STATUS COMMAND...: the command must exit with exactly this status.
func scriptExits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits STATUS COMMAND...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		got = exit.ExitCode()
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

// until COMMAND...: repeat the command until it succeeds; with !, until it fails.
func scriptUntil(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) == 0 {
		ts.Fatalf("usage: [!] until COMMAND...")
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); time.Now().Before(end); <-tick.C {
		if err := ts.Exec(args[0], args[1:]...); (err == nil) != neg {
			return
		}
	}
	ts.Fatalf("still not so after %v", patience)
}

// random BYTES FILE: a file of bytes that look random and are the same each time.
func scriptRandom(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: random BYTES FILE")
	}
	size, err := strconv.Atoi(args[0])
	ts.Check(err)
	f, err := os.Create(ts.MkAbs(args[1]))
	ts.Check(err)
	defer f.Close()
	for n := 0; size > 0; n++ {
		block := sha256.Sum256([]byte(strconv.Itoa(n)))
		block2 := bytes.Repeat(block[:], 128)[:min(4096, size)]
		_, err := f.Write(block2)
		ts.Check(err)
		size -= len(block2)
	}
	ts.Check(f.Close())
}

// same FILE FILE: both must have the same bytes; stdout stands for the standard
// output of the last command.
func scriptSame(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: [!] same FILE FILE")
	}
	sum := func(name string) string {
		hash := sha256.New()
		if name == "stdout" {
			io.WriteString(hash, ts.ReadFile(name))
			return fmt.Sprintf("%x", hash.Sum(nil))
		}
		f, err := os.Open(ts.MkAbs(name))
		ts.Check(err)
		defer f.Close()
		_, err = io.Copy(hash, f)
		ts.Check(err)
		return fmt.Sprintf("%x", hash.Sum(nil))
	}
	if a, b := sum(args[0]), sum(args[1]); (a == b) == neg {
		ts.Fatalf("SHA-256 %s and %s", a, b)
	}
}

// elapsed DURATION COMMAND...: the command must end within this time, however it
// ends.
func scriptElapsed(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: elapsed DURATION COMMAND...")
	}
	most, err := time.ParseDuration(args[0])
	ts.Check(err)
	began := time.Now()
	_ = ts.Exec(args[1], args[2:]...)
	if took := time.Since(began); took > most {
		ts.Fatalf("took %v, at most %v are allowed", took, most)
	}
}

// fastest DURATION COMMAND...: the command must succeed, and at least once of many times within this time: the machine may
// have other things to do.
func scriptFastest(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: fastest DURATION COMMAND...")
	}
	most, err := time.ParseDuration(args[0])
	ts.Check(err)
	const atLeast = 20
	fastest := patience
	for n, end := 0, time.Now().Add(patience); n < atLeast || fastest > most && time.Now().Before(end); n++ {
		began := time.Now()
		ts.Check(ts.Exec(args[1], args[2:]...))
		fastest = min(fastest, time.Since(began))
	}
	ts.Logf("%v at the fastest", fastest)
	if fastest > most {
		ts.Fatalf("took %v, at most %v are allowed", fastest, most)
	}
}

// nothing left: nothing of containers must be left, now.
func scriptNothing(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 || args[0] != "left" {
		ts.Fatalf("usage: nothing left")
	}
	ts.Check(leftBehind(filepath.Dir(ts.Getenv("HULL_DATA_DIR"))))
}
