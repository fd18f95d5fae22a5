//go:build linux || darwin

package image

import (
	"io/fs"
	"os"
	"syscall"
)

// ownedByUser compares the file's uid with ours. See checkPrivate.
func ownedByUser(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid()
}
