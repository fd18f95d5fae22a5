package namespace

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sluicenet/sluice/hv"
)

// hostDir returns a directory of this user's that a guest of nobody's finds too.
func hostDir(t *testing.T) string {
	t.Helper()
	dir := visibleDir(t)
	for name, text := range map[string]string{"note": "host\n", "sub/deep": "deep\n"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestMounts shows paths of the host, and empty directories, in a guest with a
// root of its own, and in one that sees the host's files.
func TestMounts(t *testing.T) {
	t.Parallel()
	for _, root := range []string{guestRoot(t), ""} {
		name, target := "own root", "/made/here"
		if root == "" {
			name, target = "the host's files", "/srv"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := hostDir(t)
			for _, row := range []struct {
				what   string
				mount  hv.Mount
				script string
				want   string
			}{
				{"a directory is shared", hv.Mount{Source: dir}, "cd $1; cat note sub/deep; echo guest > new; cat new", "host\ndeep\nguest\n"},
				{"read-only", hv.Mount{Source: dir, ReadOnly: true}, "cd $1; cat note; (echo x > note) 2>/dev/null || echo refused", "host\nrefused\n"},
				{"a file", hv.Mount{Source: dir + "/note"}, "", ""},
				{"without programs", hv.Mount{Source: "/bin", NoExec: true}, "$1/true 2>/dev/null || echo refused", "refused\n"},
				{"memory", hv.Mount{}, "cd $1; ls; echo x > a; cat a", "x\n"},
				{"memory that is full", hv.Mount{SizeMiB: 1}, "cd $1; head -c 3000000 /dev/zero > a 2>/dev/null || echo full", "full\n"},
				{"memory, read-only", hv.Mount{ReadOnly: true}, "(echo x > $1/a) 2>/dev/null || echo refused", "refused\n"},
			} {
				row.mount.Target = target
				if row.script == "" { // a file stands for a file
					row.mount.Target = "/etc/passwd"
					row.script, row.want = "cat /etc/passwd", "host\n"
				}
				if strings.Contains(row.script, "head ") && root != "" {
					continue // the root of the test has no such program
				}
				out, exit := run(t, hv.Config{Root: root, Mounts: []hv.Mount{row.mount}}, "set -- "+row.mount.Target+"; "+row.script)
				if out != row.want || exit.Code != 0 {
					t.Errorf("%s: %q, %+v, want %q", row.what, out, exit, row.want)
				}
			}
			if text, err := os.ReadFile(dir + "/new"); err != nil || string(text) != "guest\n" {
				t.Errorf("the host has %q, %v", text, err)
			}
			if text, _ := os.ReadFile(dir + "/note"); string(text) != "host\n" {
				t.Errorf("a read-only file was changed to %q", text)
			}
			info, err := os.Stat(dir + "/new")
			if own, _ := os.Stat(dir); err != nil || !sameOwner(info, own) {
				t.Errorf("what the guest's root made isn't this user's: %v", err)
			}
		})
	}
}

// TestMountsStayInside mounts where a root that somebody else made has links that
// lead out of it.
func TestMountsStayInside(t *testing.T) {
	t.Parallel()
	root, outside := guestRoot(t), visibleDir(t)
	if err := os.Symlink(outside, root+"/out"); err != nil {
		t.Fatal(err)
	}
	out, exit := run(t, hv.Config{Root: root, Mounts: []hv.Mount{{Target: "/in"}, {Target: "/in/a/b"}}}, "echo x > /in/a/b/c; cat /in/a/b/c")
	if out != "x\n" || exit.Code != 0 {
		t.Errorf("one mount in another: %q, %+v", out, exit)
	}
	for _, target := range []string{"/out", "/out/x", "/out/x/y"} {
		v, err := New().Start(t.Context(), hv.Config{Name: "mounts", Root: root, Mounts: []hv.Mount{{Target: target}}})
		if err == nil {
			v.Close()
			t.Errorf("mounted on %s, which leads nowhere in the guest", target)
		}
	}
	if entries, _ := os.ReadDir(outside); len(entries) != 0 {
		t.Errorf("made on the host: %v", entries)
	}
}

// TestMountsThatAreWrong checks what is refused before anything starts.
func TestMountsThatAreWrong(t *testing.T) {
	t.Parallel()
	many := make([]hv.Mount, maxControlFiles)
	for i := range many {
		many[i].Target = "/x"
	}
	for name, mounts := range map[string][]hv.Mount{
		"relative":  {{Target: "srv"}},
		"root":      {{Target: "/"}},
		"dots":      {{Target: "/srv/../etc"}},
		"slash":     {{Target: "/srv/"}},
		"no source": {{Target: "/srv", Source: "/nosuch/path"}},
		"too many":  many,
	} {
		if _, err := mountSetups(mounts); err == nil {
			t.Errorf("%s: was taken", name)
		}
	}
}

// sameOwner reports whether two files are one user's.
func sameOwner(a, b os.FileInfo) bool {
	return a.Sys().(*syscall.Stat_t).Uid == b.Sys().(*syscall.Stat_t).Uid
}
