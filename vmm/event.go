package vmm

// Exit reasons of a VM, as reported in Event.Reason.
const (
	ReasonPowerOff    = "poweroff"     // the guest switched itself off
	ReasonReboot      = "reboot"       // the guest asked for a reset; hull does not start it again
	ReasonPanic       = "panic"        // the guest kernel panicked
	ReasonTripleFault = "triple-fault" // the guest CPU shut down
	ReasonFailure     = "failure"      // KVM could not go on with the guest
	ReasonStopped     = "stopped"      // the host ended it
)

// Exit statuses of `hull boot` and of the VM process, one for each reason.
const (
	StatusPowerOff    = 0
	StatusStopped     = 0
	StatusReboot      = 120
	StatusPanic       = 121
	StatusTripleFault = 122
	StatusFailure     = 123
	StatusHull        = 125 // hull itself failed
)

// Stages of a start, in order, as reported in Event.Name.
const (
	StageProcess = "process"    // main of the VM process reached
	StageKVM     = "kvm"        // VM, vCPUs and interrupt controllers exist
	StageMemory  = "memory"     // RAM, kernel and initramfs are in place
	StageDevices = "devices"    // devices are attached
	StageRun     = "vcpu-run"   // the first vCPU enters the guest
	StageEntry   = "first-exit" // the guest's first exit was seen
)

// Event is what a VM process reports on its control stream, a line of JSON
// each.
type Event struct {
	Event   string `json:"event"` // "stage", "exit", "error", "ok"
	Time    int64  `json:"time"`  // CLOCK_MONOTONIC, ns
	Name    string `json:"name,omitempty"`
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
	Status  int    `json:"status,omitempty"`
	Console string `json:"console,omitempty"` // the last of the serial output, on an abnormal exit

	Balloon *BalloonStats `json:"balloon,omitempty"` // the answer to CommandBalloonStats
	Metrics *Metrics      `json:"metrics,omitempty"` // the answer to CommandMetrics
}

// Commands to a VM process, as in Command.Command.
const (
	CommandPause        = "pause"
	CommandResume       = "resume"
	CommandStop         = "stop"
	CommandResize       = "resize"        // the virtio console's terminal has now Rows and Cols
	CommandBalloon      = "balloon"       // ask the guest for Bytes of its memory
	CommandBalloonStats = "balloon-stats" // answered with Event.Balloon, without keeping other commands waiting
	CommandMetrics      = "metrics"       // answered with Event.Metrics
	CommandSnapshot     = "snapshot"      // write a paused machine to two files, whose descriptors come with the command: state and memory
)

// Command is what may be written to a VM process on its control stream, a
// line of JSON each. Each is answered by an "ok" or "error" event whose Name
// is the command.
type Command struct {
	Command string `json:"command"`
	Rows    uint16 `json:"rows,omitempty"`
	Cols    uint16 `json:"cols,omitempty"`
	Bytes   uint64 `json:"bytes,omitempty"`
	Sync    bool   `json:"sync,omitempty"` // a snapshot is to be on stable storage before it is answered
	Diff    bool   `json:"diff,omitempty"` // a snapshot of what has changed since the last
}
