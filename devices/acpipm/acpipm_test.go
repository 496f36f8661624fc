package acpipm

import (
	"math"
	"slices"
	"testing"

	"github.com/hullvm/hull/devices"
)

func TestWrites(t *testing.T) {
	tests := []struct {
		name string
		off  uint64
		p    []byte
		want []devices.PowerEvent
	}{
		{"S5", SleepControl, []byte{SleepTypeS5<<2 | 1<<5}, []devices.PowerEvent{devices.PowerOff}},
		{"S5 with reserved bits", SleepControl, []byte{SleepTypeS5<<2 | 1<<5 | 0xc3}, []devices.PowerEvent{devices.PowerOff}},
		{"S5 type without enable", SleepControl, []byte{SleepTypeS5 << 2}, nil},
		{"S3", SleepControl, []byte{1<<2 | 1<<5}, nil},
		{"wake status cleared", SleepStatus, []byte{0x80}, nil},
		{"reset", ResetRegister, []byte{ResetValue}, []devices.PowerEvent{devices.Reset}},
		{"another reset value", ResetRegister, []byte{6}, nil},
		{"wide write over all registers", 0, []byte{SleepTypeS5<<2 | 1<<5, 0, ResetValue, 0, 9, 9, 9, 9}, []devices.PowerEvent{devices.PowerOff, devices.Reset}},
		{"past the end", Size, []byte{1}, nil},
		{"offset wraps", math.MaxUint64, []byte{0xff, SleepTypeS5<<2 | 1<<5, 0, ResetValue}, nil},
		{"empty", 0, nil, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got []devices.PowerEvent
			New(func(e devices.PowerEvent) { got = append(got, e) }).Write(tt.off, tt.p)
			if !slices.Equal(got, tt.want) {
				t.Errorf("events = %v, want %v", got, tt.want)
			}
		})
	}
	New(nil).Write(ResetRegister, []byte{ResetValue})
}

func TestReadsZero(t *testing.T) {
	p := []byte{1, 2, 3, 4}
	New(nil).Read(0, p)
	if !slices.Equal(p, make([]byte, 4)) {
		t.Errorf("registers = %v, want zeros", p)
	}
}
