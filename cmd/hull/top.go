package main

import (
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/hullvm/hull/cmd/internal/engine"
)

func newTop(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "top CONTAINER [PS OPTIONS]",
		Short: "Show a container's processes",
		Long: `Show the processes of a running container, as ps does. The image needs no ps. PS OPTIONS are
-ef, which is the default, aux, or -o with names of columns: ` + strings.Join(psNames(), ", ") + `.`,
		Example: `  hull top web
  hull top web aux
  hull top web -o pid,rss,args`,
		Args:              minArgs(1),
		ValidArgsFunction: completeFirst(completeRunning(a)),
		RunE: func(cmd *cobra.Command, args []string) error {
			columns, err := psColumns(args[1:])
			if err != nil {
				return err
			}
			e, err := a.engine()
			if err != nil {
				return err
			}
			list, err := e.Processes(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if list.More {
				a.say("%s: only the first %d processes are shown", cmd.CommandPath(), len(list.List))
			}
			t := tabwriter.NewWriter(a.stdout, 20, 1, 3, ' ', 0)
			line := func(cell func(psColumn) string) {
				cells := make([]string, len(columns))
				for i, c := range columns {
					cells[i] = clean(cell(c))
				}
				fmt.Fprintln(t, strings.Join(cells, "\t"))
			}
			line(func(c psColumn) string { return c.heading })
			now := time.Now()
			for i := range list.List {
				line(func(c psColumn) string { return c.cell(&psProcess{&list.List[i], list, now}) })
			}
			return t.Flush()
		},
	}
	cmd.Flags().SetInterspersed(false) // what follows CONTAINER is for ps
	return cmd
}

// psProcess is a process with what its columns depend on.
type psProcess struct {
	*engine.ProcessInfo
	list *engine.ProcessList
	now  time.Time
}

// psColumn is a column of ps(1).
type psColumn struct {
	heading string
	cell    func(*psProcess) string
}

// psTable lists the columns by the names that ps -o knows them by.
func psTable() map[string]psColumn {
	number := func(heading string, value func(*psProcess) int64) psColumn {
		return psColumn{heading, func(p *psProcess) string { return strconv.FormatInt(value(p), 10) }}
	}
	user := func(p *psProcess) string { return idName(p.UID) }
	group := func(p *psProcess) string { return idName(p.GID) }
	comm := func(p *psProcess) string { return p.Comm }
	table := map[string]psColumn{
		"pid":   number("PID", func(p *psProcess) int64 { return int64(p.PID) }),
		"ppid":  number("PPID", func(p *psProcess) int64 { return int64(p.PPID) }),
		"pgid":  number("PGID", func(p *psProcess) int64 { return int64(p.PGID) }),
		"sid":   number("SID", func(p *psProcess) int64 { return int64(p.SID) }),
		"uid":   number("UID", func(p *psProcess) int64 { return int64(p.UID) }),
		"gid":   number("GID", func(p *psProcess) int64 { return int64(p.GID) }),
		"user":  {"USER", user},
		"group": {"GROUP", group},
		"c":     number("C", func(p *psProcess) int64 { return int64(p.cpuPercent()) }),
		"pcpu":  {"%CPU", func(p *psProcess) string { return oneDigit(p.cpuPercent()) }},
		"pmem":  {"%MEM", func(p *psProcess) string { return oneDigit(p.memoryPercent()) }},
		"vsz":   number("VSZ", func(p *psProcess) int64 { return int64(p.Virtual >> 10) }),
		"rss":   number("RSS", func(p *psProcess) int64 { return int64(p.RSS >> 10) }),
		"ni":    number("NI", func(p *psProcess) int64 { return int64(p.Nice) }),
		"nlwp":  number("NLWP", func(p *psProcess) int64 { return int64(p.Threads) }),
		"tty":   {"TTY", func(p *psProcess) string { return ttyName(p.TTY) }},
		"stat":  {"STAT", func(p *psProcess) string { return p.State }},
		"stime": {"STIME", func(p *psProcess) string { return startTime(p.started(), p.now) }},
		"start": {"START", func(p *psProcess) string { return startTime(p.started(), p.now) }},
		"etime": {"ELAPSED", func(p *psProcess) string { return elapsedTime(p.elapsed()) }},
		"time":  {"TIME", func(p *psProcess) string { return cpuTime(p.cpu()) }},
		"comm":  {"COMMAND", comm},
		"args":  {"COMMAND", func(p *psProcess) string { return p.command() }},
		"cmd":   {"CMD", func(p *psProcess) string { return p.command() }},
	}
	for alias, name := range map[string]string{
		"%cpu": "pcpu", "%mem": "pmem", "vsize": "vsz", "nice": "ni", "thcount": "nlwp", "tt": "tty", "tname": "tty", "s": "stat", "state": "stat",
		"command": "args", "ucmd": "comm", "ucomm": "comm", "euser": "user", "ruser": "user", "euid": "uid", "egid": "gid", "cputime": "time",
		"sess": "sid", "session": "sid", "pgrp": "pgid", "rssize": "rss", "start_time": "stime",
	} {
		table[alias] = table[name]
	}
	return table
}

// psNames lists the columns without their other names.
func psNames() []string {
	return []string{
		"pid", "ppid", "pgid", "sid", "uid", "gid", "user", "group", "c", "pcpu", "pmem", "vsz", "rss", "ni", "nlwp",
		"tty", "stat", "stime", "start", "etime", "time", "comm", "args", "cmd",
	}
}

// psColumns reads options of ps, as far as they choose columns.
func psColumns(options []string) ([]psColumn, error) {
	names := "user=UID,pid,ppid,c,stime,tty,time,cmd"
	chosen := ""
	for i := 0; i < len(options); i++ {
		option := options[i]
		letters := strings.TrimLeft(option, "-")
		switch value, isFormat := formatOption(option); {
		case isFormat:
			if value == "" {
				if i++; i == len(options) {
					return nil, fmt.Errorf("ps option %s: names of columns must follow", option)
				}
				value = options[i]
			}
			chosen += "," + value
		case letters == "" || strings.Trim(letters, "eAfaxuw") != "":
			return nil, fmt.Errorf("ps option %q: -ef, aux and -o are known", option)
		case strings.Contains(letters, "u"):
			names = "user,pid,pcpu,pmem,vsz,rss,tty,stat,start,time,args"
		}
	}
	if chosen != "" {
		names = chosen[1:]
	}
	table := psTable()
	var columns []psColumn
	for _, item := range strings.FieldsFunc(names, func(r rune) bool { return r == ',' || r == ' ' }) {
		name, heading, renamed := strings.Cut(item, "=")
		c, ok := table[strings.ToLower(name)]
		if !ok {
			return nil, fmt.Errorf("ps column %q: known are %s", name, strings.Join(psNames(), ", "))
		}
		if renamed {
			c.heading = heading
		}
		columns = append(columns, c)
	}
	return columns, nil
}

// formatOption tells whether an option takes names of columns, and those that it has in itself: -o, o, -eo, -opid, --format=pid.
func formatOption(option string) (value string, ok bool) {
	if rest, ok := strings.CutPrefix(option, "--format"); ok {
		return strings.TrimPrefix(rest, "="), true
	}
	letters, value, ok := strings.Cut(strings.TrimPrefix(option, "-"), "o")
	return value, ok && strings.Trim(letters, "eAfax") == ""
}

func (p *psProcess) cpu() time.Duration     { return p.ticks(p.User + p.System) }
func (p *psProcess) elapsed() time.Duration { return p.ticks(max(p.list.Now-p.Start, 0)) }

func (p *psProcess) started() time.Time {
	return time.Unix(p.list.Boot, 0).Add(p.ticks(p.Start))
}

// ticks turns the guest's unit of time into ours. A guest that tells nonsense gets some.
func (p *psProcess) ticks(n int64) time.Duration {
	if p.list.Ticks <= 0 || n < 0 {
		return 0
	}
	return time.Duration(float64(n) / float64(p.list.Ticks) * float64(time.Second))
}

func (p *psProcess) cpuPercent() float64 {
	if p.elapsed() <= 0 {
		return 0
	}
	return 100 * float64(p.cpu()) / float64(p.elapsed())
}

func (p *psProcess) memoryPercent() float64 {
	if p.list.Memory == 0 {
		return 0
	}
	return 100 * float64(p.RSS) / float64(p.list.Memory)
}

// command is the command line, or the name in brackets of a process without one.
func (p *psProcess) command() string {
	if len(p.Args) == 0 {
		return "[" + p.Comm + "]"
	}
	return strings.Join(p.Args, " ")
}

func oneDigit(f float64) string { return strconv.FormatFloat(f, 'f', 1, 64) }

// idName is root, or a number: the names of others are in the image.
func idName(id uint32) string {
	if id == 0 {
		return "root"
	}
	return strconv.FormatUint(uint64(id), 10)
}

// Major numbers of terminals (Documentation/admin-guide/devices.txt of Linux).
const (
	majorTTY     = 4
	majorPTS     = 136 // to 143, with 256 terminals each
	firstSerial  = 64  // minor number of ttyS0
	minorsPerPTS = 256
)

// ttyName is the terminal with a device number as proc(5) has it.
func ttyName(dev int) string {
	major, minor := dev>>8&0xfff, dev&0xff|dev>>12&0xfff00
	switch {
	case major >= majorPTS && major < majorPTS+8:
		return "pts/" + strconv.Itoa((major-majorPTS)*minorsPerPTS+minor)
	case major == majorTTY && minor >= firstSerial:
		return "ttyS" + strconv.Itoa(minor-firstSerial)
	case major == majorTTY:
		return "tty" + strconv.Itoa(minor)
	}
	return "?"
}

// startTime is a time of day for today, else a day.
func startTime(start, now time.Time) string {
	switch {
	case start.Year() == now.Year() && start.YearDay() == now.YearDay():
		return start.Format("15:04")
	case start.Year() == now.Year():
		return start.Format("Jan02")
	}
	return start.Format("2006")
}

// cpuTime is hours, minutes and seconds, with days in front if there are any.
func cpuTime(d time.Duration) string {
	s := int64(d.Seconds())
	clock := fmt.Sprintf("%02d:%02d:%02d", s/3600%24, s/60%60, s%60)
	if days := s / 86400; days > 0 {
		return fmt.Sprintf("%d-%s", days, clock)
	}
	return clock
}

// elapsedTime is the same without hours if there are none.
func elapsedTime(d time.Duration) string { return strings.TrimPrefix(cpuTime(d), "00:") }
