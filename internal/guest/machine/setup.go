package machine

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/sluicenet/sluice/hv"
)

// A Setup is what a machine is told on its kernel's command line.
type Setup struct {
	// Root is the type of the file system on RootDisk, "ext4" or "erofs"; or
	// "virtiofs", a directory of the host's with the tag RootDisk.
	Root string
	// Writable mounts it for writing, without an overlay.
	Writable bool
	// Upper is the type of the file system on UpperDisk, which holds what the
	// guest writes over a root that isn't Writable; "" is the guest's memory.
	Upper string
	// ByOrder finds the disks by their order, the root first, with a hypervisor
	// that gives serial numbers of its own.
	ByOrder bool
	// Vsock is the port on the host, at CID 2, that carries what AgentPort would,
	// and the next one StatusPort's, with a hypervisor that has no console ports;
	// 0 where there are ports.
	Vsock uint32
	// Off ends the machine by switching it off, with a hypervisor that starts it
	// anew after a reset.
	Off bool
	// Memory are laid over the root, in this order.
	Memory []MemoryDir
}

// A MemoryDir is an empty directory in the guest's memory, for everybody to write to.
// Set-id bits and devices in it have no effect.
type MemoryDir struct {
	Path     string // absolute and clean, not the root
	SizeMiB  uint32 // at most; 0 is half the memory
	ReadOnly bool
	NoExec   bool
}

// Words that a Setup has on the command line. The kernel leaves alone what has a
// dot in it and names none of its modules.
const (
	rootWord  = "sluice.root="
	upperWord = "sluice.upper="
	writable  = ",rw"
	orderWord = "sluice.disks=order"
	vsockWord = "sluice.vsock="
	offWord   = "sluice.end=off"
	dirWord   = "sluice.memory=" // PATH,MIB[,ro][,noexec]; the path is escaped as in a query of a URL
	readOnly  = "ro"
	noExec    = "noexec"
)

// maxMemoryWords bounds the words for Setup.Memory, in bytes: a kernel's command line
// has 2048 on amd64 and arm64, and what is beyond is cut off.
const maxMemoryWords = 1024

// Words returns the words for the kernel's command line.
func (s Setup) Words() []string {
	root := rootWord + s.Root
	if s.Writable {
		root += writable
	}
	words := []string{root}
	if s.Upper != "" {
		words = append(words, upperWord+s.Upper)
	}
	if s.ByOrder {
		words = append(words, orderWord)
	}
	if s.Vsock != 0 {
		words = append(words, fmt.Sprint(vsockWord, s.Vsock))
	}
	if s.Off {
		words = append(words, offWord)
	}
	for _, d := range s.Memory {
		words = append(words, d.word())
	}
	return words
}

// word returns the directory's word.
func (d MemoryDir) word() string {
	word := fmt.Sprint(dirWord, url.QueryEscape(d.Path), ",", d.SizeMiB)
	if d.ReadOnly {
		word += "," + readOnly
	}
	if d.NoExec {
		word += "," + noExec
	}
	return word
}

// parseMemoryDir returns the directory of a word, of which value is what comes behind
// dirWord.
func parseMemoryDir(value string) (MemoryDir, error) {
	var d MemoryDir
	escaped, options, _ := strings.Cut(value, ",")
	size, options, _ := strings.Cut(options, ",")
	mebibytes, err := strconv.ParseUint(size, 10, 32)
	if err == nil {
		d.SizeMiB = uint32(mebibytes)
		d.Path, err = url.QueryUnescape(escaped)
	}
	if err == nil {
		err = d.check()
	}
	if err != nil {
		return d, fmt.Errorf("the command line names %q as a directory in memory: %w", value, err)
	}
	for option := range strings.SplitSeq(options, ",") {
		d.ReadOnly = d.ReadOnly || option == readOnly
		d.NoExec = d.NoExec || option == noExec
	}
	return d, nil
}

// check reports whether something can be laid over the path.
func (d MemoryDir) check() error {
	if !path.IsAbs(d.Path) || path.Clean(d.Path) != d.Path || d.Path == "/" {
		return fmt.Errorf("mount on %q: not an absolute, clean path below the root", d.Path)
	}
	return nil
}

// fileSystems are what is mounted as a root; the first over one as well.
var fileSystems = []string{"ext4", "erofs", virtiofs}

// virtiofs is the file system that has no disk.
const virtiofs = "virtiofs"

// parseSetup returns the Setup on a kernel's command line. A word may be in quotes,
// as libkrun puts them. Beside an error the Setup says all the same how the host is
// to be told, and how the machine ends.
func parseSetup(commandLine string) (Setup, error) {
	var s Setup
	for word := range strings.FieldsSeq(commandLine) {
		word = strings.Trim(word, `"`)
		s.ByOrder = s.ByOrder || word == orderWord
		s.Off = s.Off || word == offWord
		if value, ok := strings.CutPrefix(word, vsockWord); ok {
			port, err := strconv.ParseUint(value, 10, 32)
			if err != nil {
				return s, fmt.Errorf("the command line names %q as a port of the host's", value)
			}
			s.Vsock = uint32(port)
		}
		if value, ok := strings.CutPrefix(word, rootWord); ok {
			s.Root, s.Writable = strings.CutSuffix(value, writable)
		}
		if value, ok := strings.CutPrefix(word, upperWord); ok {
			s.Upper = value
		}
		if value, ok := strings.CutPrefix(word, dirWord); ok {
			d, err := parseMemoryDir(value)
			if err != nil {
				return s, err
			}
			s.Memory = append(s.Memory, d)
		}
	}
	if s.Root == "" {
		return s, errors.New("the command line names no root")
	}
	for _, fs := range []string{s.Root, s.Upper} {
		if fs != "" && !slices.Contains(fileSystems, fs) {
			return s, fmt.Errorf("the command line names %q, which is no file system for a root", fs)
		}
	}
	if s.Upper != "" && (s.Writable || s.Upper != "ext4") {
		return s, errors.New("the command line names an upper disk that can't be one")
	}
	return s, nil
}

// SetupOf returns what the machine of a guest is told, or why no machine can be that
// guest; that is an errors.ErrUnsupported where another backend can. How the disks are
// found, how the host is reached and how the machine ends is the hypervisor's.
func SetupOf(cfg hv.Config) (Setup, error) {
	if cfg.Stdio != [3]*os.File{} {
		return Setup{}, &refusal{"a machine's commands can't have the host's files as their standard ones", "use the backend namespace"}
	}
	s, err := rootOf(cfg)
	if err != nil {
		return Setup{}, err
	}
	size := 0
	for _, m := range cfg.Mounts {
		if m.Source != "" {
			return Setup{}, &refusal{fmt.Sprintf("a machine can't show %q of the host's at %q", m.Source, m.Target), "copy it in, or use the backend namespace"}
		}
		d := MemoryDir{Path: m.Target, SizeMiB: m.SizeMiB, ReadOnly: m.ReadOnly, NoExec: m.NoExec}
		if err := d.check(); err != nil {
			return Setup{}, err
		}
		if size += len(d.word()) + 1; size > maxMemoryWords {
			return Setup{}, fmt.Errorf("mount on %q: the mounts' paths are too long together for a kernel's command line", m.Target)
		}
		s.Memory = append(s.Memory, d)
	}
	return s, nil
}

// rootOf returns what the root is made of.
func rootOf(cfg hv.Config) (Setup, error) {
	switch {
	case cfg.Root != "" && len(cfg.Disks) > 0:
		return Setup{}, errors.New("both a root directory and a root disk are given")
	case cfg.Root != "":
		return Setup{Root: virtiofs}, nil
	case len(cfg.Disks) == 0:
		return Setup{}, &refusal{"a machine needs an image for its root", "name one, or use the backend namespace"}
	case cfg.Disks[0].Format == hv.Raw:
		return Setup{}, fmt.Errorf("the root's disk %q has no file system that is known", cfg.Disks[0].Path)
	}
	root := cfg.Disks[0]
	s := Setup{Root: root.Format.String(), Writable: !root.ReadOnly && root.Format != hv.EROFS}
	if len(cfg.Disks) > 1 && !s.Writable && !cfg.Disks[1].ReadOnly && cfg.Disks[1].Format == hv.Ext4 {
		s.Upper = hv.Ext4.String()
	}
	return s, nil
}

// A refusal says what no machine can be, and what helps. It is an
// errors.ErrUnsupported.
type refusal struct{ what, fix string }

func (r *refusal) Error() string        { return r.what }
func (r *refusal) Help() string         { return r.fix }
func (r *refusal) Is(target error) bool { return target == errors.ErrUnsupported }
