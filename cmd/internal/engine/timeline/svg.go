package timeline

import (
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"strings"
	"time"
)

// Measures of the drawing, in pixels.
const (
	svgRow    = 26  // height of one bar with its gap
	svgBar    = 16  // height of the bar itself
	svgNames  = 150 // room for names at the left
	svgChart  = 620 // room for bars
	svgValues = 90  // room for a figure to the right of the last bar
	svgHead   = 64  // title and scale
	svgMargin = 20
)

// WriteSVG draws the chart as an SVG document. It needs no fonts, scripts or
// files beside it, and follows the reader's choice of light or dark.
func WriteSVG(w io.Writer, title string, marks []Mark) error {
	list := bars(marks)
	all := total(list)
	width := svgNames + svgChart + svgValues + 2*svgMargin
	height := svgHead + len(list)*svgRow + 2*svgMargin

	var out strings.Builder
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-label="%s">`+"\n",
		width, height, width, height, escape(title))
	out.WriteString(svgStyle)
	fmt.Fprintf(&out, `<rect class="paper" width="%d" height="%d" rx="10"/>`+"\n", width, height)
	fmt.Fprintf(&out, `<text class="title" x="%d" y="%d">%s</text>`+"\n", svgMargin, svgMargin+14, escape(title))
	fmt.Fprintf(&out, `<text class="sum" x="%d" y="%d">%s</text>`+"\n", width-svgMargin, svgMargin+14, milliseconds(all))

	x := func(t time.Duration) float64 {
		if all <= 0 {
			return svgMargin + svgNames
		}
		return svgMargin + svgNames + float64(t)/float64(all)*svgChart
	}
	bottom := float64(height - svgMargin)
	step := gridStep(all)
	for t := time.Duration(0); step > 0 && t <= all; t += step {
		fmt.Fprintf(&out, `<line class="grid" x1="%.1f" x2="%.1f" y1="%d" y2="%.1f"/>`, x(t), x(t), svgHead, bottom)
		fmt.Fprintf(&out, `<text class="scale" x="%.1f" y="%d">%s</text>`+"\n", x(t), svgHead-6, shortTime(t))
	}
	for i, b := range list {
		y := float64(svgHead + svgMargin/2 + i*svgRow)
		class := "host"
		if inGuest(b.stage) {
			class = "guest"
		}
		long := math.Max(x(b.start+b.took)-x(b.start), 1.5)
		fmt.Fprintf(&out, `<text class="name" x="%d" y="%.1f">%s</text>`, svgMargin+svgNames-10, y+svgBar-4, escape(b.stage))
		fmt.Fprintf(&out, `<rect class="%s" x="%.1f" y="%.1f" width="%.1f" height="%d" rx="3"><title>%s: %s, reached at %s</title></rect>`,
			class, x(b.start), y, long, svgBar, escape(b.stage), milliseconds(b.took), milliseconds(b.start+b.took))
		fmt.Fprintf(&out, `<text class="value" x="%.1f" y="%.1f">%s</text>`+"\n", x(b.start)+long+6, y+svgBar-4, milliseconds(b.took))
	}
	out.WriteString("</svg>\n")
	_, err := io.WriteString(w, out.String())
	return err
}

const svgStyle = `<style>
text { font: 12px ui-sans-serif, system-ui, sans-serif; fill: #24292f }
.paper { fill: #ffffff } .title { font-size: 15px; font-weight: 600 } .sum { font-size: 15px; font-weight: 600; text-anchor: end }
.name { text-anchor: end } .value, .scale { fill: #6e7781; font-size: 11px } .scale { text-anchor: middle }
.grid { stroke: #d0d7de; stroke-width: 1; stroke-dasharray: 2 4 } .host { fill: #2f81c7 } .guest { fill: #e08a2c }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .paper { fill: #0d1117 } .value, .scale { fill: #8b949e } .grid { stroke: #30363d } }
</style>
`

// gridStep chooses round distances so that there are four to ten lines.
func gridStep(all time.Duration) time.Duration {
	if all <= 0 {
		return 0
	}
	for step := time.Microsecond; ; step *= 10 {
		for _, factor := range []time.Duration{1, 2, 5} {
			if all/(step*factor) <= 9 {
				return step * factor
			}
		}
	}
}

func shortTime(t time.Duration) string {
	return fmt.Sprintf("%g ms", float64(t)/float64(time.Millisecond))
}

func escape(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a strings.Builder takes everything
	return b.String()
}
