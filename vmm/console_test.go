package vmm

import (
	"strings"
	"testing"
)

func TestTailKeepsTheEnd(t *testing.T) {
	for _, c := range []struct {
		name   string
		size   int
		writes []string
		lines  int
		want   string
	}{
		{"empty", 8, nil, 3, ""},
		{"fits", 64, []string{"a\r\nb\r\n", "c\r\n"}, 2, "b\nc"},
		{"fewer lines than asked", 64, []string{"a\nb\n"}, 9, "a\nb"},
		{"wraps", 8, []string{"abcdef\n", "ghi\n"}, 9, "def\nghi"},
		{"longer than all", 4, []string{"abcdefgh"}, 1, "efgh"},
		{"exactly full", 4, []string{"ab", "cd"}, 1, "abcd"},
		{"no newline at the end", 64, []string{"one\ntwo"}, 1, "two"},
	} {
		tl := newTail(c.size)
		for _, w := range c.writes {
			if n, err := tl.Write([]byte(w)); n != len(w) || err != nil {
				t.Fatalf("%s: Write = %d, %v", c.name, n, err)
			}
		}
		if got := tl.Lines(c.lines); got != c.want {
			t.Errorf("%s: Lines(%d) = %q, want %q", c.name, c.lines, got, c.want)
		}
	}
}

func TestTailIsBoundedUnderAFlood(t *testing.T) {
	tl := newTail(1 << 10)
	line := strings.Repeat("x", 99) + "\n"
	for range 10_000 {
		tl.Write([]byte(line))
	}
	if got := tl.Lines(1 << 20); len(got) > 1<<10 {
		t.Errorf("kept %d bytes", len(got))
	}
}
