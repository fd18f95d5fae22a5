//go:build unix

package disk

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// What Upper makes is what e2fsck calls clean, of any size, and takes no room.
func TestUpper(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		sizeMiB uint32
		groups  int64
	}{{0, 1}, {1, 1}, {128, 1}, {129, 2}, {4096, 32}, {64 << 10, 512}, {1 << 20, 8192}} {
		path := filepath.Join(t.TempDir(), "upper")
		if err := Upper(path, row.sizeMiB); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil || info.Size() != row.groups<<27 || info.Mode() != 0o600 {
			t.Errorf("%d MiB: %d bytes, %v, %v", row.sizeMiB, info.Size(), info.Mode(), err)
		}
		if used := info.Sys().(*syscall.Stat_t).Blocks * 512; used > 1<<20 {
			t.Errorf("%d MiB take %d bytes", row.sizeMiB, used)
		}
		fsck(t, path)
		if got := debugfs(t, path, "ls -l /"); !strings.Contains(got, "40755 (2)") || !strings.Contains(got, "lost+found") {
			t.Errorf("%d MiB: / is %s", row.sizeMiB, got)
		}
	}
}

// A path that exists is left alone, and a failure leaves nothing.
func TestUpperErrors(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "upper")
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Upper(path, 1); !errors.Is(err, os.ErrExist) {
		t.Errorf("Upper over a file: %v", err)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "mine" {
		t.Errorf("the file is %q, %v", text, err)
	}
	path += "2"
	for _, sizeMiB := range []uint32{16 << 20, 1<<32 - 1} {
		if err := Upper(path, sizeMiB); err == nil || !strings.Contains(err.Error(), "too many") {
			t.Errorf("Upper of %d MiB: %v", sizeMiB, err)
		}
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it left a file: %v", err)
	}
}
