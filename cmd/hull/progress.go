package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/jedib0t/go-pretty/v6/progress"
	"github.com/jedib0t/go-pretty/v6/text"

	"github.com/hullvm/hull/images"
)

// progressView shows what a pull, push, load or save is doing: as bars on a terminal, a line
// for each step elsewhere, or not at all.
type progressView struct {
	out  io.Writer // nil: show nothing
	bars progress.Writer

	mu       sync.Mutex
	phases   map[string]images.Phase
	trackers map[string]*progress.Tracker
	rendered chan struct{} // closed when the bars are drawn for the last time; nil before the first
}

func newProgress(a *app, f *os.File, quiet bool) *progressView {
	p := &progressView{phases: make(map[string]images.Phase)}
	if quiet {
		return p
	}
	p.out = f
	if !isTerminal(f) {
		return p
	}
	p.trackers = make(map[string]*progress.Tracker)
	p.bars = progress.NewWriter()
	p.bars.SetOutputWriter(f)
	p.bars.SetUpdateFrequency(100 * time.Millisecond)
	p.bars.SetTrackerLength(30)
	p.bars.SetMessageLength(34)
	p.bars.SetTrackerPosition(progress.PositionRight)
	p.bars.SetTerminalWidth(width(f))
	style := progress.StyleBlocks
	style.Visibility.Time = false
	style.Visibility.ETA = true
	style.Options.DoneString = ""
	style.Options.PercentFormat = "%3.0f%%"
	if a.color(f) {
		style.Colors = progress.StyleColorsDefault
		style.Colors.Tracker = text.Colors{text.FgCyan}
	}
	p.bars.SetStyle(style)
	return p
}

// Progress takes an event; it is an images.Progress.
func (p *progressView) Progress(e images.Event) {
	if p.out == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	name := shortEvent(e.ID)
	if p.bars != nil {
		p.draw(name, e)
		return
	}
	if p.phases[e.ID] != e.Phase || e.Message != "" {
		p.phases[e.ID] = e.Phase
		fmt.Fprintf(p.out, "%s: %s\n", name, phaseText(e))
	}
}

// draw brings the bar of an event up to date. The first one starts the drawing.
func (p *progressView) draw(name string, e images.Event) {
	t := p.trackers[e.ID]
	if t == nil {
		t = &progress.Tracker{Units: progress.UnitsBytes}
		p.trackers[e.ID] = t
		p.bars.AppendTracker(t)
	}
	t.UpdateMessage(fmt.Sprintf("%-12s %s", name, phaseText(e)))
	if e.Total > 0 {
		t.UpdateTotal(e.Total)
	}
	switch e.Phase {
	case images.PhaseDone, images.PhaseExists, images.PhaseThere, images.PhaseMounted, images.PhasePushed, images.PhaseWritten:
		t.SetValue(e.Current)
		t.MarkAsDone()
	default:
		// A full bar is drawn for the last time, but more may have to be said of it.
		if current := min(e.Current, e.Total-1); current > 0 {
			t.SetValue(current)
		}
	}
	if p.rendered == nil {
		p.rendered = make(chan struct{})
		go func() {
			p.bars.Render()
			close(p.rendered)
		}()
	}
}

// close draws the last state and returns when nothing more will be drawn.
func (p *progressView) close() {
	p.mu.Lock()
	rendered := p.rendered
	for _, t := range p.trackers {
		t.MarkAsDone()
	}
	p.mu.Unlock()
	if rendered == nil {
		return
	}
	// A stop before the drawing has begun would be lost, so it is repeated.
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		p.bars.Stop()
		select {
		case <-rendered:
			return
		case <-tick.C:
		}
	}
}

// shortEvent is what an event's subject is shown as: of a digest the beginning.
func shortEvent(id string) string {
	const digest = 64
	if len(id) == digest {
		return id[:12]
	}
	return id
}

// phaseText names a phase as docker does, where docker has it.
func phaseText(e images.Event) string {
	switch e.Phase {
	case images.PhaseResolving:
		return "Resolving"
	case images.PhaseReading:
		return "Reading"
	case images.PhaseWaiting:
		return "Waiting"
	case images.PhaseDownloading:
		return "Downloading"
	case images.PhaseRetrying:
		return "Retrying: " + clean(e.Message)
	case images.PhaseVerifying:
		return "Verifying Checksum"
	case images.PhaseConverting:
		return "Extracting"
	case images.PhaseExists:
		return "Already exists"
	case images.PhaseDone:
		return "Pull complete"
	case images.PhasePreparing:
		return "Preparing"
	case images.PhasePushing:
		return "Pushing"
	case images.PhaseThere:
		return "Layer already exists"
	case images.PhaseMounted:
		return "Mounted from " + clean(e.Message)
	case images.PhasePushed:
		return "Pushed"
	case images.PhaseWriting:
		return "Writing"
	case images.PhaseWritten:
		return "Written"
	}
	return string(e.Phase)
}
