package proto

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// answers serves the other end of a client's connection until that ends.
func answers(t *testing.T, answer func(m Message) Message) *Client {
	t.Helper()
	here, there := net.Pipe()
	var serving sync.WaitGroup
	serving.Go(func() {
		defer there.Close()
		if WriteFrame(there, Message{Type: TypeHello, Hello: &Hello{Version: Version, MinVersion: MinVersion}}) != nil {
			return
		}
		for {
			var m Message
			if ReadFrame(there, &m) != nil {
				return
			}
			a := answer(m)
			a.ID = m.ID
			if WriteFrame(there, a) != nil {
				return
			}
		}
	})
	c, err := Dial(t.Context(), here, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		serving.Wait()
	})
	return c
}

// A guest's clock that is slow, or far ahead, is set right, as well as the time that answers take allows to know.
func TestSetClock(t *testing.T) {
	for _, off := range []time.Duration{-24 * time.Hour, -3 * time.Millisecond, 0, 40 * time.Hour} {
		var adjusted time.Duration
		asked := 0
		c := answers(t, func(m Message) Message {
			if m.Clock.Adjust == 0 {
				asked++
				time.Sleep(time.Duration(asked) * time.Millisecond) // the first answer is the quickest
			}
			adjusted += time.Duration(m.Clock.Adjust)
			return Message{Type: TypeClock, Clock: &Clock{Now: time.Now().Add(off + adjusted).UnixNano()}}
		})
		within, err := c.SetClock(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if wrong := (off + adjusted).Abs(); wrong > within {
			t.Errorf("a clock that was off by %v is off by %v, and was to be within %v", off, wrong, within)
		}
		if asked < clockSamples {
			t.Errorf("asked %d times", asked)
		}
	}
}

// A guest that is busy when it is first asked is asked until it answers quickly; one that is busy all the time, for a while.
func TestSetClockOfABusyGuest(t *testing.T) {
	for name, slow := range map[string]int{"at first": clockSamples + 4, "always": 1000} {
		asked, off := 0, time.Minute
		c := answers(t, func(m Message) Message {
			if asked++; asked <= slow {
				time.Sleep(2 * clockFair)
			}
			off += time.Duration(m.Clock.Adjust)
			return Message{Type: TypeClock, Clock: &Clock{Now: time.Now().Add(off).UnixNano()}}
		})
		began := time.Now()
		within, err := c.SetClock(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if off.Abs() > within || asked < clockSamples || asked > 300 {
			t.Errorf("%s: asked %d times, the clock is off by %v, and was to be within %v", name, asked, off, within)
		}
		if took := time.Since(began); asked <= slow && took < clockPatience {
			t.Errorf("%s: asked %d times in %v", name, asked, took)
		}
	}
}

// Answers that make no sense are errors.
func TestSnapshotAnswers(t *testing.T) {
	for name, a := range map[string]Message{
		"ok": {Type: TypeOK}, "nothing": {}, "no body": {Type: TypeFrozen}, "no time": {Type: TypeClock},
		"error": {Type: TypeError, Error: &Error{Code: CodeBusy, Message: "busy"}},
	} {
		c := answers(t, func(Message) Message { return a })
		if _, err := c.Freeze(t.Context(), Freeze{}); err == nil || !strings.HasPrefix(err.Error(), "freezing the container: ") {
			t.Errorf("%s: freeze: %v", name, err)
		}
		if _, err := c.SetClock(t.Context()); err == nil {
			t.Errorf("%s: the clock is set", name)
		}
	}
	c := answers(t, func(Message) Message {
		return Message{Type: TypeError, Error: &Error{Code: CodeInvalid, Message: "no"}}
	})
	var refused *Error
	for what, do := range map[string]func(context.Context) error{
		"detach": c.Detach, "thaw": func(ctx context.Context) error { return c.Thaw(ctx, Thaw{}) },
	} {
		if err := do(t.Context()); !errors.As(err, &refused) || refused.Code != CodeInvalid {
			t.Errorf("%s: %v", what, err)
		}
	}
}
