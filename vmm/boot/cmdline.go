package boot

import (
	"fmt"
	"strings"
)

// addDeviceWords adds a virtio_mmio.device= word for each device to a command
// line (Documentation/admin-guide/kernel-parameters.txt:
// <size>@<baseaddr>:<irq>[:<id>]), before a "--", behind which words are init's.
func addDeviceWords(cmdline string, devices []Device) string {
	var b strings.Builder
	for _, d := range devices {
		fmt.Fprintf(&b, " virtio_mmio.device=%d@%#x:%d", d.Size, d.Base, d.GSI)
	}
	kernel, rest := cmdline, ""
	if i := initWords(cmdline); i >= 0 {
		kernel, rest = strings.TrimRight(cmdline[:i], " "), " "+cmdline[i:]
	}
	return strings.TrimPrefix(kernel+b.String(), " ") + rest
}

// initWords returns where the word "--" is, or -1. Words in double quotes do
// not count.
func initWords(cmdline string) int {
	quoted := false
	for i := 0; i < len(cmdline); i++ {
		switch {
		case cmdline[i] == '"':
			quoted = !quoted
		case !quoted && strings.HasPrefix(cmdline[i:], "--") &&
			(i == 0 || cmdline[i-1] == ' ') && (i+2 == len(cmdline) || cmdline[i+2] == ' '):
			return i
		}
	}
	return -1
}

// writeCommandLine puts the command line in its place.
func (l *loader) writeCommandLine() error {
	line := l.cmdline
	if strings.ContainsRune(line, 0) {
		return fmt.Errorf("boot: %w: it has a NUL byte in it", ErrCommandLine)
	}
	if limit := min(l.cmdlineMax, CommandLineSize-1); uint64(len(line)) > limit {
		return fmt.Errorf("boot: %w: %d bytes, this kernel takes %d", ErrCommandLine, len(line), limit)
	}
	b, err := l.mem.Slice(CommandLine, len(line)+1)
	if err != nil {
		return fmt.Errorf("boot: command line: %w", err)
	}
	b[copy(b, line)] = 0
	l.state.CommandLine = line
	return nil
}
