package outer

import (
	"bufio"
	"io"
	"os"
	"strconv"
	"strings"
)

// tscKHz is the frequency of the machine's time stamp counter, or 0 if it is not
// known. Told it, the machine's kernel need not measure it, which goes wrong when
// the host is busy. TCG hands the host's counter through, and the host's kernel
// publishes its frequency as "bogomips": loops of delay, which are two ticks each.
func (c Config) tscKHz() int {
	if c.Deterministic {
		return 1000_000 // one tick an instruction, one instruction a nanosecond
	}
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return 0
	}
	defer f.Close()
	return cpuinfoTSC(f)
}

func cpuinfoTSC(cpuinfo io.Reader) int {
	var constant bool
	var khz int
	lines := bufio.NewScanner(cpuinfo)
	for lines.Scan() && lines.Text() != "" { // the first CPU's paragraph
		key, value, _ := strings.Cut(lines.Text(), ":")
		switch value = strings.TrimSpace(value); strings.TrimSpace(key) {
		case "flags":
			flags := " " + value + " "
			constant = strings.Contains(flags, " constant_tsc ") && strings.Contains(flags, " nonstop_tsc ")
		case "bogomips":
			if mips, err := strconv.ParseFloat(value, 64); err == nil && mips > 0 && mips < 1e6 {
				khz = int(mips*1000/2 + 0.5)
			}
		}
	}
	if !constant {
		return 0
	}
	return khz
}
