package guest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// The files that say who the guest's users are.
const (
	passwdFile = "/etc/passwd"
	groupFile  = "/etc/group"
)

// An identity is whose process a command is.
type identity struct {
	uid, gid uint32
	groups   []uint32 // supplementary
	home     string
	name     string // "" for a number that has none
	// inherited says that the ids are the agent's own, with its groups: nothing
	// is to be changed, which a guest with one user id may not.
	inherited bool
}

// An account is a line of /etc/passwd, see passwd(5).
type account struct {
	name     string
	uid, gid uint32
	home     string
}

// A group is a line of /etc/group, see group(5).
type group struct {
	name    string
	gid     uint32
	members []string
}

// identify returns who user is, by the guest's files below root ("" in a guest).
func identify(root, user string) (identity, error) {
	accounts, err := readTable(root+passwdFile, parseAccount)
	if err != nil {
		return identity{}, err
	}
	if user == "" {
		who := identity{home: "/root", name: "root", inherited: true}
		if a, found := findAccount("0", accounts); found {
			who.home, who.name = a.home, a.name
		}
		return who, nil
	}
	groups, err := readTable(root+groupFile, parseGroup)
	if err != nil {
		return identity{}, err
	}
	return resolve(user, accounts, groups)
}

// resolve returns who user is: NAME, UID, and either with :GROUP or :GID. A
// name that is a number goes before the number.
func resolve(user string, accounts []account, groups []group) (identity, error) {
	name, groupName, hasGroup := strings.Cut(user, ":")
	a, found := findAccount(name, accounts)
	if !found {
		uid, err := parseID(name)
		if err != nil {
			return identity{}, fmt.Errorf("user %q is not in %s", name, passwdFile)
		}
		a = account{uid: uid, home: "/"} // of group 0, as container engines have it
	}
	who := identity{uid: a.uid, gid: a.gid, home: a.home, name: a.name}
	if !hasGroup {
		for _, g := range groups {
			for _, member := range g.members {
				if found && member == a.name && g.gid != who.gid {
					who.groups = append(who.groups, g.gid)
					break
				}
			}
		}
		return who, nil
	}
	for _, g := range groups {
		if g.name == groupName {
			who.gid = g.gid
			return who, nil
		}
	}
	gid, err := parseID(groupName)
	if err != nil {
		return identity{}, fmt.Errorf("group %q is not in %s", groupName, groupFile)
	}
	who.gid = gid
	return who, nil
}

// findAccount returns the first account of that name, else of that number.
func findAccount(name string, accounts []account) (account, bool) {
	for _, a := range accounts {
		if a.name == name {
			return a, true
		}
	}
	uid, err := parseID(name)
	for _, a := range accounts {
		if err == nil && a.uid == uid {
			return a, true
		}
	}
	return account{}, false
}

// parseAccount parses a line of /etc/passwd.
func parseAccount(line string) (account, bool) {
	field := strings.Split(line, ":")
	if len(field) != 7 || field[0] == "" {
		return account{}, false
	}
	uid, err := parseID(field[2])
	gid, err2 := parseID(field[3])
	home := field[5]
	if home == "" {
		home = "/"
	}
	return account{field[0], uid, gid, home}, err == nil && err2 == nil
}

// parseGroup parses a line of /etc/group.
func parseGroup(line string) (group, bool) {
	field := strings.Split(line, ":")
	if len(field) != 4 || field[0] == "" {
		return group{}, false
	}
	gid, err := parseID(field[2])
	g := group{name: field[0], gid: gid}
	for _, member := range strings.Split(field[3], ",") {
		if member = strings.TrimSpace(member); member != "" {
			g.members = append(g.members, member)
		}
	}
	return g, err == nil
}

// parseID parses the number of a user or a group: decimal digits, and not the
// number that means none.
func parseID(s string) (uint32, error) {
	id, err := strconv.ParseUint(s, 10, 32)
	if err != nil || id == math.MaxUint32 {
		return 0, fmt.Errorf("%q is not the number of a user or a group", s)
	}
	return uint32(id), nil
}

// maxTable bounds a file of users in bytes: a thousand times a distribution's.
const maxTable = 4 << 20

// readTable returns the entries of a file of users. A file that isn't there has
// none, and a line that is none is passed over, as the C library does. Nobody waits
// for the writer of a pipe that an image has in its place.
func readTable[T any](path string, parse func(line string) (T, bool)) ([]T, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(fmt.Errorf("%s is no file", path), err)
	}
	var entries []T
	s := bufio.NewScanner(io.LimitReader(f, maxTable))
	s.Buffer(nil, maxTable+1)
	for s.Scan() {
		if entry, ok := parse(s.Text()); ok {
			entries = append(entries, entry)
		}
	}
	return entries, s.Err()
}
