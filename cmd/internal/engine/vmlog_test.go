package engine

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A container's VM log tells of its lives, and a level of how much.
func TestVMLog(t *testing.T) {
	e := newTestEngine(t)
	for _, level := range []string{"", "info", "debug", "warn", "error"} {
		t.Run("level "+level, func(t *testing.T) {
			id := background(t, e, Config{Args: []string{"sh", "-c", "echo theirs; exit 3"}, VMLog: VMLogConfig{Level: level, Format: vmLogJSON}})
			eventually(t, e, id, "exited", func(r *Record) bool { return r.State.Status == StatusExited })
			var said []string
			for _, line := range strings.SplitAfter(logText(t, e, id, LogOptions{Tail: -1, VM: true}), "\n") {
				line, ok := strings.CutPrefix(line, VMLogStream+":")
				if !ok {
					continue
				}
				var fields struct {
					Time, Level, ID, Msg, Reason string
					Status                       *int
				}
				if err := json.Unmarshal([]byte(line), &fields); err != nil || fields.Time == "" || fields.ID != ShortID(id) {
					t.Errorf("%s: %v", line, err)
				}
				text := fields.Level + " " + fields.Msg
				if fields.Msg == "workload ended" && (fields.Status == nil || *fields.Status != 3) {
					t.Errorf("status in %s", line)
				}
				if !slices.Contains(said, text) {
					said = append(said, text)
				}
			}
			has := func(text string) bool { return slices.Contains(said, text) }
			few := level == "warn" || level == "error"
			for _, text := range []string{"INFO VM process started", "INFO workload runs", "INFO workload ended"} {
				if has(text) == few {
					t.Errorf("%q is wrong in %q", text, said)
				}
			}
			if has("DEBUG stage reached") != (level == "debug") {
				t.Errorf("stages are wrong in %q", said)
			}
			if few && len(said) > 0 {
				t.Errorf("%q", said)
			}
			if got := logText(t, e, id, LogOptions{Tail: -1}); got != "stdout:theirs\n" {
				t.Errorf("the container's own log: %q", got)
			}
		})
	}
}

// It says why a VM failed; and there is none for who wants none.
func TestVMLogOfFailures(t *testing.T) {
	e := newTestEngine(t)
	for behave, want := range map[string]string{
		"error": `level=ERROR msg="VM failed" id=ID error="loading the kernel: not a kernel"`,
		"crash": `without a word: panic: oh no"`,
		"panic": `level=ERROR msg="VM failed" id=ID error="the VM ended: the guest kernel panicked"`,
	} {
		c, err := e.Create(t.Context(), behave, Config{Image: "test", Args: []string{"true"}, Append: "fake=" + behave})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Run(t.Context(), Attach{}, nil); err == nil {
			t.Errorf("%s: no error", behave)
		}
		rest(t, c)
		if text := strings.ReplaceAll(logText(t, e, behave, LogOptions{Tail: -1, VM: true}), ShortID(c.ID()), "ID"); !strings.Contains(text, want) {
			t.Errorf("%s: %q is not in\n%s", behave, want, text)
		}
	}

	id := background(t, e, Config{Args: []string{"sleep", "1000"}, VMLog: VMLogConfig{Level: VMLogOff}})
	eventually(t, e, id, "running", func(r *Record) bool { return r.State.Status == StatusRunning })
	if err := e.Logs(t.Context(), id, LogOptions{VM: true}, nil); err == nil || !strings.Contains(err.Error(), "no VM log") {
		t.Errorf("of one without: %v", err)
	}
	if _, err := os.Lstat(e.vmLogPath(id)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its file: %v", err)
	}

	killed := background(t, e, Config{Args: []string{"sleep", "1000"}})
	eventually(t, e, killed, "running", func(r *Record) bool { return r.State.Status == StatusRunning })
	if _, err := get(t, e, killed).State.VM.Kill(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	// Who follows is let go with the container, and has all of it.
	if text := logText(t, e, killed, LogOptions{Tail: -1, VM: true, Follow: true}); !strings.Contains(text, "the VM ended: killed by signal 9 (SIGKILL)") {
		t.Errorf("of one that was killed:\n%s", text)
	}
}

// Who ends a boot has made no error.
func TestVMLogOfInterruptedBoot(t *testing.T) {
	e := newTestEngine(t)
	c, err := e.Create(t.Context(), "slow", Config{Image: "test", Args: []string{"true"}, Append: "fake=silent"})
	if err != nil {
		t.Fatal(err)
	}
	signals := make(chan os.Signal, 1)
	signals <- unix.SIGINT
	var interrupted *InterruptedError
	if _, err := c.Run(t.Context(), Attach{Signals: signals}, nil); !errors.As(err, &interrupted) {
		t.Fatal(err)
	}
	text := logText(t, e, "slow", LogOptions{Tail: -1, VM: true})
	if strings.Contains(text, "level=ERROR") || !strings.Contains(text, `level=INFO msg="life ended early"`) || !strings.Contains(text, "SIGINT") {
		t.Errorf("the VM log:\n%s", text)
	}
}

func TestVMLogConfig(t *testing.T) {
	e := newTestEngine(t)
	for _, c := range []VMLogConfig{{Level: "loud"}, {Level: "INFO"}, {Format: "xml"}} {
		if _, err := e.Create(t.Context(), "", Config{Image: "test", VMLog: c}); err == nil || !strings.Contains(err.Error(), "VM log") {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
