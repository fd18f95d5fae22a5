package sdk

import (
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/sluicenet/sluice/internal/sandbox"
)

// A PatchKind says what a patch does.
type PatchKind string

const (
	PatchKindText     PatchKind = "text"
	PatchKindAppend   PatchKind = "append"
	PatchKindMkdir    PatchKind = "mkdir"
	PatchKindRemove   PatchKind = "remove"
	PatchKindSymlink  PatchKind = "symlink"
	PatchKindCopyFile PatchKind = "copy_file"
	PatchKindCopyDir  PatchKind = "copy_dir"
)

// A PatchConfig is one change of the root, made before the guest starts. Use
// [Patch] to make one. Which fields count is up to Kind.
type PatchConfig struct {
	Kind    PatchKind `json:"kind"`
	Path    string    `json:"path,omitempty"`    // in the guest: text, append, mkdir, remove
	Content string    `json:"content,omitempty"` // text, append
	Mode    *uint32   `json:"mode,omitempty"`    // permissions; nil means 0644, 0755 for a directory, the source's for a copy
	Replace bool      `json:"replace,omitempty"` // something that is there may be replaced
	Src     string    `json:"src,omitempty"`     // on the host: copy_file, copy_dir
	Dst     string    `json:"dst,omitempty"`     // in the guest: copy_file, copy_dir
	Target  string    `json:"target,omitempty"`  // what a symbolic link leads to
	Link    string    `json:"link,omitempty"`    // where it stands in the guest
}

// PatchOptions are what several patches have in common.
type PatchOptions struct {
	Mode    *uint32 // permissions, at most 07777; nil is the patch's default
	Replace bool    // something that is there may be replaced; without it that is an error
}

// Patch makes changes of the root.
var Patch patchFactory

type patchFactory struct{}

// Text writes a file.
func (patchFactory) Text(path, content string, o PatchOptions) PatchConfig {
	return PatchConfig{Kind: PatchKindText, Path: path, Content: content, Mode: o.Mode, Replace: o.Replace}
}

// Append adds to a file, which must be there.
func (patchFactory) Append(path, content string) PatchConfig {
	return PatchConfig{Kind: PatchKindAppend, Path: path, Content: content}
}

// Mkdir makes a directory, with those above it; one that is there stays.
func (patchFactory) Mkdir(path string, o PatchOptions) PatchConfig {
	return PatchConfig{Kind: PatchKindMkdir, Path: path, Mode: o.Mode}
}

// Remove removes a file, or a directory with all that is in it; what isn't there
// is removed.
func (patchFactory) Remove(path string) PatchConfig {
	return PatchConfig{Kind: PatchKindRemove, Path: path}
}

// Symlink makes a symbolic link at link, which leads to target.
func (patchFactory) Symlink(target, link string, o PatchOptions) PatchConfig {
	return PatchConfig{Kind: PatchKindSymlink, Target: target, Link: link, Replace: o.Replace}
}

// CopyFile copies a file of the host.
func (patchFactory) CopyFile(src, dst string, o PatchOptions) PatchConfig {
	return PatchConfig{Kind: PatchKindCopyFile, Src: src, Dst: dst, Mode: o.Mode, Replace: o.Replace}
}

// CopyDir copies a directory of the host with all that is in it.
func (patchFactory) CopyDir(src, dst string, o PatchOptions) PatchConfig {
	return PatchConfig{Kind: PatchKindCopyDir, Src: src, Dst: dst, Replace: o.Replace}
}

// maxContent bounds what patches and scripts write, in bytes together: it
// crosses to the sandbox's process in one message. CopyFile has no such bound.
const maxContent = 4 << 20

// checkPatches reports what is wrong with the changes of the root.
func (c *checker) checkPatches(cfg *SandboxConfig) {
	size := 0
	for i, p := range cfg.Patches {
		at := index("WithPatches", i)
		size += len(p.Content)
		guest, field := p.Path, ".Path"
		switch p.Kind {
		case PatchKindText, PatchKindAppend, PatchKindMkdir, PatchKindRemove:
		case PatchKindCopyFile, PatchKindCopyDir:
			guest, field = p.Dst, ".Dst"
			c.checkSource(at+".Src", p)
		case PatchKindSymlink:
			guest, field = p.Link, ".Link"
			if p.Target == "" || !isText(p.Target) {
				c.fail(ErrInvalidConfig, at+".Target", p.Target, "no path", "write what the link leads to")
			}
		default:
			c.fail(ErrInvalidConfig, at+".Kind", string(p.Kind), "no such patch", "use a function of Patch")
			continue
		}
		if !isGuestPath(guest) || guest == "/" {
			c.fail(ErrInvalidConfig, at+field, guest, "no path of a file in the guest", "write an absolute path without . and ..")
		}
		if p.Mode != nil && *p.Mode > 0o7777 {
			c.fail(ErrInvalidConfig, at+".Mode", "0"+strconv.FormatUint(uint64(*p.Mode), 8), "no permissions", "write 0 to 07777")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Scripts)) {
		size += len(cfg.Scripts[name])
		if name == "" || name == "." || name == ".." || strings.ContainsRune(name, '/') || len(name) > 255 || !isText(name) {
			c.fail(ErrInvalidConfig, "WithScripts["+strconv.Quote(name)+"]", name, "no name of a file", "write one without /")
		}
	}
	if size > maxContent {
		c.fail(ErrInvalidConfig, "WithPatches and WithScripts", decimal(size), "bytes are more than "+decimal(maxContent), "copy large files with Patch.CopyFile")
	}
	if size := len(cfg.Patches) + len(cfg.Scripts); size > 0 && cfg.Image == "" && cfg.BindRootfs == "" {
		c.fail(ErrInvalidConfig, "WithPatches and WithScripts", "", "the host's own files are not changed", "give the guest a root by WithImage or WithBindRootfs")
	}
}

// scriptsDir is where the scripts of WithScripts are in the guest.
const scriptsDir = "/.msb/scripts"

// patches returns all changes of the root: the patches, then the scripts.
func (c *SandboxConfig) patches() []sandbox.Patch {
	var all []sandbox.Patch
	for _, p := range c.Patches {
		q := sandbox.Patch{Kind: sandbox.PatchKind(p.Kind), Path: p.Path, Content: p.Content, Mode: p.Mode, Replace: p.Replace, Source: p.Src, Target: p.Target}
		switch p.Kind {
		case PatchKindCopyFile, PatchKindCopyDir:
			q.Path = p.Dst
		case PatchKindSymlink:
			q.Path = p.Link
		}
		all = append(all, q)
	}
	executable := uint32(0o755)
	for _, name := range slices.Sorted(maps.Keys(c.Scripts)) {
		all = append(all, sandbox.Patch{
			Kind: sandbox.PatchText, Path: path.Join(scriptsDir, name), Content: c.Scripts[name], Mode: &executable, Replace: true,
		})
	}
	return all
}

// checkSource reports why a patch has nothing to copy.
func (c *checker) checkSource(at string, p PatchConfig) {
	info, err := os.Stat(p.Src)
	switch {
	case err != nil:
		c.fail(ErrPathNotFound, at, p.Src, "can't be looked at", "give a path that this user can read")
	case p.Kind == PatchKindCopyDir && !info.IsDir():
		c.fail(ErrInvalidConfig, at, p.Src, "is not a directory", "use Patch.CopyFile")
	case p.Kind == PatchKindCopyFile && !info.Mode().IsRegular():
		c.fail(ErrInvalidConfig, at, p.Src, "is not a file", "use Patch.CopyDir for a directory")
	}
}
