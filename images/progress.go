package images

// A Phase is what is being done to a part of an image.
type Phase string

// Phases in the order in which a layer goes through them; not every layer goes through all.
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

// Event is one step of progress.
type Event struct {
	// ID names what the event is about: a layer by the hexadecimal digits of its digest (show the first 12),
	// else the image or archive.
	ID    string
	Phase Phase
	// Current and Total are bytes; Total is 0 when it is not known.
	Current, Total int64
	// Message explains PhaseRetrying; empty otherwise.
	Message string
}

// Progress is told what a Load, Import or Pull is doing. Several layers are
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
