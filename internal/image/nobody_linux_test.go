package image

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// nobody is the uid and gid of the tests without privilege.
const nobody = 65534

// TestAsNobody runs this package's other tests again without any privilege: what
// WriteTar gives must be the same.
func TestAsNobody(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("this run is without privilege already")
	}
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil { // TempDir is for its owner alone
		t.Fatal(err)
	}
	self := filepath.Join(dir, "image.test")
	copyProgram(t, self)
	cmd := exec.CommandContext(t.Context(), "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all",
		self, "-test.v", "-test.skip=^TestAsNobody$", "-test.timeout=100s")
	cmd.Env = append(os.Environ(), "HOME=/nonexistent")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Errorf("%v\n%s", err, out.Bytes())
	}
	for _, name := range []string{"TestApply", "TestHostile", "TestModel", "TestKill", "TestPullBusybox"} {
		if !bytes.Contains(out.Bytes(), []byte("--- PASS: "+name)) {
			t.Errorf("%s was not run:\n%s", name, out.Bytes())
		}
	}
}

// copyProgram copies this program, which may be where only root can execute it.
func copyProgram(t *testing.T, to string) {
	t.Helper()
	from, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(f, from); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestAnothersCache shows that a directory that is not this user's alone is
// refused.
func TestAnothersCache(t *testing.T) {
	t.Parallel()
	open := func(prepare func(dir string) error) error {
		cfg := testConfig(t)
		if err := prepare(cfg.Dir); err != nil {
			t.Fatal(err)
		}
		_, err := Open(cfg)
		return err
	}
	mkdir := func(mode os.FileMode) func(string) error {
		return func(dir string) error {
			if err := os.Mkdir(dir, 0o700); err != nil {
				return err
			}
			return os.Chmod(dir, mode)
		}
	}
	for _, row := range []struct {
		name    string
		prepare func(string) error
		ok      bool
	}{
		{"none yet", func(string) error { return nil }, true},
		{"ours", mkdir(0o700), true},
		{"that others may read", mkdir(0o755), false},
		{"that a group may enter", mkdir(0o710), false},
		{"that others may write", mkdir(0o1777), false},
		{"a file", func(dir string) error { return os.WriteFile(dir, nil, 0o600) }, false},
		{"a link", func(dir string) error { return os.Symlink("/", dir) }, false},
	} {
		if err := open(row.prepare); (err == nil) != row.ok {
			t.Errorf("%s: %v", row.name, err)
		}
	}
	if os.Geteuid() == 0 {
		if err := open(func(dir string) error {
			if err := os.Mkdir(dir, 0o700); err != nil {
				return err
			}
			return os.Chown(dir, nobody, nobody)
		}); err == nil {
			t.Error("nobody's was opened")
		}
	}
}
