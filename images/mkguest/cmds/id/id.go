// Command id prints who a process or a user is.
//
//	id [-u | -g | -G] [-n] [USER]
package main

import (
	"flag"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
)

func main() {
	onlyUser := flag.Bool("u", false, "print the user ID")
	onlyGroup := flag.Bool("g", false, "print the group ID")
	onlyGroups := flag.Bool("G", false, "print all group IDs")
	names := flag.Bool("n", false, "print names instead of numbers")
	flag.Bool("r", false, "print real IDs (they are what is printed)")
	flag.Parse()
	who, err := identify(flag.Arg(0))
	if err != nil {
		fmt.Fprintln(os.Stderr, "id:", err)
		os.Exit(1)
	}
	switch {
	case *onlyUser:
		fmt.Println(who.user(*names))
	case *onlyGroup:
		fmt.Println(who.group(who.gid, *names))
	case *onlyGroups:
		var list []string
		for _, g := range who.groups {
			list = append(list, who.group(g, *names))
		}
		fmt.Println(strings.Join(list, " "))
	default:
		fmt.Println(who)
	}
}

// identity is a user with its groups; the first of them is gid.
type identity struct {
	uid, gid int
	groups   []int
}

// identify finds out who a named user is, or the process if name is empty.
func identify(name string) (*identity, error) {
	if name == "" {
		groups, err := os.Getgroups()
		return newIdentity(os.Getuid(), os.Getgid(), groups), err
	}
	u, err := user.Lookup(name)
	if err != nil {
		return nil, err
	}
	ids, err := u.GroupIds()
	if err != nil {
		return nil, err
	}
	var groups []int
	for _, s := range ids {
		if n, err := strconv.Atoi(s); err == nil {
			groups = append(groups, n)
		}
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	return newIdentity(uid, gid, groups), nil
}

func newIdentity(uid, gid int, groups []int) *identity {
	id := &identity{uid, gid, []int{gid}}
	for _, g := range groups {
		if !slices.Contains(id.groups, g) {
			id.groups = append(id.groups, g)
		}
	}
	return id
}

func (id *identity) user(name bool) string {
	number := strconv.Itoa(id.uid)
	if name {
		if u, err := user.LookupId(number); err == nil {
			return u.Username
		}
	}
	return number
}

func (id *identity) group(gid int, name bool) string {
	number := strconv.Itoa(gid)
	if name {
		if g, err := user.LookupGroupId(number); err == nil {
			return g.Name
		}
	}
	return number
}

// String is in the style of "uid=0(root) gid=0(root) groups=0(root)".
func (id *identity) String() string {
	with := func(number, name string) string {
		if number == name {
			return number
		}
		return number + "(" + name + ")"
	}
	var groups []string
	for _, g := range id.groups {
		groups = append(groups, with(id.group(g, false), id.group(g, true)))
	}
	return "uid=" + with(id.user(false), id.user(true)) + " gid=" + groups[0] + " groups=" + strings.Join(groups, ",")
}
