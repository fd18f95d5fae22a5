package darwincheck

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestDarwin(t *testing.T) {
	t.Parallel()
	for _, goarch := range []string{"arm64", "amd64"} {
		t.Run(goarch, func(t *testing.T) {
			t.Parallel()
			c := check(t, goarch, "../..", "./...", nil)
			for _, err := range c.errs {
				t.Error(err)
			}
			// What is there with cgo only is what nothing else checks.
			want := []string{"framework_darwin.go"}
			if goarch == "arm64" {
				want = append(want, "framework_darwin_arm64.go")
			}
			for _, file := range want {
				if !slices.Contains(c.files, file) {
					t.Errorf("%s wasn't checked: nothing was shown", file)
				}
			}
		})
	}
}

// TestBites checks a module that is wrong only where darwin and cgo are on.
func TestBites(t *testing.T) {
	t.Parallel()
	c := check(t, "arm64", "testdata/bad", "./...", nil)
	want := []string{
		`cannot use "six" (untyped string constant) as int value`,
		"undefined: os.NoSuchThing",
		"declared and not used: unused",
	}
	for _, w := range want {
		if !slices.ContainsFunc(c.errs, func(err error) bool { return strings.Contains(err.Error(), w) }) {
			t.Errorf("not found: %s", w)
		}
	}
	if len(c.errs) != len(want) || c.cgo == 0 {
		t.Errorf("%d errors in %d packages with cgo, want %d: %v", len(c.errs), c.cgo, len(want), c.errs)
	}
}

// TestBitesThroughVZ makes mistakes with Virtualization.framework's package in the
// one file that uses it: each is found.
func TestBitesThroughVZ(t *testing.T) {
	t.Parallel()
	rows := []struct{ name, right, wrong, want string }{
		{"no such function", "vz.NewVirtioEntropyDeviceConfiguration()", "vz.NewEntropy()", "undefined: vz.NewEntropy"},
		{"a wrong argument", "attachment.SetMaximumTransmissionUnit(c.mtu)", "attachment.SetMaximumTransmissionUnit(c.mac)", "cannot use c.mac"},
		{"no such method", "m.config.SetStorageDevicesVirtualMachineConfiguration(all)", "m.config.SetDisks(all)", "m.config.SetDisks undefined"},
		{"a method that is missing", "func (m *appleMachine) pause() error            { return m.Pause() }", "", "missing method pause"},
	}
	changed := 0
	c := check(t, "arm64", "../..", "./hv/vz", func(name string, source []byte) []byte {
		if name != "framework_darwin.go" {
			return source
		}
		for _, row := range rows {
			if bytes.Contains(source, []byte(row.right)) {
				changed++
			}
			source = bytes.ReplaceAll(source, []byte(row.right), []byte(row.wrong))
		}
		return source
	})
	if changed != len(rows) {
		t.Fatalf("%d of %d places are there to be made wrong", changed, len(rows))
	}
	for _, row := range rows {
		if !slices.ContainsFunc(c.errs, func(err error) bool { return strings.Contains(err.Error(), row.want) }) {
			t.Errorf("%s: %v; want %q", row.name, c.errs, row.want)
		}
	}
}

// A checked module is what check found out.
type checked struct {
	errs []error // in the module's own packages
	ours int     // of its packages
	cgo  int     // packages with cgo files, below it or its own
	// files are the base names of our files that were checked.
	files []string
}

// A listed package is what go list says of it.
type listed struct {
	ImportPath, Dir   string
	GoFiles, CgoFiles []string
	ImportMap         map[string]string
	Module            *struct{ Main bool }

	change func(name string, source []byte) []byte // nil changes nothing
}

func (p listed) ours() bool { return p.Module != nil && p.Module.Main }

// check type-checks the packages of the module in dir that pattern names, and all
// that they import, for darwin with cgo.
// Packages come from go list in the order of their dependencies. change, unless nil,
// returns what is checked instead of a file of the module's.
func check(t *testing.T, goarch, dir, pattern string, change func(name string, source []byte) []byte) checked {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-json=ImportPath,Dir,GoFiles,CgoFiles,ImportMap,Module", pattern)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOOS=darwin", "GOARCH="+goarch, "CGO_ENABLED=1", "GOWORK=off")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("list packages for darwin/%s: %v", goarch, err)
	}
	var c checked
	loaded := map[string]*types.Package{"unsafe": types.Unsafe}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return c
		} else if err != nil {
			t.Fatal(err)
		}
		if p.ImportPath == "unsafe" {
			continue
		}
		if p.ours() {
			p.change = change
			c.files = append(c.files, slices.Concat(p.GoFiles, p.CgoFiles)...)
		}
		pkg, errs := p.load(goarch, loaded)
		loaded[p.ImportPath] = pkg
		if len(p.CgoFiles) > 0 {
			c.cgo++
		}
		if p.ours() {
			c.ours++
			c.errs = append(c.errs, errs...)
		}
	}
}

// load parses and type-checks one package. The bodies of functions matter in our
// packages only.
func (p listed) load(goarch string, loaded map[string]*types.Package) (*types.Package, []error) {
	var errs []error
	fset := token.NewFileSet()
	var files []*ast.File
	for _, name := range slices.Concat(p.GoFiles, p.CgoFiles) {
		path := filepath.Join(p.Dir, name)
		source, err := os.ReadFile(path)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if p.change != nil {
			source = p.change(name, source)
		}
		f, err := parser.ParseFile(fset, path, source, parser.SkipObjectResolution)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		files = append(files, f)
	}
	config := types.Config{
		FakeImportC:      len(p.CgoFiles) > 0,
		IgnoreFuncBodies: !p.ours(),
		Sizes:            types.SizesFor("gc", goarch),
		Error:            func(err error) { errs = append(errs, err) },
		Importer: importerFunc(func(path string) (*types.Package, error) {
			if mapped, ok := p.ImportMap[path]; ok { // vendored in the standard library
				path = mapped
			}
			if pkg := loaded[path]; pkg != nil {
				return pkg, nil
			}
			return nil, fmt.Errorf("not loaded: %s", path)
		}),
	}
	pkg, _ := config.Check(p.ImportPath, fset, files, nil) // every error went to Error
	return pkg, errs
}

type importerFunc func(path string) (*types.Package, error)

func (f importerFunc) Import(path string) (*types.Package, error) { return f(path) }
