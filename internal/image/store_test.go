package image

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestOpenErrors(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(workDir(t), "cache")
	for _, row := range []struct {
		cfg  Config
		want string
	}{
		{Config{}, "no directory"},
		{Config{Dir: dir, Platform: "linux"}, `platform "linux" is not like linux/arm64`},
		{Config{Dir: dir, Owners: &Owners{UIDs: []IDRange{{0, 0, 0}}}}, "map 0 ids from 0 to 0"},
		{Config{Dir: dir, Owners: &Owners{GIDs: []IDRange{{0, 1 << 31, 1 << 31}}}}, "ids are 0 to 4294967294"},
		{Config{Dir: dir, Owners: &Owners{GIDs: []IDRange{{1 << 31, 0, 1 << 31}}}}, "ids are 0 to 4294967294"},
	} {
		_, err := Open(row.cfg)
		var e *Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%+v: %v, want %q", row.cfg, err, row.want)
		}
	}
}

// TestScratch shows that what a dead process left is removed, and what a live one
// has is not.
func TestScratch(t *testing.T) {
	t.Parallel()
	s := newStore(t, testConfig(t))
	live, err := s.newScratch()
	if err != nil {
		t.Fatal(err)
	}
	dead, err := s.newScratch()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dead.path("image/root/closed"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dead.path("image/root/closed"), 0); err != nil {
		t.Fatal(err)
	}
	if err := dead.lock.release(); err != nil { // as its death would
		t.Fatal(err)
	}
	third, err := s.newScratch()
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name string
		t    *scratch
		want bool
	}{{"live", live, true}, {"dead", dead, false}, {"new", third, true}} {
		for _, path := range []string{row.t.dir, row.t.dir + lockExt} {
			if there, err := exists(path); there != row.want || err != nil {
				t.Errorf("%s: %s there: %t (%v)", row.name, path, there, err)
			}
		}
	}
	if err := errors.Join(live.remove(), third.remove()); err != nil {
		t.Error(err)
	}
	checkClean(t, s, 0, 0, 0)
}

func TestOwners(t *testing.T) {
	t.Parallel()
	o := DefaultOwners()
	if err := o.check(); err != nil {
		t.Error(err)
	}
	if id, ok := o.uid(0); !ok || id != uint32(os.Geteuid()) {
		t.Errorf("the image's root is %d (%t)", id, ok)
	}
	ranges := []IDRange{{0, 1000, 1}, {1, 100000, 10}, {maxID, 7, 1}}
	for _, row := range []struct {
		id, want uint32
		ok       bool
	}{{0, 1000, true}, {1, 100000, true}, {10, 100009, true}, {11, 0, false}, {maxID, 7, true}, {maxID - 1, 0, false}} {
		if got, ok := mapID(ranges, row.id); got != row.want || ok != row.ok {
			t.Errorf("%d: %d, %t; want %d, %t", row.id, got, ok, row.want, row.ok)
		}
	}
	other := Owners{UIDs: ranges}
	if len(o.key()) != 8 || o.key() == other.key() {
		t.Errorf("keys %q and %q", o.key(), other.key())
	}
}

// TestErrorText shows how errors read.
func TestErrorText(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		err  *Error
		want string
	}{
		{&Error{Op: "pull image", Ref: "x:1", Err: errors.New("why"), Hint: "do this"}, `pull image "x:1": why; do this`},
		{&Error{Op: "prune images", Err: errors.New("why")}, "prune images: why"},
	} {
		if got := row.err.Error(); got != row.want {
			t.Errorf("%q, want %q", got, row.want)
		}
	}
	e := &Error{Kind: ErrPull, Err: refused("%d bytes", 5)}
	if !errors.Is(e, ErrPull) || !errors.Is(e, ErrContent) || errors.Is(e, ErrNotFound) {
		t.Errorf("%v matches the wrong kinds", e)
	}
}
