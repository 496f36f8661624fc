package logfile

import (
	"bytes"
	"encoding/json"
	"fmt"
	"sync"
	"time"
	"unicode/utf8"
)

// Entry is what one line of docker's json-file format says.
type Entry struct {
	Log    string    `json:"log"` // a line with its newline, or a piece of a long one
	Stream string    `json:"stream"`
	Time   time.Time `json:"time"`
}

// pieceSize is the length at which a line is cut in pieces, in bytes: docker's.
const pieceSize = 16 << 10

// Streams cuts what a process writes into lines and keeps them. What cannot be kept, because a disk is full, is counted
// and left out: the process goes on. How many entries are missing stands where they would, once there is space again.
type Streams struct {
	writer *Writer
	now    func() time.Time

	mu   sync.Mutex
	out  bytes.Buffer // encoded
	part map[string][]byte
	lost int
	err  error // of the first entry that was lost
	gap  int   // how many of those that were lost no entry tells of yet
}

// NewStreams makes streams that end in w.
func NewStreams(w *Writer) *Streams {
	return &Streams{writer: w, now: time.Now, part: make(map[string][]byte)}
}

// Write adds bytes of a stream.
func (s *Streams) Write(stream string, p []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	rest := p
	if part := s.part[stream]; len(part) > 0 {
		rest = append(part, p...)
	}
	for len(rest) > 0 {
		end := bytes.IndexByte(rest[:min(len(rest), pieceSize)], '\n') + 1
		if end == 0 && len(rest) < pieceSize {
			break
		}
		if end == 0 {
			end = pieceEnd(rest)
		}
		s.encode(Entry{Log: string(rest[:end]), Stream: stream, Time: now})
		rest = rest[end:]
	}
	s.part[stream] = append(s.part[stream][:0:0], rest...)
	s.flush()
}

// pieceEnd is where to cut a line that is too long: not within a character.
func pieceEnd(p []byte) int {
	end := pieceSize
	for back := 0; back < utf8.UTFMax && !utf8.RuneStart(p[end-1]); back++ {
		end--
	}
	if end--; utf8.FullRune(p[end:pieceSize]) || end == 0 {
		return pieceSize
	}
	return end
}

// End keeps what is left of a line without a newline.
func (s *Streams) End(stream string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if part := s.part[stream]; len(part) > 0 {
		s.encode(Entry{Log: string(part), Stream: stream, Time: s.now()})
		delete(s.part, stream)
	}
	s.flush()
}

// Lost tells how many entries could not be kept, and why the first of them.
func (s *Streams) Lost() (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lost, s.err
}

func (s *Streams) encode(e Entry) {
	e.Time = e.Time.UTC()
	line, err := json.Marshal(e)
	if err != nil { // the clock is beyond the years that JSON's times can have
		s.lose(1, err)
		return
	}
	s.out.Write(line)
	s.out.WriteByte('\n')
}

func (s *Streams) lose(entries int, why error) {
	if s.lost == 0 {
		s.err = why
	}
	s.lost += entries
	s.gap += entries
}

// tellGap writes the entry that tells of those that are missing.
func (s *Streams) tellGap() {
	text := fmt.Sprintf("hull: %d log entries are missing here: %v\n", s.gap, s.err)
	line, err := json.Marshal(Entry{Log: text, Stream: "stderr", Time: s.now().UTC()})
	if err != nil {
		return // the clock is still not right
	}
	if _, err := s.writer.Append(append(line, '\n')); err == nil {
		s.gap = 0
	}
}

func (s *Streams) flush() {
	if s.gap > 0 {
		s.tellGap()
	}
	if s.out.Len() == 0 {
		return
	}
	if s.gap > 0 { // what is written now would seem to follow what was written last
		s.lose(bytes.Count(s.out.Bytes(), []byte{'\n'}), s.err)
	} else if kept, err := s.writer.Append(s.out.Bytes()); err != nil {
		s.lose(bytes.Count(s.out.Bytes()[kept:], []byte{'\n'}), err)
	}
	s.out.Reset()
	if s.out.Cap() > 1<<20 {
		s.out = bytes.Buffer{}
	}
}

// ParseEntry reads one line.
func ParseEntry(line []byte) (Entry, error) {
	var e Entry
	if err := json.Unmarshal(line, &e); err != nil {
		return Entry{}, fmt.Errorf("log entry: %w", err)
	}
	return e, nil
}
