package layerdisk

import (
	"archive/tar"
	"bytes"
	"strings"
	"testing"
	"time"
)

// when is the time of entries that say nothing else.
var when = time.Unix(1_700_000_000, 0)

// entry is an entry of an archive with its contents.
type entry struct {
	tar.Header
	data string
}

func (e entry) owner(uid, gid int) entry { e.Uid, e.Gid = uid, gid; return e }
func (e entry) perm(mode int64) entry    { e.Mode = mode; return e }
func (e entry) at(t time.Time) entry     { e.ModTime = t; return e }
func (e entry) xattr(name, value string) entry {
	records := map[string]string{paxXattr + name: value}
	for k, v := range e.PAXRecords {
		records[k] = v
	}
	e.PAXRecords = records
	return e
}

func file(name, data string) entry {
	return entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(data))}, data}
}
func dir(name string) entry {
	return entry{tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755}, ""}
}
func symlinkTo(name, target string) entry {
	return entry{tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}, ""}
}
func link(name, target string) entry {
	return entry{tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target}, ""}
}
func device(name string, typeflag byte, major, minor int64) entry {
	return entry{tar.Header{Typeflag: typeflag, Name: name, Mode: 0o600, Devmajor: major, Devminor: minor}, ""}
}

// archive makes a tar of entries.
func archive(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := e.Header
		if h.ModTime.IsZero() && h.Typeflag != tar.TypeXGlobalHeader {
			h.ModTime = when
		}
		if h.ModTime.Nanosecond() != 0 || !h.AccessTime.IsZero() {
			h.Format = tar.FormatPAX
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e.data)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// summary shows a tree in short: kind, and contents, target or device.
func summary(files map[string]found) map[string]string {
	out := make(map[string]string)
	for name, f := range files {
		s := string(f.kind)
		switch f.kind {
		case '-':
			s += " " + f.data
		case 'l':
			s += " " + f.target
		case 'c', 'b':
			if f.major == 0 && f.minor == 0 {
				s = "whiteout"
			}
		case 'd':
			if f.xattrs[opaqueXattr.name] == opaqueXattr.value {
				s = "d opaque"
			}
		}
		if name != "." {
			out[name] = s
		}
	}
	return out
}

// want reads the form of summary: "name=what" separated by "; ".
func want(s string) map[string]string {
	out := make(map[string]string)
	for _, part := range strings.Split(s, "; ") {
		if name, what, ok := strings.Cut(part, "="); ok {
			out[name] = what
		}
	}
	return out
}
