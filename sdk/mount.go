package sdk

import (
	"maps"
	"os"
	"path"
	"slices"
	"strconv"

	"github.com/sluicenet/sluice/hv"
)

// A MountConfig is what a path of the guest shows: a directory or file of the
// host, or an empty directory in memory. Use [Mount] to make one.
type MountConfig struct {
	// Bind is a path of the host; Tmpfs asks for an empty directory. One of
	// them is needed.
	Bind     string `json:"bind,omitempty"`
	Tmpfs    bool   `json:"tmpfs,omitempty"`
	Readonly bool   `json:"readonly,omitempty"`
	Noexec   bool   `json:"noexec,omitempty"` // nothing in it is executed
	Nosuid   bool   `json:"nosuid,omitempty"` // set-id bits in it have no effect
	Nodev    bool   `json:"nodev,omitempty"`  // device nodes in it have no effect
	// SizeMiB bounds a Tmpfs in MiB; 0 means half the guest's memory.
	SizeMiB uint32 `json:"size_mib,omitempty"`
}

// MountOptions are the options of a mounted path of the host.
type MountOptions struct{ Readonly, Noexec, Nosuid, Nodev bool }

// TmpfsOptions are the options of a directory in memory.
type TmpfsOptions struct {
	SizeMiB                         uint32 // 0 means half the guest's memory
	Readonly, Noexec, Nosuid, Nodev bool
}

// Mount makes mounts.
var Mount mountFactory

type mountFactory struct{}

// Bind returns the mount of a path of the host.
func (mountFactory) Bind(hostPath string, o MountOptions) MountConfig {
	return MountConfig{Bind: hostPath, Readonly: o.Readonly, Noexec: o.Noexec, Nosuid: o.Nosuid, Nodev: o.Nodev}
}

// Tmpfs returns the mount of an empty directory in memory.
func (mountFactory) Tmpfs(o TmpfsOptions) MountConfig {
	return MountConfig{Tmpfs: true, SizeMiB: o.SizeMiB, Readonly: o.Readonly, Noexec: o.Noexec, Nosuid: o.Nosuid, Nodev: o.Nodev}
}

// checkMounts reports what is wrong with the mounts.
func (c *checker) checkMounts(mounts map[string]MountConfig) {
	for _, target := range slices.Sorted(maps.Keys(mounts)) {
		at, m := "WithMounts["+strconv.Quote(target)+"]", mounts[target]
		if !isGuestPath(target) || target == "/" {
			c.fail(ErrInvalidConfig, at, target, "no path that can be covered", "write an absolute path without . and .., below the root")
		}
		switch {
		case m.Bind != "" && m.Tmpfs:
			c.fail(ErrInvalidConfig, at, "", "asks for a path of the host and for memory", "use Mount.Bind or Mount.Tmpfs")
		case m.Tmpfs:
		case m.Bind == "":
			c.fail(ErrInvalidConfig, at, "", "shows nothing", "use Mount.Bind or Mount.Tmpfs")
		default:
			if m.SizeMiB != 0 {
				c.fail(ErrInvalidConfig, at+".SizeMiB", decimal(uint64(m.SizeMiB)), "only memory has a size", "drop it")
			}
			if _, err := os.Stat(m.Bind); err != nil {
				c.fail(ErrPathNotFound, at, m.Bind, "can't be looked at", "give a path that this user can read")
			}
		}
	}
}

// mounts returns the mounts as the sandbox takes them: a path before those below
// it.
func (c *SandboxConfig) mounts() []hv.Mount {
	var mounts []hv.Mount
	for _, target := range slices.Sorted(maps.Keys(c.Mounts)) {
		m := c.Mounts[target]
		mounts = append(mounts, hv.Mount{
			Target: target, Source: m.Bind, ReadOnly: m.Readonly, NoExec: m.Noexec, NoSUID: m.Nosuid, NoDev: m.Nodev, SizeMiB: m.SizeMiB,
		})
	}
	return mounts
}

// isGuestPath reports whether p can name a file of the guest from its root on.
func isGuestPath(p string) bool {
	return path.IsAbs(p) && path.Clean(p) == p && isText(p)
}
