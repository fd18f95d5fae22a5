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
			c := check(t, goarch, "../..")
			for _, err := range c.errs {
				t.Error(err)
			}
			if c.ours == 0 {
				t.Error("checked none of our packages: nothing was shown")
			}
		})
	}
}

// TestBites checks a module that is wrong only where darwin and cgo are on.
func TestBites(t *testing.T) {
	t.Parallel()
	c := check(t, "arm64", "testdata/bad")
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

// A checked module is what check found out.
type checked struct {
	errs []error // in the module's own packages
	ours int     // of its packages
	cgo  int     // packages with cgo files, below it or its own
}

// A listed package is what go list says of it.
type listed struct {
	ImportPath, Dir   string
	GoFiles, CgoFiles []string
	ImportMap         map[string]string
	Module            *struct{ Main bool }
}

func (p listed) ours() bool { return p.Module != nil && p.Module.Main }

// check type-checks the module in dir and all that it imports, for darwin with cgo.
// Packages come from go list in the order of their dependencies.
func check(t *testing.T, goarch, dir string) checked {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-json=ImportPath,Dir,GoFiles,CgoFiles,ImportMap,Module", "./...")
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
		f, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
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
