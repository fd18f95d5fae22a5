package image

import (
	"archive/tar"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// onDisk reports whether a name of the tree has something on the disk.
func onDisk(n *node) bool {
	return n.kind != tar.TypeChar && n.kind != tar.TypeBlock && (n.kind != tar.TypeFifo || fifosWork)
}

// checkDisk checks that what is below rootDir is what the tree says, as far as
// this process may make it so.
func checkDisk(t testing.TB, a *applier, rootDir string) {
	t.Helper()
	want := make(map[string]*node)
	inodes := make(map[*inode]string)
	_ = a.root.walk(func(n *node) error {
		if onDisk(n) {
			want[n.path()] = n
		}
		return nil
	})
	err := filepath.WalkDir(rootDir, func(full string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		path, err := filepath.Rel(rootDir, full)
		if err != nil {
			return err
		}
		n := want[path]
		if n == nil {
			t.Errorf("%q is on the disk, and not in the tree", path)
			return nil
		}
		delete(want, path)
		if first, ok := inodes[n.inode]; ok {
			checkSame(t, filepath.Join(rootDir, first), full)
			return nil
		}
		inodes[n.inode] = path
		checkFile(t, a.disk, n, full)
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if len(want) > 0 {
		t.Errorf("not on the disk: %q", slices.Sorted(maps.Keys(want)))
	}
}

// checkSame checks that two paths are of one file.
func checkSame(t testing.TB, a, b string) {
	t.Helper()
	x, err1 := os.Lstat(a)
	y, err2 := os.Lstat(b)
	if err1 != nil || err2 != nil || !os.SameFile(x, y) {
		t.Errorf("%q and %q are not the same file (%v, %v)", a, b, err1, err2)
	}
}

// checkFile checks one file against its node.
func checkFile(t testing.TB, d *disk, n *node, path string) {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Error(err)
		return
	}
	uid, gid, mode := d.standing(n.inode)
	switch n.kind {
	case tar.TypeDir:
		mode |= os.ModeDir
	case tar.TypeSymlink:
		mode = os.ModeSymlink | info.Mode().Perm() // the system's own
		if target, err := os.Readlink(path); err != nil || target != n.link {
			t.Errorf("%q leads to %q (%v), want %q", path, target, err, n.link)
		}
	case tar.TypeFifo:
		mode |= os.ModeNamedPipe
	}
	if info.Mode() != mode {
		t.Errorf("%q has mode %v, want %v", path, info.Mode(), mode)
	}
	if u, g := ownerOf(info); u != uid || g != gid {
		t.Errorf("%q belongs to %d:%d, want %d:%d", path, u, g, uid, gid)
	}
	// File systems differ in how fine their clocks are.
	if n.kind != tar.TypeSymlink && !info.ModTime().Truncate(time.Microsecond).Equal(n.mtime.Truncate(time.Microsecond)) {
		t.Errorf("%q was changed at %v, want %v", path, info.ModTime(), n.mtime)
	}
	got := xattrsOf(t, path)
	for key, value := range n.xattrs {
		if got[key] != value && !n.xattrsUnset {
			t.Errorf("%q has the attribute %s=%q, want %q", path, key, got[key], value)
		}
	}
	for key := range got {
		_, known := n.xattrs[key]
		if strings.HasPrefix(key, "user.overlay.") || strings.HasPrefix(key, "user.") && !known {
			t.Errorf("%q has the attribute %s", path, key)
		}
	}
}

// TestStanding shows what becomes of owners and set-id bits.
func TestStanding(t *testing.T) {
	t.Parallel()
	all := &Owners{[]IDRange{everyID}, []IDRange{everyID}}
	one := &Owners{[]IDRange{{0, 1000, 1}}, []IDRange{{0, 100, 1}}}
	shifted := &Owners{[]IDRange{{0, 100000, 1000}, {65534, 7, 1}}, []IDRange{{0, 100000, 65536}}}
	for _, row := range []struct {
		name             string
		owners           *Owners
		keepReadable     bool
		mode             uint32
		uid, gid         uint32
		wantUID, wantGID int
		wantMode         os.FileMode
	}{
		{"root", all, false, 0o755, 0, 0, 0, 0, 0o755},
		{"root, another", all, false, 0o6755, 33, 44, 33, 44, 0o755 | os.ModeSetuid | os.ModeSetgid},
		{"root, sticky", all, false, 0o1777, 0, 0, 0, 0, 0o777 | os.ModeSticky},
		{"root, secret", all, false, 0, 0, 0, 0, 0, 0},
		{"one id", one, true, 0o6755, 0, 0, 1000, 100, 0o755 | os.ModeSetuid | os.ModeSetgid},
		{"one id, another's", one, true, 0o6755, 33, 0, 5, 100, 0o755 | os.ModeSetgid},
		{"one id, another group's", one, true, 0o6755, 0, 33, 1000, 6, 0o755 | os.ModeSetuid},
		{"one id, secret", one, true, 0, 0, 0, 1000, 100, 0o400},
		{"shifted", shifted, false, 0o4755, 999, 65535, 100999, 165535, 0o755 | os.ModeSetuid},
		{"shifted, beyond", shifted, false, 0o6755, 1000, 65536, 5, 6, 0o755},
		{"shifted, second range", shifted, false, 0o4755, 65534, 0, 7, 100000, 0o755 | os.ModeSetuid},
	} {
		d := &disk{owners: row.owners, self: [2]int{5, 6}, keepReadable: row.keepReadable}
		uid, gid, mode := d.standing(&inode{kind: tar.TypeReg, mode: row.mode, uid: row.uid, gid: row.gid})
		if uid != row.wantUID || gid != row.wantGID || mode != row.wantMode {
			t.Errorf("%s: %d:%d %v, want %d:%d %v", row.name, uid, gid, mode, row.wantUID, row.wantGID, row.wantMode)
		}
	}
}

func TestMayHold(t *testing.T) {
	t.Parallel()
	all := &Owners{[]IDRange{everyID}, []IDRange{everyID}}
	shifted := &Owners{[]IDRange{{0, 100000, 65536}}, []IDRange{{0, 100000, 65536}}}
	for _, row := range []struct {
		key    string
		owners *Owners
		self   int
		kind   byte
		want   bool
	}{
		{"user.a", all, 0, tar.TypeReg, true},
		{"user.a", shifted, 5, tar.TypeDir, true},
		{"user.overlay.redirect", all, 0, tar.TypeDir, false},
		{"user.overlay.opaque", all, 5, tar.TypeDir, false},
		{"trusted.overlay.metacopy", all, 0, tar.TypeReg, false},
		{"trusted.a", all, 0, tar.TypeReg, false},
		{"security.capability", all, 0, tar.TypeReg, true},
		{"security.capability", all, 0, tar.TypeDir, false},
		{"security.capability", all, 5, tar.TypeReg, false},
		{"security.capability", shifted, 0, tar.TypeReg, false},
		{"security.selinux", all, 0, tar.TypeReg, false},
		{"security.ima", all, 0, tar.TypeReg, false},
		{"system.posix_acl_access", all, 0, tar.TypeReg, false},
		{"userx", all, 0, tar.TypeReg, false},
		{"", all, 0, tar.TypeReg, false},
	} {
		d := &disk{owners: row.owners, self: [2]int{row.self, row.self}}
		if got := d.mayHold(row.key, &inode{kind: row.kind}); got != row.want {
			t.Errorf("%q of type %q by %d: %t, want %t", row.key, row.kind, row.self, got, row.want)
		}
	}
}

// TestClash shows that a file system that takes two names for one is noticed: it
// is played by a name that the tree doesn't know.
func TestClash(t *testing.T) {
	t.Parallel()
	for _, e := range []entry{file("NAME", ""), dir("NAME"), sym("NAME", "x"), hard("NAME", "other"), fifo("NAME")} {
		owners := DefaultOwners()
		path := workDir(t)
		if err := os.WriteFile(filepath.Join(path, "NAME"), []byte("known as name"), 0o600); err != nil {
			t.Fatal(err)
		}
		root, err := os.OpenRoot(path)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		d := newDisk(root, &owners)
		defer d.close()
		a := newApplier(d, Limits{}.withDefaults())
		m := &meter{}
		err = a.apply(t.Context(), strings.NewReader(string(layer(t, file("other", ""), e))), m)
		if e.h.Typeflag == tar.TypeFifo && !fifosWork {
			continue
		}
		if err == nil || !strings.Contains(err.Error(), "another name of the image") {
			t.Errorf("type %q: %v", e.h.Typeflag, err)
		}
		if text, err := os.ReadFile(filepath.Join(path, "NAME")); err != nil || string(text) != "known as name" {
			t.Errorf("type %q: the other file became %q (%v)", e.h.Typeflag, text, err)
		}
	}
}

// TestRecorded shows what an image's user learns about what the root lacks.
func TestRecorded(t *testing.T) {
	t.Parallel()
	owners := Owners{[]IDRange{{0, uint32(os.Geteuid()), 1}}, []IDRange{{0, uint32(os.Getegid()), 1}}}
	dir := workDir(t)
	l := layer(t, file("a", "").owner(33, 0), file("b", "").owner(0, 33), hard("c", "b"), dev("d", 1, 3), hard("e", "d"),
		file("f", "").xattr("trusted.x", "1"), sym("g", "f").xattr("user.x", "1"), file("gone", "").owner(1, 1), file("gone", ""))
	_, _, err := unpackLayers(t.Context(), dir, &owners, Limits{}, l)
	if err != nil {
		t.Fatal(err)
	}
	got, err := readRootInfo(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := rootInfo{Entries: 9, Recorded: Recorded{Owners: 2, Devices: 1, Xattrs: 2}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
}

// TestRemoveTree shows that modes keep nobody from cleaning up.
func TestRemoveTree(t *testing.T) {
	t.Parallel()
	_, img := mustUnpack(t, layer(t, dir("a").mode(0), dir("a/b").mode(0o500), file("a/b/f", "").mode(0), dir("c").mode(0o555), sym("c/l", "/")))
	if err := removeTree(filepath.Dir(img.RootDir)); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(filepath.Dir(img.RootDir)); !os.IsNotExist(err) {
		t.Errorf("it is still there: %v", err)
	}
}
