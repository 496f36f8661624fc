package timeline

import (
	"encoding/xml"
	"io"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

var example = []Mark{
	{Exec, 1_000_000_000},
	{Main, 1_002_000_000},
	{Process, 1_004_500_000},
	{Init, 1_080_000_000},
	{Workload, 1_100_000_000},
}

func TestMarksAreSorted(t *testing.T) {
	var line Timeline
	line.Mark(Init, 30)
	line.Mark(Exec, 10)
	line.Mark(Main, 20)
	got := line.Marks()
	if len(got) != 3 || got[0].Stage != Exec || got[1].Stage != Main || got[2].Stage != Init {
		t.Errorf("marks: %v", got)
	}
	var none *Timeline
	none.Mark(Exec, 1)
	if none.Marks() != nil {
		t.Error("a nil timeline has marks")
	}
}

func TestWriteText(t *testing.T) {
	var b strings.Builder
	if err := WriteText(&b, example, 80, false); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	if len(lines) != len(example)-1 {
		t.Fatalf("%d lines:\n%s", len(lines), b.String())
	}
	for _, line := range lines {
		if n := utf8.RuneCountInString(line); n != 80 {
			t.Errorf("line has %d characters, want 80: %q", n, line)
		}
	}
	for i, want := range []string{"2.0 ms", "2.5 ms", "75.5 ms", "20.0 ms"} {
		if !strings.Contains(lines[i], want) {
			t.Errorf("line %q: no %q", lines[i], want)
		}
	}
	if !strings.HasSuffix(lines[3], "100.0 ms") || !strings.Contains(lines[2], "█") {
		t.Errorf("chart:\n%s", b.String())
	}
	b.Reset()
	if err := WriteText(&b, example, 80, true); err != nil || !strings.Contains(b.String(), "\x1b[33m") {
		t.Errorf("coloured: %v\n%s", err, b.String())
	}
}

func TestWriteTextOfNothing(t *testing.T) {
	for _, marks := range [][]Mark{nil, example[:1], {{Exec, 5}, {Main, 5}}} {
		var b strings.Builder
		if err := WriteText(&b, marks, 10, false); err != nil {
			t.Error(err)
		}
		if err := WriteSVG(&b, "nothing", marks); err != nil {
			t.Error(err)
		}
	}
}

func TestWriteSVG(t *testing.T) {
	var b strings.Builder
	if err := WriteSVG(&b, `hull run <uroot> & "more"`, example); err != nil {
		t.Fatal(err)
	}
	d := xml.NewDecoder(strings.NewReader(b.String()))
	rects := 0
	for {
		token, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("not XML: %v\n%s", err, b.String())
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "rect" {
			rects++
		}
	}
	if want := len(example) - 1 + 1; rects != want {
		t.Errorf("%d rectangles, want %d", rects, want)
	}
}

func TestGridStep(t *testing.T) {
	for _, all := range []time.Duration{1, time.Microsecond, 17 * time.Millisecond, 100 * time.Millisecond, time.Hour} {
		if step := gridStep(all); step <= 0 || all/step > 9 {
			t.Errorf("gridStep(%v) = %v", all, step)
		}
	}
}
