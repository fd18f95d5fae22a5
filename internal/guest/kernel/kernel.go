// Package kernel finds a Linux kernel that a virtual machine of ours can boot,
// and packs what the machine needs before it has a root.
//
// Call [Find]; the [Kernel] it returns opens its image, in a form that a
// hypervisor's own loader takes, and packs an initramfs with the modules that it
// doesn't have built in and the agent as its process 1.
//
//	the caller, SLUICE_KERNEL ─┐
//	libkrunfw's library       ─┼─► Find ─► Kernel ─┬─► Open       the image
//	the host's /boot          ─┘                   └─► Initramfs  modules, agent
//
// The caller's may be a directory with boot and lib/modules in it, as the root of
// an image is that a distribution's package was installed into. Such a root may be
// anybody's: what its symbolic links name outside of it is not read.
//
// What the kernel is asked to run is package machine's business, and how it is
// loaded the hypervisor's. The package won't build, fetch or check kernels: a
// kernel is as trusted as the file that it comes from.
package kernel

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A Kernel is a kernel that was found. It holds nothing open.
type Kernel struct {
	Path string // of the file that has the image
	// Version is the kernel's release as uname has it; "" if the file doesn't
	// say.
	Version string
	// Modules is the directory of its modules, with modules.dep in it; "" if
	// all that it has is built in.
	Modules string
	// Bundled reports that it is libkrunfw's: virtio devices are on MMIO and
	// named on the command line, without ACPI; it has no PCI, no serial port,
	// and no initramfs.
	Bundled bool

	arch string
	dir  string // which all its files are in; "" is the host's root
}

// A Query says which kernel is wanted.
type Query struct {
	// Path, unless empty, is the kernel: an image as /boot has them, libkrunfw's
	// library, or a directory that is looked through as the host's root else is.
	// No other is looked for then.
	Path string
	// Arch is the guest's processor as GOARCH has it, amd64 or arm64.
	Arch string
	// Foreign reports that Arch is not the host's: its own kernels won't do.
	Foreign bool

	root string // a directory instead of the host's root; "" is that itself
	own  bool   // root is the caller's Path, and its links stay in it
}

// ImagePrefix begins the name of a kernel that is in an OCI image. Whoever pulls the
// image gives its directory as Query.Path.
const ImagePrefix = "oci://"

// A MissingError says that no kernel was found, and what would help. It is an
// errors.ErrUnsupported.
type MissingError struct {
	Dir   string   // the only directory that was looked through; "" if the host was
	Tried []string // what was found, and why it won't do; may be empty
	Fix   string   // a command or setting
}

// Error returns all on one line.
func (e *MissingError) Error() string {
	switch {
	case len(e.Tried) > 0:
		return "no kernel can be used for guests: " + strings.Join(e.Tried, "; ")
	case e.Dir != "":
		return "no kernel for guests was found: " + e.Dir + " has no boot/vmlinuz-VERSION"
	}
	return "no kernel for guests was found in /boot, nor libkrunfw"
}

// Help returns Fix.
func (e *MissingError) Help() string { return e.Fix }

// Is reports whether target is errors.ErrUnsupported.
func (e *MissingError) Is(target error) bool { return target == errors.ErrUnsupported }

// Find returns the kernel that q asks for: Path, else libkrunfw's, which starts in
// half the time, else the newest of the host's own whose file can be read and
// whose modules are there. The error is a *MissingError where there is none.
func Find(q Query) (Kernel, error) {
	if strings.HasPrefix(q.Path, ImagePrefix) {
		return Kernel{}, fmt.Errorf("use kernel %q: nobody has pulled the image: sluice run and CreateSandbox do", q.Path)
	}
	if info, err := os.Stat(q.Path); err == nil && info.IsDir() {
		return find(Query{Arch: q.Arch, root: filepath.Clean(q.Path), own: true})
	}
	if q.Path != "" {
		k, err := open(q.Path, q)
		if err != nil {
			return Kernel{}, fmt.Errorf("use kernel %q: %w", q.Path, err)
		}
		return k, nil
	}
	return find(q)
}

// find looks through q's root.
func find(q Query) (Kernel, error) {
	missing := &MissingError{Fix: q.fix()}
	if q.own {
		missing.Dir = q.root
	}
	for _, path := range q.candidates() {
		k, err := open(path, q)
		if err == nil {
			return k, nil
		}
		missing.Tried = append(missing.Tried, path+": "+err.Error())
		if errors.Is(err, fs.ErrPermission) && !q.own {
			missing.Fix = "sudo chmod a+r " + path
		}
	}
	return Kernel{}, missing
}

// fix returns what gets a kernel to where it is looked for.
func (q Query) fix() string {
	if q.own {
		return "put its image at boot/vmlinuz-VERSION there, and its modules at lib/modules/VERSION"
	}
	if _, err := os.Stat(q.root + "/usr/bin/apt-get"); err == nil && !q.Foreign {
		return "sudo apt-get install linux-image-cloud-" + q.Arch
	}
	return "set SLUICE_KERNEL to the path of a kernel, or install libkrunfw"
}

// libraryPatterns are where libkrunfw's packages put it.
var libraryPatterns = []string{
	"/usr/lib64/libkrunfw.so.*", "/usr/local/lib64/libkrunfw.so.*", "/usr/lib/libkrunfw.so.*", "/usr/local/lib/libkrunfw.so.*",
	"/usr/lib/*-linux-gnu/libkrunfw.so.*", "/home/linuxbrew/.linuxbrew/lib/libkrunfw.so.*",
	"/opt/homebrew/lib/libkrunfw.*.dylib", "/usr/local/lib/libkrunfw.*.dylib",
}

// candidates returns the files that may be kernels for q, the preferred first.
func (q Query) candidates() []string {
	if q.Foreign {
		return nil
	}
	// Kernels are beside their modules where the boot loader's directory is not
	// Linux's business.
	patterns := append(slices.Clone(libraryPatterns), "/boot/vmlinuz-*", "/lib/modules/*/vmlinuz")
	if q.own {
		patterns = []string{"/boot/vmlinuz-*", "/lib/modules/*/vmlinuz", "/usr/lib/modules/*/vmlinuz", "/boot/vmlinuz"}
	}
	files := os.DirFS(cmp.Or(q.root, "/"))
	var paths []string
	for _, pattern := range patterns {
		found, _ := fs.Glob(files, pattern[1:]) // the pattern is sound
		for i := range found {
			found[i] = q.root + "/" + found[i]
		}
		paths = append(paths, newestFirst(found)...)
	}
	return paths
}

// newestFirst sorts paths by the versions in them, the highest first.
func newestFirst(paths []string) []string {
	slices.SortFunc(paths, func(a, b string) int { return compareVersions(b, a) })
	return paths
}

// compareVersions compares texts as versions: runs of digits by their value.
func compareVersions(a, b string) int {
	for a != "" && b != "" {
		m, n := digits(a), digits(b)
		if m == 0 || n == 0 {
			if a[0] != b[0] {
				return int(a[0]) - int(b[0])
			}
			a, b = a[1:], b[1:]
			continue
		}
		x, y := strings.TrimLeft(a[:m], "0"), strings.TrimLeft(b[:n], "0")
		if len(x) != len(y) {
			return len(x) - len(y)
		}
		if x != y {
			return strings.Compare(x, y)
		}
		a, b = a[m:], b[n:]
	}
	return len(a) - len(b)
}

// digits returns how many digits s begins with.
func digits(s string) int {
	return len(s) - len(strings.TrimLeft(s, "0123456789"))
}

// open looks at the file at path and returns the kernel that it is.
func open(path string, q Query) (Kernel, error) {
	k := Kernel{Path: path, arch: q.Arch}
	if q.own {
		k.dir = q.root
	}
	f, err := k.open(path)
	if err != nil {
		var failure *fs.PathError
		if errors.As(err, &failure) {
			err = failure.Err // the caller names the path
		}
		return Kernel{}, err
	}
	defer f.Close()
	if _, err := readBundle(f, q.Arch); err == nil {
		k.Bundled = true
		return k, nil
	} else if !errors.Is(err, errNotLibrary) {
		return Kernel{}, err
	}
	if k.Version, err = imageVersion(f, q.Arch); err != nil {
		return Kernel{}, err
	}
	if k.Version == "" {
		return k, nil
	}
	for _, dir := range []string{"/lib/modules/", "/usr/lib/modules/"} {
		dir = q.root + dir + k.Version
		if f, err := k.open(filepath.Join(dir, dependencyFile)); err == nil {
			k.Modules = dir
			return k, f.Close()
		}
	}
	if q.Path == "" {
		return Kernel{}, fmt.Errorf("its modules are not in /lib/modules/%s", k.Version)
	}
	return k, nil // what it needs may be built in
}

// open opens one of the kernel's files for reading. What isn't a file isn't opened: a
// pipe would wait for a writer.
func (k Kernel) open(path string) (*os.File, error) {
	if k.dir == "" {
		info, err := os.Stat(path)
		if err := regular(path, info, err); err != nil {
			return nil, err
		}
		return os.Open(path)
	}
	root, err := os.OpenRoot(k.dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	name, err := filepath.Rel(k.dir, path)
	if err != nil {
		return nil, err
	}
	info, err := root.Stat(name)
	if err := regular(path, info, err); err != nil {
		return nil, err
	}
	return root.Open(name)
}

// regular returns why the file at path, as Stat has it, is none to open.
func regular(path string, info fs.FileInfo, err error) error {
	if err == nil && !info.Mode().IsRegular() {
		return &fs.PathError{Op: "open", Path: path, Err: errors.New("it is no file")}
	}
	return err
}

// Open opens the kernel's image in the form that loaders take: the file itself,
// or for libkrunfw's an ELF file (amd64) or an Image (arm64), which is made as an
// unnamed file in the temporary directory. The caller closes it.
func (k Kernel) Open() (*os.File, error) {
	f, err := k.open(k.Path)
	if err != nil || !k.Bundled {
		return f, err
	}
	defer f.Close()
	b, err := readBundle(f, k.arch)
	if err != nil {
		return nil, fmt.Errorf("read kernel of %q: %w", k.Path, err)
	}
	image, err := b.bootable(k.arch)
	if err != nil {
		return nil, fmt.Errorf("read kernel of %q: %w", k.Path, err)
	}
	return unnamed(func(w *os.File) error {
		_, err := w.Write(image)
		return err
	})
}

// unnamed returns a file without a name, open for reading, that has what write
// writes.
func unnamed(write func(*os.File) error) (*os.File, error) {
	w, err := os.CreateTemp("", "sluice-boot-")
	if err != nil {
		return nil, err
	}
	// Opened again, since who is handed a descriptor that can write might.
	r, err := os.Open(w.Name())
	err = errors.Join(err, os.Remove(w.Name()))
	if err == nil {
		err = write(w)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		r.Close() // a nil file says so, and nothing more
		return nil, err
	}
	return r, nil
}

// imageVersion returns the release of the kernel whose image f is.
func imageVersion(f io.ReaderAt, arch string) (string, error) {
	head := make([]byte, 4096)
	n, err := f.ReadAt(head, 0)
	if n < len(head) {
		return "", fmt.Errorf("it is too short for a kernel: %w", err)
	}
	if _, ok := machines[arch]; !ok {
		return "", fmt.Errorf("there is no support for guests on %s", arch)
	}
	switch format, of := FormatOf(head); {
	case format == BzImage && of == arch:
		at := int64(binary.LittleEndian.Uint16(head[versionText:]))
		if at == 0 {
			return "", nil // it doesn't say
		}
		text := make([]byte, 128)
		if n, _ := f.ReadAt(text, headerBase+at); n < len(text) {
			return "", errors.New("its version is beyond its end")
		}
		return cleanVersion(text), nil
	case format == ELF && of == arch && arch == "amd64":
		return "", nil // QEMU starts it by its PVH note
	case arch == "arm64" && (format == Image || format == ZBoot || format == Gzip):
		// It has no version; a file's name is all there is.
		if named, ok := f.(interface{ Name() string }); ok {
			if _, version, ok := strings.Cut(filepath.Base(named.Name()), "-"); ok {
				return cleanVersion([]byte(version)), nil
			}
		}
		return "", nil
	}
	return "", fmt.Errorf("it is no kernel for %s", arch)
}

// cleanVersion returns the release that text begins with, "" if that could not
// be the name of a directory.
func cleanVersion(text []byte) string {
	end := bytes.IndexAny(text, " \x00")
	if end >= 0 {
		text = text[:end]
	}
	version := string(text)
	if strings.Contains(version, "/") || strings.HasPrefix(version, ".") {
		return ""
	}
	return version
}
