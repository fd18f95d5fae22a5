package image

import (
	"bytes"
	"errors"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// fifosWork reports whether FIFOs are made.
const fifosWork = true

// fastDir returns a directory in memory, "" if there is none with room for the
// tests.
func fastDir() string {
	const dir, room = "/dev/shm", 2 << 30
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil || st.Bavail*uint64(st.Bsize) < room || unix.Access(dir, unix.W_OK) != nil {
		return ""
	}
	return dir
}

// ownerOf returns who a file belongs to.
func ownerOf(info os.FileInfo) (uid, gid int) {
	st := info.Sys().(*syscall.Stat_t)
	return int(st.Uid), int(st.Gid)
}

// linksOf returns how many names a file has.
func linksOf(info os.FileInfo) uint64 { return uint64(info.Sys().(*syscall.Stat_t).Nlink) }

// xattrsOf returns a file's extended attributes.
func xattrsOf(t testing.TB, path string) map[string]string {
	t.Helper()
	names := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, names)
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	if err != nil {
		t.Errorf("attributes of %q: %v", path, err)
		return nil
	}
	found := make(map[string]string)
	for name := range bytes.SplitSeq(bytes.TrimSuffix(names[:n], []byte{0}), []byte{0}) {
		value := make([]byte, 64<<10)
		if size, err := unix.Lgetxattr(path, string(name), value); err == nil && len(name) > 0 {
			found[string(name)] = string(value[:size])
		}
	}
	return found
}

// TestFileCapability shows that a program keeps its capabilities where that is
// this process's to give.
func TestFileCapability(t *testing.T) {
	t.Parallel()
	// Version 2, effective, CAP_NET_BIND_SERVICE permitted (capabilities(7)).
	const bind = "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	a, img := mustUnpack(t, layer(t, file("ping", "x").mode(0o755).xattr("security.capability", bind)))
	n := a.root.children["ping"]
	root := os.Geteuid() == 0
	if n.xattrsUnset == root {
		t.Errorf("left to the record: %t, as root %t", n.xattrsUnset, root)
	}
	if got := xattrsOf(t, img.RootDir+"/ping")["security.capability"]; (got == bind) != root {
		t.Errorf("on the disk: %q, as root %t", got, root)
	}
}
