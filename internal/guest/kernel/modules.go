package kernel

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// Files of a directory of modules (depmod(8)).
const (
	dependencyFile = "modules.dep"
	builtinFile    = "modules.builtin"
)

const (
	// maxModule bounds a module's bytes, and once more when decompressed. The largest
	// of a distribution, a graphics driver, has a fifth of it.
	maxModule = 64 << 20
	// maxNeeded bounds the modules that a guest needs, of which a distribution's
	// kernel has two dozen.
	maxNeeded = 256
	// maxModules bounds the modules that a kernel has: ten times a distribution's.
	maxModules = 64 << 10
)

// A module is a file to load into a kernel.
type module struct {
	name string // as the kernel has it, with underscores
	path string
}

// modules returns the files of the modules and of all that they need, each behind
// what it needs. Those that are built into the kernel have none; of the helpful ones
// any may be missing.
func (k Kernel) modules(needed, helpful []string) ([]module, error) {
	if k.Modules == "" {
		return nil, nil
	}
	dependencies, err := k.readDependencies()
	if err != nil {
		return nil, err
	}
	builtin, err := k.readBuiltin()
	if err != nil {
		return nil, err
	}
	o := &order{dependencies: dependencies, seen: make(map[string]bool)}
	for _, name := range helpful {
		if _, ok := dependencies[name]; !ok {
			continue
		}
		if err := o.add(name); err != nil {
			return nil, fmt.Errorf("kernel %s: %w", k.Version, err)
		}
	}
	for _, name := range needed {
		if err := o.add(name); err != nil && !builtin[name] {
			return nil, fmt.Errorf("kernel %s: %w", k.Version, err)
		}
	}
	if len(o.list) > maxNeeded {
		return nil, fmt.Errorf("kernel %s: it needs %d modules; %d are the most", k.Version, len(o.list), maxNeeded)
	}
	for i := range o.list {
		o.list[i].path = filepath.Join(k.Modules, o.list[i].path)
	}
	return o.list, nil
}

// Has reports whether the kernel has a module of that name, built in or as a file.
// One whose modules are not known is taken to have all built in.
func (k Kernel) Has(name string) bool {
	if k.Modules == "" {
		return true
	}
	_, err := k.modules([]string{name}, nil)
	return err == nil
}

// An order puts modules behind those that they need.
type order struct {
	dependencies map[string]dependency
	seen         map[string]bool
	list         []module
}

// A dependency is a line of modules.dep.
type dependency struct {
	path  string   // below the directory of modules
	needs []string // names of all that it needs, also indirectly
}

// add adds a module and what it needs.
func (o *order) add(name string) error {
	if o.seen[name] {
		return nil
	}
	d, ok := o.dependencies[name]
	if !ok {
		return fmt.Errorf("it has no module %s", name)
	}
	o.seen[name] = true // before the rest: a circle must end
	for _, need := range d.needs {
		if err := o.add(need); err != nil {
			return err
		}
	}
	o.list = append(o.list, module{name: name, path: d.path})
	return nil
}

// readDependencies reads modules.dep: "path: path path...".
func (k Kernel) readDependencies() (map[string]dependency, error) {
	dependencies := make(map[string]dependency)
	err := k.eachLine(dependencyFile, func(line string) {
		file, rest, ok := strings.Cut(line, ":")
		if !ok || !filepath.IsLocal(file) {
			return
		}
		d := dependency{path: file}
		// depmod writes what is needed most directly first.
		for _, need := range slices.Backward(strings.Fields(rest)) {
			d.needs = append(d.needs, moduleName(need))
		}
		dependencies[moduleName(file)] = d
	})
	return dependencies, err
}

// readBuiltin reads modules.builtin, which may be missing: one path a line.
func (k Kernel) readBuiltin() (map[string]bool, error) {
	names := make(map[string]bool)
	err := k.eachLine(builtinFile, func(line string) { names[moduleName(line)] = true })
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return names, err
}

// eachLine calls line with each line of a file of the directory of modules.
func (k Kernel) eachLine(name string, line func(string)) error {
	f, err := k.open(filepath.Join(k.Modules, name))
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for n := 0; lines.Scan(); n++ {
		if n == maxModules {
			return fmt.Errorf("%s has more than %d lines", name, maxModules)
		}
		line(lines.Text())
	}
	return lines.Err()
}

// moduleName returns the name of the module in a file: "virtio_net" for
// "kernel/drivers/net/virtio-net.ko.xz".
func moduleName(path string) string {
	name, _, _ := strings.Cut(filepath.Base(path), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// read returns a module's bytes and whether they are compressed still: the kernel
// takes xz itself since 5.17, and the standard library doesn't.
func (k Kernel) read(m module) (text []byte, compressed bool, err error) {
	f, err := k.open(m.path)
	if err != nil {
		return nil, false, err
	}
	defer f.Close()
	if text, err = io.ReadAll(io.LimitReader(f, maxModule)); err != nil {
		return nil, false, err
	}
	var r io.Reader
	switch filepath.Ext(m.path) {
	case ".xz":
		return text, true, nil
	case ".gz":
		r, err = gzip.NewReader(bytes.NewReader(text))
	case ".zst":
		var z *zstd.Decoder
		if z, err = zstd.NewReader(bytes.NewReader(text), zstd.WithDecoderConcurrency(1)); err == nil {
			defer z.Close()
			r = z
		}
	default:
		return text, false, nil
	}
	if err == nil {
		text, err = io.ReadAll(io.LimitReader(r, maxModule))
	}
	if err != nil {
		return nil, false, fmt.Errorf("decompress %q: %w", m.path, err)
	}
	return text, false, nil
}
