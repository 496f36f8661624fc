// Package timeline collects when the stages of a VM's start were reached, on
// the host and in the guest, and draws them as a bar chart: for a terminal
// (WriteText) and as an SVG (WriteSVG).
//
// A stage is named by what was reached at its end, so a bar is the time that
// reaching it took.
package timeline

import (
	"cmp"
	"slices"
	"sync"
	"time"
)

// Stages in their order, as they are labelled in charts.
const (
	Exec     = "hull started"     // the program was executed
	Main     = "hull main"        // its main function was reached
	Prepared = "disks, config"    // all is ready for the VM process
	Process  = "vm process"       // main of the VM process was reached
	KVM      = "kvm ready"        // VM, vCPUs and interrupt controllers exist
	Memory   = "memory, kernel"   // RAM, kernel and initramfs are in place
	Devices  = "devices"          // devices are attached
	Run      = "first vcpu run"   // the first vCPU enters the guest
	Entry    = "kernel entry"     // the kernel's first exit to the host was seen
	Init     = "init"             // the guest's init runs
	Agent    = "agent ready"      // the agent listens
	Hello    = "agent hello"      // and has told the host so
	Workload = "workload running" // the workload's program was executed
	Ended    = "workload ended"   // it has exited
	Exit     = "vm process gone"  // the VM is gone and all is cleaned up
)

// Mark is one stage: its name and when it was reached.
type Mark struct {
	Stage string
	Time  int64 // CLOCK_MONOTONIC of the host, ns
}

// Timeline is a collection of marks. Its methods may be called from any
// goroutine, and on a nil Timeline, which collects nothing.
type Timeline struct {
	mu    sync.Mutex
	marks []Mark
}

// Mark notes that a stage was reached at t, in ns of the host's CLOCK_MONOTONIC.
func (t *Timeline) Mark(stage string, at int64) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.marks = append(t.marks, Mark{stage, at})
}

// Marks returns the marks in the order of their times.
func (t *Timeline) Marks() []Mark {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	marks := slices.Clone(t.marks)
	slices.SortStableFunc(marks, func(a, b Mark) int { return cmp.Compare(a.Time, b.Time) })
	return marks
}

// bar is a stage as it is drawn.
type bar struct {
	stage string
	start time.Duration // since the first mark
	took  time.Duration
}

// bars turns marks into bars: each from the mark before it to its own.
func bars(marks []Mark) []bar {
	var list []bar
	for i := 1; i < len(marks); i++ {
		list = append(list, bar{
			stage: marks[i].Stage,
			start: time.Duration(marks[i-1].Time - marks[0].Time),
			took:  time.Duration(marks[i].Time - marks[i-1].Time),
		})
	}
	return list
}

// total is the time from the first mark to the last.
func total(list []bar) time.Duration {
	if len(list) == 0 {
		return 0
	}
	last := list[len(list)-1]
	return last.start + last.took
}
