package proto

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestFrameRoundTrip(t *testing.T) {
	hosts := "127.0.0.1 localhost\n"
	for _, want := range []Message{
		{Type: TypeHello, Hello: &Hello{Version: 1, MinVersion: 1, Kernel: "6.12.1", Stages: map[string]int64{"init": 1}, Now: 2}},
		{Type: TypeOK, ID: 7},
		{Type: TypeError, ID: 1, Error: &Error{Code: CodeNotFound, Message: "no such file"}},
		{Type: TypeStart, ID: 2, Start: &Start{
			Process: InitProcess, Spec: &specs.Spec{Process: &specs.Process{Args: []string{"a", "b\x00c"}}},
			Root: RootFS{Disk: "vda", Layers: 3, Upper: "vdb"}, Streams: []string{StreamStdin}, Entropy: []byte{0, 255}, Hosts: &hosts}},
	} {
		var buf bytes.Buffer
		if err := WriteFrame(&buf, want); err != nil {
			t.Fatal(err)
		}
		buf.WriteString("rest")
		var got Message
		if err := ReadFrame(iotest.OneByteReader(&buf), &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("message changed on its way (-want +got):\n%s", diff)
		}
		if buf.String() != "rest" {
			t.Errorf("left after the frame: %q, want %q", buf.String(), "rest")
		}
	}
}

func frame(size uint32, body string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, size), body...)
}

func TestReadFrameRefuses(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   []byte
		want error // nil: any
	}{
		{"empty", nil, io.EOF},
		{"part of a length", []byte{0, 0}, io.ErrUnexpectedEOF},
		{"size zero", frame(0, ""), ErrFrameSize},
		{"one too large", frame(MaxFrame+1, ""), ErrFrameSize},
		{"huge", frame(1<<32-1, "x"), ErrFrameSize},
		{"body missing", frame(5, ""), io.ErrUnexpectedEOF},
		{"body cut", frame(MaxFrame, `{"type":"ok"`), io.ErrUnexpectedEOF},
		{"not JSON", frame(3, "abc"), nil},
		{"wrong type", frame(2, "[]"), nil},
		{"negative id", frame(9, `{"id":-1}`), nil},
	} {
		var m Message
		err := ReadFrame(bytes.NewReader(tt.in), &m)
		if err == nil || (tt.want != nil && !errors.Is(err, tt.want)) {
			t.Errorf("%s: error %v, want %v", tt.name, err, tt.want)
		}
	}
}

func TestWriteFrameRefusesLarge(t *testing.T) {
	var buf bytes.Buffer
	if err := WriteFrame(&buf, strings.Repeat("x", MaxFrame)); !errors.Is(err, ErrFrameSize) {
		t.Errorf("error %v, want %v", err, ErrFrameSize)
	}
	if buf.Len() != 0 {
		t.Errorf("%d bytes were written", buf.Len())
	}
}

// A later version adds types and fields: they must not keep this one from working.
func TestUnknownIsIgnored(t *testing.T) {
	in := `{"type":"teleport","id":3,"teleport":{"to":"mars"},"hello":{"version":9,"minVersion":1,"new":[1]}}`
	var m Message
	if err := ReadFrame(bytes.NewReader(frame(uint32(len(in)), in)), &m); err != nil {
		t.Fatal(err)
	}
	if m.Type != "teleport" || m.ID != 3 {
		t.Errorf("got %+v", m)
	}
	if err := m.Hello.Check(); err != nil {
		t.Errorf("a newer agent that still serves version 1: %v", err)
	}
}

func TestHelloCheck(t *testing.T) {
	for _, tt := range []struct {
		h  Hello
		ok bool
	}{
		{Hello{Version: Version, MinVersion: MinVersion}, true},
		{Hello{Version: MinVersion, MinVersion: 0}, true},
		{Hello{Version: Version + 5, MinVersion: Version}, true},
		{Hello{}, false},
		{Hello{Version: MinVersion - 1}, false},
		{Hello{Version: Version + 5, MinVersion: Version + 1}, false},
	} {
		if err := tt.h.Check(); (err == nil) != tt.ok {
			t.Errorf("%+v: %v", tt.h, err)
		}
	}
}

func TestExitCodes(t *testing.T) {
	if got := (&Exited{Signal: 9}).Code(); got != 137 {
		t.Errorf("killed by 9: %d", got)
	}
	if got := (&Exited{Status: 7}).Code(); got != 7 {
		t.Errorf("exit 7: %d", got)
	}
	for code, want := range map[Code]int{CodeNotFound: 127, CodeNotExecutable: 126, CodeInvalid: 125, "?": 125} {
		if got := (&Error{Code: code}).ExitCode(); got != want {
			t.Errorf("%s: %d, want %d", code, got, want)
		}
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add(frame(2, "{}"))
	f.Add(frame(0, ""))
	f.Add(frame(MaxFrame+1, "{}"))
	f.Add(frame(40, `{"type":"hello","hello":{"version":1}}`))
	f.Add(frame(20, `{"start":{"spec":{}}}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		var m Message
		if err := ReadFrame(r, &m); err != nil {
			return
		}
		if used, size := len(in)-r.Len(), int(binary.BigEndian.Uint32(in)); used != 4+size {
			t.Errorf("took %d bytes of a frame of %d", used, 4+size)
		}
		var buf bytes.Buffer
		if err := WriteFrame(&buf, m); err != nil && !errors.Is(err, ErrFrameSize) {
			t.Errorf("what was read cannot be written: %v", err)
		}
	})
}
