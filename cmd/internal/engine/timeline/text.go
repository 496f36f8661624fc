package timeline

import (
	"fmt"
	"io"
	"math"
	"strings"
	"time"
)

// minText is the least width of a text chart in characters; a narrower terminal wraps.
const minText = 60

// WriteText draws the chart for a terminal of width characters:
//
//	hull main          2.1 ms ▕██▌                                 ▏   2.1 ms
//
// name, duration, a bar at its place in the whole, and the time since the start.
// Color adds ANSI colours.
func WriteText(w io.Writer, marks []Mark, width int, color bool) error {
	list := bars(marks)
	if len(list) == 0 {
		return nil
	}
	names := 0
	for _, b := range list {
		names = max(names, len(b.stage))
	}
	const figure = 10 // "1234.5 ms" with a space before it; the 4 are two spaces and the two ends of the field
	room := max(width, minText) - names - 2*figure - 4
	all := total(list)

	var out strings.Builder
	for i, b := range list {
		chart := drawBar(b.start, b.took, all, room)
		if color {
			// The two colours tell host from guest: see guest.
			code := "36"
			if inGuest(b.stage) {
				code = "33"
			}
			chart = "\x1b[" + code + "m" + chart + "\x1b[0m"
		}
		fmt.Fprintf(&out, "%-*s %10s ▕%s▏%10s", names, b.stage, milliseconds(b.took), chart, milliseconds(b.start+b.took))
		if i < len(list)-1 {
			out.WriteByte('\n')
		}
	}
	out.WriteByte('\n')
	_, err := io.WriteString(w, out.String())
	return err
}

// inGuest tells whether a stage is the guest's own work.
func inGuest(stage string) bool {
	switch stage {
	case Entry, Init, Agent, Workload, Ended:
		return true
	}
	return false
}

// drawBar draws a bar in a field of width characters, to an eighth of one. What
// took any time at all shows.
func drawBar(start, took, all time.Duration, width int) string {
	if all <= 0 || width <= 0 {
		return strings.Repeat(" ", max(width, 0))
	}
	scale := float64(width) / float64(all)
	from := min(int(float64(start)*scale), width-1)
	eighths := int(math.Round(float64(took) * scale * 8))
	eighths = min(max(eighths, 1), (width-from)*8)
	blocks := []rune(" ▏▎▍▌▋▊▉█")
	field := []rune(strings.Repeat(" ", width))
	for i := from; eighths > 0; i++ {
		field[i] = blocks[min(eighths, 8)]
		eighths -= 8
	}
	return string(field)
}

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
}
