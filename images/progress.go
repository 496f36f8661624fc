package images

import (
	"io"
	"time"
)

// A Phase is what is being done to a part of an image.
type Phase string

// Phases in the order in which a layer goes through them on its way into the store; not every layer goes through all.
const (
	PhaseResolving   Phase = "resolving"   // asking the registry for the manifest; ID is the image's name
	PhaseReading     Phase = "reading"     // reading an archive, Current and Total in bytes of it
	PhaseWaiting     Phase = "waiting"     // for its turn, or for another process that fetches the same layer
	PhaseDownloading Phase = "downloading" // bytes of the compressed layer
	PhaseRetrying    Phase = "retrying"    // after an error, in Message
	PhaseVerifying   Phase = "verifying"   // digests and entries are checked, bytes of the compressed layer
	PhaseConverting  Phase = "converting"  // to a disk image, bytes of the compressed layer
	PhaseExists      Phase = "exists"      // final: the store had this layer
	PhaseDone        Phase = "done"        // final: the layer is in the store
)

// Phases of a layer on its way out of the store.
const (
	PhasePreparing Phase = "preparing" // before it is its turn
	PhasePushing   Phase = "pushing"   // to the registry, bytes of the compressed layer
	PhaseThere     Phase = "there"     // final: the registry had this layer
	PhaseMounted   Phase = "mounted"   // final: the registry had it in another repository, named in Message
	PhasePushed    Phase = "pushed"    // final: the registry has it
	PhaseWriting   Phase = "writing"   // to an archive, bytes of the compressed layer
	PhaseWritten   Phase = "written"   // final
)

// Event is one step of progress.
type Event struct {
	// ID names what the event is about: a layer by the hexadecimal digits of its digest (show the first 12),
	// else the image or archive.
	ID    string
	Phase Phase
	// Current and Total are bytes; Total is 0 when it is not known.
	Current, Total int64
	// Message explains PhaseRetrying and PhaseMounted; empty otherwise.
	Message string
}

// Progress is told what a Load, Import, Pull, Push or Save is doing. Several layers are
// worked on at once, so Progress is called from several goroutines, at most
// about ten times a second for each layer and once for every change of phase.
// It must not block: the work waits for it.
type Progress interface {
	Progress(Event)
}

// ProgressFunc makes a function a Progress.
type ProgressFunc func(Event)

// Progress calls f.
func (f ProgressFunc) Progress(e Event) { f(e) }

// reportEvery bounds how often the progress of one layer is told.
const reportEvery = 100 * time.Millisecond

// reporter tells about one layer or archive. It may be used by one goroutine at a time.
type reporter struct {
	to    Progress // may be nil
	id    string
	phase Phase
	last  time.Time
}

// report tells about progress within the phase, or about a new one.
func (r *reporter) report(phase Phase, current, total int64, message string) {
	if r == nil || r.to == nil {
		return
	}
	now := time.Now()
	if phase == r.phase && now.Sub(r.last) < reportEvery && (current < total || total == 0) {
		return
	}
	r.phase, r.last = phase, now
	r.to.Progress(Event{ID: r.id, Phase: phase, Current: current, Total: total, Message: message})
}

// reader tells how much of a stream of total bytes has been read.
func (r *reporter) reader(in io.Reader, phase Phase, total int64) io.Reader {
	if r == nil || r.to == nil {
		return in
	}
	r.report(phase, 0, total, "")
	return &reportingReader{in, r, phase, 0, total}
}

type reportingReader struct {
	io.Reader
	reporter       *reporter
	phase          Phase
	current, total int64
}

func (r *reportingReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.current += int64(n)
	r.reporter.report(r.phase, r.current, r.total, "")
	return n, err
}
