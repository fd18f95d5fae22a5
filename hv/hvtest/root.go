package hvtest

import (
	"os"
	"path/filepath"
	"testing"
)

// Root returns a directory with a shell and a few programs in it, made of the busybox
// at a path, for the guests of the suite. It ends with the test.
func Root(t testing.TB, busybox string) string {
	t.Helper()
	root := t.TempDir()
	for _, dir := range []string{"bin", "etc", "proc", "dev", "tmp"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	program, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "bin/busybox"), program, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sh", "cat", "true", "false", "sleep", "echo", "ip", "ping", "id", "env", "ls"} {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"passwd": "root:x:0:0:root:/root:/bin/sh\n", "group": "root:x:0:\n"} {
		if err := os.WriteFile(filepath.Join(root, "etc", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}
