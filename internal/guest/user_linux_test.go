package guest

import (
	"os"
	"strings"
	"syscall"
	"testing"
)

// An image may have anything where the guest's users are said to be.
func TestIdentifyOddFiles(t *testing.T) {
	t.Parallel()
	for name, make := range map[string]func(path string) error{
		"a pipe":      func(path string) error { return syscall.Mkfifo(path, 0o644) },
		"a device":    func(path string) error { return os.Symlink("/dev/zero", path) },
		"a directory": func(path string) error { return os.Mkdir(path, 0o755) },
	} {
		root := t.TempDir()
		if err := os.Mkdir(root+"/etc", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := make(root + passwdFile); err != nil {
			t.Fatal(err)
		}
		if who, err := identify(root, "root"); err == nil || !strings.Contains(err.Error(), passwdFile+" is no file") {
			t.Errorf("%s: identify = %+v, %v; want that it is no file", name, who, err)
		}
	}
}
