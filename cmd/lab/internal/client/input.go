package client

import (
	"context"
	"io"
	"sync"

	"github.com/hullvm/hull/cmd/lab/internal/wire"
)

// maxRepeat is how much of stdin is kept to be sent once more to a second machine.
const maxRepeat = 1 << 20

// input is stdin, which can be read once, for commands that may have to be started twice.
type input struct {
	from   io.Reader
	start  sync.Once
	chunks chan []byte // of stdin; closed at its end

	mu    sync.Mutex
	sent  []byte // the first bytes of stdin, at most maxRepeat
	total int64  // bytes taken from chunks
	ended bool   // chunks was seen closed
}

func (in *input) canRepeat() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.total <= maxRepeat
}

// send passes stdin to a command: first what an earlier one has had already.
// A goroutine that waits for stdin outlives it, and its bytes go to the next.
func (in *input) send(ctx context.Context, stream io.Writer) {
	in.start.Do(func() { go in.read() })
	in.mu.Lock()
	again, ended := in.sent, in.ended
	in.mu.Unlock()
	for len(again) > 0 {
		n := min(len(again), wire.Chunk)
		if wire.Write(stream, wire.KindInput, again[:n]) != nil {
			return
		}
		again = again[n:]
	}
	for !ended {
		select {
		case chunk, ok := <-in.chunks:
			if !ok {
				in.mu.Lock()
				in.ended, ended = true, true
				in.mu.Unlock()
				break
			}
			in.took(chunk)
			if wire.Write(stream, wire.KindInput, chunk) != nil {
				return
			}
		case <-ctx.Done():
			return
		}
	}
	_ = wire.Write(stream, wire.KindInputEnd, nil)
}

func (in *input) took(chunk []byte) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.total += int64(len(chunk))
	if in.total <= maxRepeat {
		in.sent = append(in.sent, chunk...)
	} else {
		in.sent = nil
	}
}

// read passes stdin on, chunk by chunk, each in memory of its own.
func (in *input) read() {
	defer close(in.chunks)
	for {
		chunk := make([]byte, wire.Chunk)
		n, err := in.from.Read(chunk)
		if n > 0 {
			in.chunks <- chunk[:n]
		}
		if err != nil {
			return
		}
	}
}
