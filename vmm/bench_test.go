package vmm

import (
	"fmt"
	"testing"

	"github.com/hullvm/hull/vmm/testguest"
)

// BenchmarkNew is a machine's start without its first instruction, and its end.
func BenchmarkNew(b *testing.B) {
	for _, cpus := range []int{1, 4, 64} {
		b.Run(fmt.Sprintf("cpus=%d", cpus), func(b *testing.B) {
			for b.Loop() {
				m, _, _ := bare(b, testguest.Hello, cpus)
				b.StopTimer()
				if err := m.Close(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}

// BenchmarkPortExit is one exit of the guest to a device and back, run at
// privilege level 3 so that it measures the exit on any KVM.
func BenchmarkPortExit(b *testing.B) {
	m, port, _ := bare(b, testguest.User, 1)
	b.ReportAllocs()
	if err := m.Start(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		<-port.accesses
	}
}
