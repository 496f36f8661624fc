package vmm

import (
	"fmt"

	"github.com/hullvm/hull/devices"
	"github.com/hullvm/hull/vmm/vcpu"
)

// consoleLines is how much of the serial port's output goes with the report of
// a guest that did not end in order.
const consoleLines = 30

// orderly tells whether nobody will ask what the guest said last. Of a reset they
// will: a kernel that panics may ask for one. Of a stop too: a host that has
// waited in vain for its guest's agent stops it.
func (r *Result) orderly() bool { return r.Reason == ReasonPowerOff }

// power is told by devices, on a vCPU's thread, that the guest wants to end.
func (m *Machine) power(e devices.PowerEvent) {
	switch e {
	case devices.PowerOff:
		m.end(Result{Reason: ReasonPowerOff, Status: StatusPowerOff, Message: "the guest powered off"})
	case devices.Reset:
		m.end(Result{Reason: ReasonReboot, Status: StatusReboot, Message: "the guest rebooted; hull does not start it again"})
	case devices.Panicked:
		m.end(Result{Reason: ReasonPanic, Status: StatusPanic, Message: "the guest kernel panicked"})
	}
}

// crashed is told by a vCPU that it cannot go on.
func (m *Machine) crashed(e *vcpu.CrashError) {
	r := Result{Reason: ReasonFailure, Status: StatusFailure}
	if e.TripleFault() {
		r.Reason, r.Status = ReasonTripleFault, StatusTripleFault
	}
	r.Message = fmt.Sprintf("%v\n%s", e, e.Dump)
	m.end(r)
}
