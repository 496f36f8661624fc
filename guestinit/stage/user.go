package stage

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/guestinit/proto"
)

// maxUserFile bounds what is read of /etc/passwd and /etc/group, in bytes.
const maxUserFile = 16 << 20

// identity is who a process is to be.
type identity struct {
	uid, gid int
	groups   []int
	home     string
}

// passwdEntry and groupEntry are lines of the two files, as far as they matter.
type passwdEntry struct {
	name     string
	uid, gid int
	home     string
}

type groupEntry struct {
	name    string
	gid     int
	members []string
}

// lookupUser finds out who u means. Username, if set, is a user and optionally
// a group, "user[:group]", both by name or number, with docker's meaning: a user
// that /etc/passwd has brings its group and its home, and without ":group" the groups that
// /etc/group lists it in; a number that it does not have is taken as it is,
// with group 0. Without Username UID, GID count. AdditionalGids are added in both cases.
func lookupUser(u specs.User, passwd []passwdEntry, group []groupEntry) (*identity, error) {
	id := &identity{uid: int(u.UID), gid: int(u.GID), home: "/"}
	if u.Username == "" {
		if i := slices.IndexFunc(passwd, func(e passwdEntry) bool { return e.uid == id.uid }); i >= 0 {
			id.home = passwd[i].home
		}
	} else if err := id.resolve(u.Username, passwd, group); err != nil {
		return nil, err
	}
	for _, g := range u.AdditionalGids {
		if g > math.MaxInt32 {
			return nil, invalidUser("group %d is out of range", g)
		}
		id.groups = append(id.groups, int(g))
	}
	if u.UID > math.MaxInt32 || u.GID > math.MaxInt32 {
		return nil, invalidUser("user %d or group %d is out of range", u.UID, u.GID)
	}
	slices.Sort(id.groups)
	id.groups = slices.Compact(id.groups)
	return id, nil
}

func (id *identity) resolve(user string, passwd []passwdEntry, group []groupEntry) error {
	userPart, groupPart, hasGroup := strings.Cut(user, ":")
	number, err := parseID(userPart)
	numeric := err == nil
	i := slices.IndexFunc(passwd, func(e passwdEntry) bool { return e.name == userPart })
	if i < 0 && numeric {
		i = slices.IndexFunc(passwd, func(e passwdEntry) bool { return e.uid == number })
	}
	name := ""
	switch {
	case i >= 0:
		name, id.uid, id.gid, id.home = passwd[i].name, passwd[i].uid, passwd[i].gid, passwd[i].home
	case userPart == "":
		id.uid, id.gid = 0, 0
	case numeric:
		id.uid, id.gid = number, 0
	default:
		return invalidUser("user %q: not in the image's /etc/passwd", userPart)
	}
	if hasGroup && groupPart != "" {
		i := slices.IndexFunc(group, func(e groupEntry) bool { return e.name == groupPart })
		if i >= 0 {
			id.gid = group[i].gid
		} else if id.gid, err = parseID(groupPart); err != nil {
			return invalidUser("group %q: not in the image's /etc/group", groupPart)
		}
		return nil
	}
	for _, g := range group {
		if name != "" && slices.Contains(g.members, name) {
			id.groups = append(id.groups, g.gid)
		}
	}
	return nil
}

func invalidUser(format string, args ...any) error {
	return &proto.Error{Code: proto.CodeInvalid, Message: fmt.Sprintf(format, args...)}
}

// parseID parses a user or group number. The largest is no number but means "no change".
func parseID(s string) (int, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err == nil && (n < 0 || n > math.MaxInt32) {
		err = strconv.ErrRange
	}
	return int(n), err
}

func parsePasswd(r io.Reader) ([]passwdEntry, error) {
	var entries []passwdEntry
	err := eachLine(r, func(f []string) {
		if len(f) < 6 {
			return
		}
		uid, err1 := parseID(f[2])
		gid, err2 := parseID(f[3])
		if err1 == nil && err2 == nil {
			entries = append(entries, passwdEntry{f[0], uid, gid, f[5]})
		}
	})
	return entries, err
}

func parseGroup(r io.Reader) ([]groupEntry, error) {
	var entries []groupEntry
	err := eachLine(r, func(f []string) {
		if len(f) < 3 {
			return
		}
		gid, err := parseID(f[2])
		if err != nil {
			return
		}
		e := groupEntry{name: f[0], gid: gid}
		if len(f) > 3 {
			e.members = strings.Split(f[3], ",")
		}
		entries = append(entries, e)
	})
	return entries, err
}

// eachLine calls f with the fields of each line that is not empty nor a comment.
func eachLine(r io.Reader, f func(fields []string)) error {
	lines := bufio.NewScanner(io.LimitReader(r, maxUserFile))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line != "" && line[0] != '#' {
			f(strings.Split(line, ":"))
		}
	}
	return lines.Err()
}

// readUsers reads the container's /etc/passwd and /etc/group; either may be missing.
func readUsers() (passwd []passwdEntry, group []groupEntry, err error) {
	if err = withRegular("/etc/passwd", func(r io.Reader) (err error) { passwd, err = parsePasswd(r); return err }); err == nil {
		err = withRegular("/etc/group", func(r io.Reader) (err error) { group, err = parseGroup(r); return err })
	}
	return passwd, group, err
}

// withRegular opens a file of the container. Anything but a regular file, which
// could block or never end, is taken as missing.
func withRegular(path string, f func(io.Reader) error) error {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENXIO) {
			return nil
		}
		return fmt.Errorf("looking up users: %w", err)
	}
	defer file.Close()
	if st, err := file.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil
	}
	if err := f(file); err != nil {
		return fmt.Errorf("looking up users: reading %s: %w", path, err)
	}
	return nil
}
