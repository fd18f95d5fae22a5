package namespace

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
)

// rootBase is the host's number of a guest's uid and gid 0 where real root
// starts the guest, and rangeSize how many follow. The range 1879048192 to
// 2147352575 is one that systemd's table of uids leaves unused; this part of it
// begins at 0x736c0000, "sl".
const (
	rootBase  = 0x736c0000
	rangeSize = 65536
)

// An idRange maps size ids of a guest, from inside on, to the host's.
type idRange struct {
	inside, outside, size uint32
}

// idMaps are the maps of a guest's user namespace.
type idMaps struct {
	uids, gids []idRange
	// helpers reports that the maps are beyond what this process may write
	// itself, and newuidmap and newgidmap write them.
	helpers bool
	// single reports that only the caller's own ids are mapped. The kernel then
	// wants setgroups(2) denied, so the guest keeps the caller's groups.
	single bool
	// privileged reports that real root gives ids to a guest.
	privileged bool
}

// chooseIDs returns the maps for a guest of this process. The guest's root is
// never the host's: for real root it is rootBase. For anyone else it is the
// caller, with the caller's subordinate ids behind if all is true: a guest with
// files of its own has programs that change to other users.
func chooseIDs(all bool) idMaps {
	uid, gid := uint32(os.Geteuid()), uint32(os.Getegid())
	// The host's files are read-only, and nothing there is worth two more
	// processes, of newuidmap and newgidmap, at each start.
	own := idMaps{single: true, uids: []idRange{{0, uid, 1}}, gids: []idRange{{0, gid, 1}}}
	if uid == 0 && mapped("/proc/self/uid_map") && mapped("/proc/self/gid_map") {
		r := []idRange{{0, rootBase, rangeSize}}
		return idMaps{uids: r, gids: r, privileged: true}
	}
	// Root that has no such ids is root of a user namespace, so an ordinary
	// user of the host.
	if !all || !installed("newuidmap") || !installed("newgidmap") {
		return own
	}
	uids, gids := subordinate("/etc/subuid", uid), subordinate("/etc/subgid", uid)
	if uids.size == 0 || gids.size == 0 {
		return own
	}
	own.helpers, own.single = true, false
	own.uids = append(own.uids, idRange{1, uids.outside, min(uids.size, rangeSize-1)})
	own.gids = append(own.gids, idRange{1, gids.outside, min(gids.size, rangeSize-1)})
	return own
}

// installed reports whether a program is in the PATH.
func installed(program string) bool {
	_, err := exec.LookPath(program)
	return err == nil
}

// mapped reports whether the range that starts at rootBase exists in this
// process's own user namespace, by its map at path.
func mapped(path string) bool {
	text, err := os.ReadFile(path)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(text)) {
		var inside, outside, size uint64
		if _, err := fmt.Sscan(line, &inside, &outside, &size); err == nil &&
			inside <= rootBase && rootBase+rangeSize <= inside+size {
			return true
		}
	}
	return false
}

// subordinate returns the largest range that the file at path, in the format
// of subuid(5), gives to the user; its size is 0 if there is none.
func subordinate(path string, uid uint32) idRange {
	f, err := os.Open(path)
	if err != nil {
		return idRange{}
	}
	defer f.Close()
	names := []string{strconv.FormatUint(uint64(uid), 10)}
	if u, err := user.LookupId(names[0]); err == nil {
		names = append(names, u.Username)
	}
	return largestRange(f, names)
}

// largestRange returns the largest range of the lines "name:first:count" whose
// name is one of names.
func largestRange(lines io.Reader, names []string) idRange {
	var best idRange
	for s := bufio.NewScanner(lines); s.Scan(); {
		field := strings.Split(strings.TrimSpace(s.Text()), ":")
		if len(field) != 3 || field[0] != names[0] && field[0] != names[len(names)-1] {
			continue
		}
		first, err1 := strconv.ParseUint(field[1], 10, 32)
		count, err2 := strconv.ParseUint(field[2], 10, 32)
		if err1 == nil && err2 == nil && first > 0 && uint32(count) > best.size && first+count <= 1<<32-1 {
			best = idRange{outside: uint32(first), size: uint32(count)}
		}
	}
	return best
}

// write gives the maps to the user namespace of the process pid.
func (m idMaps) write(pid int) error {
	if m.helpers {
		if err := runHelper("newuidmap", pid, m.uids); err != nil {
			return err
		}
		return runHelper("newgidmap", pid, m.gids)
	}
	dir := fmt.Sprintf("/proc/%d/", pid)
	if m.single { // the kernel's condition for an unprivileged map
		if err := os.WriteFile(dir+"setgroups", []byte("deny"), 0); err != nil {
			return fmt.Errorf("deny setgroups: %w", err)
		}
	}
	if err := os.WriteFile(dir+"uid_map", []byte(mapText(m.uids, "\n")), 0); err != nil {
		return fmt.Errorf("map uids: %w", err)
	}
	if err := os.WriteFile(dir+"gid_map", []byte(mapText(m.gids, "\n")), 0); err != nil {
		return fmt.Errorf("map gids: %w", err)
	}
	return nil
}

// mapText returns ranges as the kernel wants them, one per line, and the
// helpers, one after the other.
func mapText(ranges []idRange, separator string) string {
	lines := make([]string, len(ranges))
	for i, r := range ranges {
		lines[i] = fmt.Sprintf("%d %d %d", r.inside, r.outside, r.size)
	}
	return strings.Join(lines, separator)
}

// runHelper runs newuidmap or newgidmap, which are privileged to write what
// /etc/subuid and /etc/subgid grant.
func runHelper(name string, pid int, ranges []idRange) error {
	args := append([]string{strconv.Itoa(pid)}, strings.Fields(mapText(ranges, " "))...)
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(string(out)))
	}
	return nil
}
