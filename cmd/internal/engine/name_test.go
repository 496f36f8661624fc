package engine

import (
	"strings"
	"testing"
)

func TestCheckName(t *testing.T) {
	for name, want := range map[string]bool{
		"web": true, "w2": true, "Web.1_a-b": true, strings.Repeat("a", maxName): true,
		"": false, "a": false, "-web": false, "_x": false, "a b": false, "a/b": false, "../x": false,
		"web\n": false, "wéb": false, strings.Repeat("a", maxName+1): false,
	} {
		if err := CheckName(name); (err == nil) != want {
			t.Errorf("CheckName(%q) = %v, want valid %v", name, err, want)
		}
	}
}

func TestRandomName(t *testing.T) {
	tries := 0
	name := randomName(func(name string) bool {
		tries++
		if err := CheckName(name); err != nil {
			t.Error(err)
		}
		return tries < 20
	})
	if !strings.HasSuffix(name, "19") {
		t.Errorf("name after 19 taken ones is %q, want a number at its end", name)
	}
	for _, word := range append(strings.Fields(adjectives), strings.Fields(nouns)...) {
		if strings.ToLower(word) != word || len(word) < 2 {
			t.Errorf("word %q", word)
		}
	}
}

func TestNewID(t *testing.T) {
	a, b := newID(), newID()
	if !isID(a) || !isID(b) || a == b {
		t.Errorf("IDs %q and %q", a, b)
	}
	if ShortID(a) != a[:12] || ShortID("abc") != "abc" {
		t.Errorf("ShortID(%q) = %q", a, ShortID(a))
	}
	for _, s := range []string{"", "../x", strings.ToUpper(a[:63] + "f"), a[:63], a + "0", a[:63] + "/"} {
		if isID(s) {
			t.Errorf("isID(%q)", s)
		}
	}
}
