package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hullvm/hull/cmd/internal/engine"
)

func TestSplitCopyArg(t *testing.T) {
	for arg, want := range map[string][2]string{
		"web:/etc": {"web", "/etc"}, "web:": {"web", ""}, "/a:b": {"", "/a:b"}, "./a:b": {"", "./a:b"}, "file": {"", "file"}, "-": {"", "-"}, "web:a:b": {"web", "a:b"},
	} {
		if container, path := splitCopyArg(arg); container != want[0] || path != want[1] {
			t.Errorf("%s: %q, %q; want %q", arg, container, path, want)
		}
	}
}

func TestPSColumns(t *testing.T) {
	for options, want := range map[string]string{
		"":                 "UID PID PPID C STIME TTY TIME CMD",
		"-ef":              "UID PID PPID C STIME TTY TIME CMD",
		"aux":              "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND",
		"-o pid,rss":       "PID RSS",
		"-opid -o comm":    "PID COMMAND",
		"-eo pid=Number":   "Number",
		"--format %cpu":    "%CPU",
		"--format=ppid":    "PPID",
		"-e -o pid,nosuch": "error",
		"-o":               "error",
		"-q":               "error",
		"--forest":         "error",
	} {
		columns, err := psColumns(strings.Fields(options))
		var got []string
		for _, c := range columns {
			got = append(got, c.heading)
		}
		if err != nil {
			got = []string{"error"}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q: %q, %v; want %q", options, got, err, want)
		}
	}
	for _, name := range psNames() {
		if _, ok := psTable()[name]; !ok {
			t.Errorf("column %s is listed and not there", name)
		}
	}
}

func TestPSCells(t *testing.T) {
	now := time.Date(2026, 5, 4, 12, 0, 0, 0, time.Local)
	list := &engine.ProcessList{Ticks: 100, Boot: now.Add(-25 * time.Hour).Unix(), Now: 25 * 3600 * 100, Memory: 1 << 20}
	p := &psProcess{&engine.ProcessInfo{
		PID: 7, UID: 1000, TTY: 136<<8 | 3, Start: 24 * 3600 * 100, User: 3600 * 50, RSS: 1 << 19, Comm: "x", Args: []string{"a", "b\x1bc"},
	}, list, now}
	for name, want := range map[string]string{
		"user": "1000", "tty": "pts/3", "stime": "11:00", "time": "00:30:00", "etime": "01:00:00", "pcpu": "50.0", "c": "50", "pmem": "50.0", "rss": "512", "args": "a b\x1bc",
	} {
		if got := psTable()[name].cell(p); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	// What a hostile guest tells is shown as something.
	odd := &psProcess{&engine.ProcessInfo{PID: -1, TTY: -1, Start: -1 << 62, User: 1 << 62, System: 1 << 62, UID: 1<<32 - 1}, &engine.ProcessList{Ticks: -5, Boot: 1 << 62, Now: -1}, now}
	for _, list := range []*engine.ProcessList{{}, {Ticks: 1, Boot: -1 << 62, Now: 1 << 62}, {Ticks: -5, Boot: 1 << 62, Now: -1}} {
		odd.list = list
		for name, column := range psTable() {
			if column.cell(odd) == "" && name != "stat" && name != "comm" && name != "ucmd" && name != "ucomm" && name != "s" && name != "state" {
				t.Errorf("%s of %+v is empty", name, list)
			}
		}
	}
}

func TestStatsRow(t *testing.T) {
	begin := time.Now()
	m := statsMeter{before: engine.Sample{At: begin}, now: engine.Sample{At: begin.Add(2 * time.Second), HostCPU: time.Second, HostMemory: 64 << 20}}
	m.now.Guest.CPU, m.now.Guest.Time, m.now.Guest.Memory, m.now.Guest.PIDs = 3e9, 2e9, 16<<20, 5
	out := row{}
	m.fill(out, 64<<20)
	for field, want := range map[string]string{
		"CPUPerc": "150.00%", "MemUsage": "16MiB / 64MiB", "MemPerc": "25.00%", "NetIO": "0B / 0B", "PIDs": "5", "HostCPUPerc": "50.00%", "HostMem": "64MiB",
	} {
		if out[field] != want {
			t.Errorf("%s: %q, want %q", field, out[field], want)
		}
	}
	m.now.Guest.CPU, m.now.Guest.Time = -1<<62, 1<<62
	m.fill(out, 0)
	if out["CPUPerc"] != "0.00%" || out["MemPerc"] != "0.00%" {
		t.Errorf("nonsense became %q", out)
	}
}

func TestWriteWhole(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	write := func(text string, err error) error {
		return writeWhole(path, func(f *os.File) error {
			_, writeErr := f.WriteString(text)
			return errors.Join(writeErr, err)
		})
	}
	if err := write("old", nil); err != nil {
		t.Fatal(err)
	}
	if err := write("new", errNoTTY); !errors.Is(err, errNoTTY) {
		t.Errorf("got %v", err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "old" {
		t.Errorf("there is %q, %v", got, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("there are %v, %v", entries, err)
	}
	if err := writeWhole(dir, func(*os.File) error { return nil }); err == nil {
		t.Error("a directory was written to")
	}
}
