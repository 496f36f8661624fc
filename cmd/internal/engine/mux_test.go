package engine

import (
	"bytes"
	"testing"
)

func FuzzMux(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 2, 'h', 'i', 0, 0, 0, 0, 0})
	f.Add([]byte{3, 0, 0, 0, 1, 0})
	f.Add([]byte{1, 255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, data []byte) {
		m := newMuxConn(nil)
		m.in.Reset(bytes.NewReader(data))
		buf := make([]byte, muxMost)
		for {
			if _, _, err := m.receive(buf); err != nil {
				return
			}
		}
	})
}
