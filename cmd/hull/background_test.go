package main

import (
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hullvm/hull/cmd/internal/engine"
)

// jobs are the commands that a script has started, by name. They are one of the
// script's values.
type jobs struct {
	environment []string // names of the variables to hand on
	running     map[string]*job
	awaited     time.Time // when the last await was over
}

type job struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	end  time.Time     // when that was
}

func (j *job) ended() bool {
	select {
	case <-j.done:
		return true
	default:
		return false
	}
}

type jobsKey struct{}

func jobsOf(ts *testscript.TestScript) *jobs { return ts.Value(jobsKey{}).(*jobs) }

func (j *jobs) get(ts *testscript.TestScript, name string) *job {
	job := j.running[name]
	if job == nil {
		ts.Fatalf("no command %q was started", name)
	}
	return job
}

// start NAME [<FILE] COMMAND...: start a command. What it writes goes to the files
// NAME.out and NAME.err, what it reads comes from FILE.
func scriptStart(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: start NAME [<FILE] COMMAND...")
	}
	j, name, args := jobsOf(ts), args[0], args[1:]
	var stdin *os.File
	if file, ok := strings.CutPrefix(args[0], "<"); ok {
		var err error
		stdin, err = os.Open(ts.MkAbs(file))
		ts.Check(err)
		defer stdin.Close()
		args = args[1:]
	}
	var env []string
	for _, variable := range j.environment {
		env = append(env, variable+"="+ts.Getenv(variable))
	}
	program := args[0]
	for _, dir := range strings.Split(ts.Getenv("PATH"), string(os.PathListSeparator)) {
		if info, err := os.Stat(dir + "/" + program); err == nil && info.Mode()&0o111 != 0 {
			program = dir + "/" + program
			break
		}
	}
	cmd := exec.Command(program, args[1:]...)
	cmd.Env, cmd.Dir = env, ts.MkAbs(".")
	if stdin != nil {
		cmd.Stdin = stdin
	}
	out, err := os.Create(ts.MkAbs(name + ".out"))
	ts.Check(err)
	defer out.Close()
	errs, err := os.Create(ts.MkAbs(name + ".err"))
	ts.Check(err)
	defer errs.Close()
	cmd.Stdout, cmd.Stderr = out, errs
	ts.Check(cmd.Start())
	started := &job{cmd: cmd, done: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // how it ended is looked at by finish
		started.end = time.Now()
		close(started.done)
	}()
	j.running[name] = started
	ts.Defer(func() {
		cmd.Process.Kill()
		<-started.done
	})
}

// await REGEXP FILE: wait until the file has a match.
func scriptAwait(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: await REGEXP FILE")
	}
	want, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	j := jobsOf(ts)
	began := time.Now()
	for {
		writer := j.running[strings.TrimSuffix(strings.TrimSuffix(args[1], ".out"), ".err")]
		ended := writer != nil && writer.ended()
		data, _ := os.ReadFile(ts.MkAbs(args[1]))
		switch {
		case want.Match(data):
			j.awaited = time.Now()
			return
		case ended:
			said, _ := os.ReadFile(ts.MkAbs(strings.TrimSuffix(args[1], ".out") + ".err"))
			ts.Fatalf("no match for %q, and the command has ended; it said:\n%s%s", args[0], data, said)
		case time.Since(began) > patience:
			ts.Fatalf("no match for %q after %v in %s:\n%s", args[0], patience, args[1], data)
		}
		<-tick.C
	}
}

// signal SIGNAL NAME: send a signal to a command that was started.
func scriptSignal(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: signal SIGNAL NAME")
	}
	number, err := engine.ParseSignal(args[0])
	ts.Check(err)
	ts.Check(jobsOf(ts).get(ts, args[1]).cmd.Process.Signal(number))
}

// finish NAME STATUS [WITHIN]: wait for the end of a command that was started. Its
// exit status must be this one; that of a command which a signal killed is 128+n.
// It must have ended within this time of what was awaited last.
func scriptFinish(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 && len(args) != 3 {
		ts.Fatalf("usage: finish NAME STATUS [WITHIN]")
	}
	want, err := strconv.Atoi(args[1])
	ts.Check(err)
	job := jobsOf(ts).get(ts, args[0])
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-job.done:
	case <-timer.C:
		ts.Fatalf("%s runs still after %v", args[0], patience)
	}
	got := job.cmd.ProcessState.ExitCode()
	if got == -1 {
		got = 128 + int(signalOf(job.cmd.ProcessState))
	}
	if got != want {
		text, _ := os.ReadFile(ts.MkAbs(args[0] + ".err"))
		ts.Fatalf("exit status %d, want %d; it said:\n%s", got, want, text)
	}
	if len(args) == 3 {
		most, err := time.ParseDuration(args[2])
		ts.Check(err)
		if took := job.end.Sub(jobsOf(ts).awaited); took > most {
			ts.Fatalf("ended %v after what was awaited, at most %v are allowed", took, most)
		}
	}
}
