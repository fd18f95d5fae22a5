//go:build unix

package kernel

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A pipe is no kernel, and nobody waits for what comes out of it.
func TestFindPipe(t *testing.T) {
	t.Parallel()
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{pipe, "/dev/null"} {
		if k, err := Find(Query{Path: path, Arch: "amd64"}); err == nil || !strings.Contains(err.Error(), "it is no file") {
			t.Errorf("Find(%s) = %+v, %v; want an error that says that it is no file", path, k, err)
		}
	}
}
