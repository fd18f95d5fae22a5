//go:build !linux

package image

import (
	"os"
	"testing"
)

const fifosWork = false

func fastDir() string { return "" }

// ownerOf is of the process: nobody gives files away here, in tests.
func ownerOf(os.FileInfo) (uid, gid int) { return os.Geteuid(), os.Getegid() }

func linksOf(os.FileInfo) uint64 { return 1 }

func xattrsOf(testing.TB, string) map[string]string { return nil }
