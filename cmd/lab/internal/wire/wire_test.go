package wire

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRoundTrip(t *testing.T) {
	var b bytes.Buffer
	want := Request{
		Command:     []string{"cat", "-"},
		Environment: []string{"A=b"},
		Directory:   "/tmp",
		Terminal:    &Size{Rows: 25, Cols: 80},
		Copies:      []Copy{{"/a", "/b"}},
	}
	if err := WriteJSON(&b, KindRequest, want); err != nil {
		t.Fatal(err)
	}
	if err := Write(&b, KindInputEnd, nil); err != nil {
		t.Fatal(err)
	}
	kind, payload, err := Read(&b)
	if err != nil || kind != KindRequest {
		t.Fatalf("kind %d, %v", kind, err)
	}
	got, err := ReadRequest(payload)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&want, got); diff != "" {
		t.Error(diff)
	}
	if kind, payload, err := Read(&b); kind != KindInputEnd || len(payload) != 0 || err != nil {
		t.Errorf("%d, %q, %v", kind, payload, err)
	}
	if _, _, err := Read(&b); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
}

var malformed = []struct {
	name string
	data string
	want error
}{
	{"half a header", "\x02\x00", io.ErrUnexpectedEOF},
	{"half a payload", "\x02\x00\x00\x00\x05abc", io.ErrUnexpectedEOF},
	{"no payload at all", "\x02\x00\x00\x00\x05", io.ErrUnexpectedEOF},
	{"kind 0", "\x00\x00\x00\x00\x00", ErrFrame},
	{"kind 99", "\x63\x00\x00\x00\x00", ErrFrame},
	{"too long", "\x02\xff\xff\xff\xff", ErrFrame},
}

func TestMalformed(t *testing.T) {
	for _, c := range malformed {
		if _, _, err := Read(bytes.NewReader([]byte(c.data))); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	for _, c := range []string{"", "{}", `{"Command":[""]}`, `{"Command":[]}`, `[1`} {
		if _, err := ReadRequest([]byte(c)); !errors.Is(err, ErrFrame) {
			t.Errorf("request %q: %v", c, err)
		}
	}
	if err := Write(io.Discard, KindInput, make([]byte, MaxPayload+1)); !errors.Is(err, ErrFrame) {
		t.Errorf("writing too much: %v", err)
	}
}

func FuzzRead(f *testing.F) {
	for _, c := range malformed {
		f.Add([]byte(c.data))
	}
	f.Add([]byte("\x01\x00\x00\x00\x14{\"Command\":[\"true\"]}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		for {
			kind, payload, err := Read(r)
			if err != nil {
				return
			}
			if kind == KindRequest {
				if q, err := ReadRequest(payload); err == nil && len(q.Command) == 0 {
					t.Error("request without a command accepted")
				}
			}
		}
	})
}
