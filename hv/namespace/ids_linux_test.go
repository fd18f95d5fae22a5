package namespace

import (
	"os"
	"strings"
	"testing"

	"github.com/sluicenet/sluice/hv"
)

func TestLargestRange(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, lines string
		want        idRange
	}{
		{"by name", "alice:100000:65536\n", idRange{0, 100000, 65536}},
		{"by number", "1000:100000:65536\n", idRange{0, 100000, 65536}},
		{"the largest", "alice:100000:10\nalice:200000:65536\n1000:300000:20\n", idRange{0, 200000, 65536}},
		{"others'", "bob:100000:65536\n10000:1:5\n", idRange{}},
		{"empty", "", idRange{}},
		{"comments and noise", "# alice:1:2\n\nalice\nalice:1\nalice:x:y\nalice:1:2:3\n", idRange{}},
		{"no root", "alice:0:65536\n", idRange{}},
		{"beyond 32 bits", "alice:4294967295:65536\nalice:99999999999:1\n", idRange{}},
		{"no end of line", " alice:100000:5", idRange{0, 100000, 5}},
	} {
		if got := largestRange(strings.NewReader(row.lines), []string{"1000", "alice"}); got != row.want {
			t.Errorf("%s: %+v; want %+v", row.name, got, row.want)
		}
	}
}

func TestChooseIDsNeverMapsRealRoot(t *testing.T) {
	t.Parallel()
	for _, all := range []bool{false, true} {
		ids := chooseIDs(all)
		for _, r := range append(ids.uids, ids.gids...) {
			if ids.privileged && r.outside == 0 {
				t.Errorf("chooseIDs(%v) maps the host's root: %+v", all, ids)
			}
			if !ids.privileged && r.inside == 0 && r.outside != uint32(os.Geteuid()) && r.outside != uint32(os.Getegid()) {
				t.Errorf("chooseIDs(%v) maps root to another's id: %+v", all, ids)
			}
		}
		if ids.single && (ids.helpers || ids.privileged) {
			t.Errorf("chooseIDs(%v) = %+v", all, ids)
		}
	}
}

func TestGuestsIDsAreTheMapped(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name string
		root string
	}{{"host's files", ""}, {"own root", guestRoot(t)}} {
		want := chooseIDs(row.root != "")
		out, _ := run(t, hv.Config{Root: row.root}, "cat /proc/self/uid_map /proc/self/gid_map; id -u; id -g; id -G")
		fields := strings.Join(strings.Fields(out), " ")
		maps := mapText(want.uids, " ") + " " + mapText(want.gids, " ")
		if !strings.HasPrefix(fields, maps+" 0 0 0") {
			t.Errorf("%s: ids are %q; want %q and root without other groups", row.name, fields, maps)
		}
		// With more than one id, a program can give its files away.
		if !want.single && row.root != "" {
			out, exit := run(t, hv.Config{Root: row.root}, "echo x > /given; chown 33:33 /given && stat -c %u:%g /given")
			if out != "33:33\n" || exit.Code != 0 {
				t.Errorf("%s: chown came to %q, %+v", row.name, out, exit)
			}
		}
	}
}
