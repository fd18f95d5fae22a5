package namespace

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluicenet/sluice/hv"
)

// guestRoot returns a directory to be a guest's root: the host's programs that
// the tests run, with their libraries.
func guestRoot(t *testing.T) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "root")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(self); err != nil {
		self = "/proc/self/exe" // a memfd
	}
	files := librariesOf(t, self)
	for _, name := range []string{"sh", "cat", "ls", "id", "stat", "chown", "chmod", "mkdir", "rm", "sleep", "true", "false"} {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := copyFile(path, filepath.Join(root, "bin", name)); err != nil {
			t.Fatal(err)
		}
		files = append(files, librariesOf(t, path)...)
	}
	for _, path := range files {
		if err := copyFile(path, filepath.Join(root, path)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	// A user's umask must not keep the guest's ids out.
	err = filepath.WalkDir(filepath.Dir(root), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			err = os.Chmod(path, 0o755)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// librariesOf returns the paths of a program's shared libraries.
func librariesOf(t *testing.T, program string) []string {
	t.Helper()
	out, err := exec.Command("ldd", program).Output()
	if err != nil {
		return nil // it is static
	}
	var paths []string
	for field := range strings.FieldsSeq(string(out)) {
		if strings.HasPrefix(field, "/") {
			paths = append(paths, field)
		}
	}
	return paths
}

// copyFile copies a program.
func copyFile(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o755)
}

func TestRootIsWritableAndTheHostsIsUntouched(t *testing.T) {
	t.Parallel()
	root := guestRoot(t)
	if err := os.WriteFile(root+"/etc/owned", []byte("host\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	out, exit := run(t, hv.Config{Root: root}, "cat /etc/owned; echo guest > /etc/owned; cat /etc/owned; echo new > /new; cat /new; ls -d /proc/1 /dev/null /sys; stat -c %u /etc/owned /bin")
	if exit.Code != 0 || !strings.HasPrefix(out, "host\nguest\nnew\n/dev/null\n/proc/1\n/sys\n") {
		t.Errorf("got %q, %+v", out, exit)
	}
	if !strings.HasSuffix(out, "0\n0\n") {
		t.Errorf("the root's files are not the guest's root's: %q", out)
	}
	if text, _ := os.ReadFile(root + "/etc/owned"); string(text) != "host\n" {
		t.Errorf("the host's file has %q", text)
	}
	if _, err := os.Lstat(root + "/new"); err == nil {
		t.Error("a file of the guest is in the host's directory")
	}
	if entries, _ := os.ReadDir(root + "/dev"); len(entries) != 0 {
		t.Error("mount points were made in the host's directory")
	}
}

func TestRootHidesTheHost(t *testing.T) {
	t.Parallel()
	root := guestRoot(t)
	// Links that lead out of the root if the host follows them.
	for name, target := range map[string]string{"tmp": "/../../../..", "run": t.TempDir()} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	out, _ := run(t, hv.Config{Root: root}, "ls / ; ls /..; ls -d /home /root /work /host /new /scratch")
	for _, name := range []string{"home\n", "boot\n", "host\n", "scratch\n"} {
		if strings.Contains(out, "\n"+name) {
			t.Errorf("the host shows: %q", out)
		}
	}
}

// An image is a stranger's: what it has in the place of a mount point must not
// make process 1 write to the host, whose tree is at /host while the root is
// built.
func TestRootOfLinksForMountPointsIsRefused(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ name, through string }{
		{"proc", ""}, {"dev", ""}, {"sys", ""}, {"proc", "/host"}, {"dev", "/host"}, {"sys", "/host"},
	} {
		root, outside := guestRoot(t), visibleDir(t)
		target := row.through + outside
		if err := os.Symlink(target, filepath.Join(root, row.name)); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(root+target, 0o755); err != nil { // so that it leads somewhere inside, too
			t.Fatal(err)
		}
		vm, err := New().Start(t.Context(), hv.Config{Name: "test", Root: root})
		if err == nil {
			vm.Close()
			t.Errorf("a root whose /%s is a link to %s is taken", row.name, target)
		}
		if entries, _ := os.ReadDir(outside); len(entries) != 0 {
			t.Errorf("/%s to %s: something was made outside of the root: %v", row.name, target, entries)
		}
	}
}

func TestRootErrors(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, root := range []string{"/no/such/root", file} {
		vm, err := New().Start(t.Context(), hv.Config{Name: "test", Root: root})
		if err == nil {
			vm.Close()
			t.Errorf("root %q is taken", root)
		} else if !strings.Contains(err.Error(), root) {
			t.Errorf("root %q: the error doesn't name it: %v", root, err)
		}
	}
}
