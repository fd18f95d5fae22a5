package machine

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// testWatch returns a watch of a machine that is a directory.
func testWatch(t *testing.T) *deviceWatch {
	t.Helper()
	d, err := watchDevices()
	if err != nil {
		t.Skip(err) // a container without netlink
	}
	t.Cleanup(func() { d.Close() })
	d.sys, d.dev = t.TempDir(), "/dev"
	return d
}

// attribute writes an attribute of a class's device.
func attribute(t *testing.T, d *deviceWatch, path, value string) {
	t.Helper()
	path = filepath.Join(d.sys, "class", path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	// In one step, as the kernel's appear.
	if err := os.WriteFile(path+".new", []byte(value), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func TestLook(t *testing.T) {
	t.Parallel()
	d := testWatch(t)
	attribute(t, d, "virtio-ports/vport1p1/name", "sluice.agent\n")
	attribute(t, d, "virtio-ports/vport1p2/name", "sluice.status\n")
	attribute(t, d, "block/vda/serial", "upper")
	attribute(t, d, "block/vdb/serial", "root")
	for _, row := range []struct{ class, attribute, value, want string }{
		{"virtio-ports", "name", AgentPort, "/dev/vport1p1"},
		{"virtio-ports", "name", StatusPort, "/dev/vport1p2"},
		{"block", "serial", RootDisk, "/dev/vdb"},
		{"block", "serial", UpperDisk, "/dev/vda"},
		{"block", "serial", "roo", ""},
		{"net", "name", RootDisk, ""},
	} {
		if got := d.look(row.class, row.attribute, row.value); got != row.want {
			t.Errorf("look(%s, %s, %s) = %q; want %q", row.class, row.attribute, row.value, got, row.want)
		}
	}
}

// A device that comes late is waited for; one that never comes isn't, for long.
func TestFind(t *testing.T) {
	t.Parallel()
	d := testWatch(t)
	late := time.AfterFunc(50*time.Millisecond, func() { attribute(t, d, "block/vdc/serial", RootDisk) })
	defer late.Stop()
	if path, err := d.find("block", "serial", RootDisk); err != nil || path != "/dev/vdc" {
		t.Errorf("find = %q, %v", path, err)
	}
	if err := d.wait(0); !errors.Is(err, errNoDevice) {
		t.Errorf("a wait whose time is up: %v", err)
	}
}

// A name that leads elsewhere becomes a directory; what is one stays.
func TestRealDirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	outside := t.TempDir()
	for name, make := range map[string]func(string) error{
		"dir":     func(path string) error { return os.Mkdir(path, 0o700) },
		"file":    func(path string) error { return os.WriteFile(path, nil, 0o600) },
		"link":    func(path string) error { return os.Symlink(outside, path) },
		"loop":    func(path string) error { return os.Symlink("loop", path) },
		"broken":  func(path string) error { return os.Symlink("/nowhere/at/all", path) },
		"missing": func(string) error { return nil },
	} {
		if err := make(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for name, mode := range map[string]fs.FileMode{"dir": 0o700, "file": 0o755, "link": 0o755, "loop": 0o755, "broken": 0o755, "missing": 0o755} {
		if err := realDirectory(root, name); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if info, err := os.Lstat(filepath.Join(dir, name)); err != nil || !info.IsDir() || info.Mode().Perm() != mode {
			t.Errorf("%s is %v, %v; want a directory with %v", name, info.Mode(), err, mode)
		}
	}
	if info, err := os.Stat(outside); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("what a link led to is %v, %v", info.Mode(), err)
	}
	// A directory that isn't empty is no link: a name below it is an error.
	if err := os.WriteFile(filepath.Join(dir, "dir", "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := realDirectory(root, "dir/file/below"); err == nil {
		t.Error("a directory below a file has no error")
	}
	if err := makeDirectory(root, "tmp", 0o777|fs.ModeSticky); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(filepath.Join(dir, "tmp")); err != nil || info.Mode() != fs.ModeDir|fs.ModeSticky|0o777 {
		t.Errorf("tmp is %v, %v", info.Mode(), err)
	}
}

// Modules may be missing; one that can't be loaded is named.
func TestLoadModules(t *testing.T) {
	t.Parallel()
	if err := loadModules(filepath.Join(t.TempDir(), "none")); err != nil {
		t.Errorf("no directory: %v", err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "000-broken.ko"), []byte("no module"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := loadModules(dir); err == nil || !strings.Contains(err.Error(), "000-broken.ko") {
		t.Errorf("a broken module: %v", err)
	}
}
