package image

import (
	"archive/tar"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// A model is what a stack of layers means, as simply as it can be said: a map of
// paths. It shares no code with the applier.
type model struct {
	files map[string]*modelFile // by path; "" is the root
	wrote map[string]int        // the last layer that put the path there
	layer int
}

// A modelFile is a file. Hard links share it.
type modelFile struct {
	entry
	dir bool
}

var errModel = errors.New("the model refuses")

func newModel() *model {
	return &model{files: map[string]*modelFile{"": modelDir()}, wrote: make(map[string]int)}
}

// modelDir is a directory that no entry describes.
func modelDir() *modelFile { return &modelFile{dir(""), true} }

// clone returns a copy that can be changed.
func (m *model) clone() *model {
	return &model{maps.Clone(m.files), maps.Clone(m.wrote), m.layer}
}

// entry applies an entry of the layer at work.
func (m *model) entry(e entry) error {
	at, base := path.Split(strings.TrimSuffix(e.h.Name, "/"))
	if strings.HasPrefix(base, ".wh.") {
		in, err := m.walk(at, false)
		if err != nil || m.files[in] == nil {
			return err
		}
		if base == ".wh..wh..opq" {
			m.takeLower(in+"/", in)
			return nil
		}
		target := path.Join(in, base[len(".wh."):])
		m.takeLower(target+"/", target)
		if m.files[target] != nil && m.wrote[target] < m.layer {
			if m.hasBelow(target) {
				m.put(target, modelDir())
			} else {
				delete(m.files, target)
			}
		}
		return nil
	}
	in, err := m.walk(at, true)
	if err != nil {
		return err
	}
	p := path.Join(in, base)
	f := &modelFile{e, e.h.Typeflag == tar.TypeDir}
	old := m.files[p]
	if e.h.Typeflag == tar.TypeLink {
		dir, last := path.Split(e.h.Linkname)
		from, err := m.walk(dir, false)
		if err != nil {
			return err
		}
		from = path.Join(from, last)
		f = m.files[from]
		if f == nil || f.dir || from != p && strings.HasPrefix(from, p+"/") {
			return errModel
		}
		if from == p {
			m.wrote[p] = m.layer
			return nil
		}
	}
	if old != nil && !(old.dir && f.dir) {
		for q := range m.files {
			if q == p || strings.HasPrefix(q, p+"/") {
				delete(m.files, q)
			}
		}
	}
	m.put(p, f)
	return nil
}

func (m *model) put(p string, f *modelFile) {
	m.files[p] = f
	m.wrote[p] = m.layer
}

// takeLower removes what lower layers have below the prefix, but for directories
// in which this layer has something; those become plain.
func (m *model) takeLower(prefix, except string) {
	if prefix == "/" {
		prefix = ""
	}
	var lower []string
	for q := range m.files {
		if q != except && strings.HasPrefix(q, prefix) && m.wrote[q] < m.layer {
			lower = append(lower, q)
		}
	}
	for _, q := range lower {
		if !m.hasOwnBelow(q) {
			delete(m.files, q)
		}
	}
	for _, q := range lower {
		if m.files[q] != nil {
			m.put(q, modelDir())
		}
	}
}

// hasBelow reports whether there is something below p.
func (m *model) hasBelow(p string) bool {
	for q := range m.files {
		if strings.HasPrefix(q, p+"/") {
			return true
		}
	}
	return false
}

// hasOwnBelow reports whether this layer put something below p.
func (m *model) hasOwnBelow(p string) bool {
	for q := range m.files {
		if strings.HasPrefix(q, p+"/") && m.wrote[q] == m.layer {
			return true
		}
	}
	return false
}

// nowhere is a path at which there is nothing.
const nowhere = "nowhere"

// walk returns the path of the directory that p leads to.
func (m *model) walk(p string, create bool) (string, error) {
	at, links := "", 0
	todo := strings.Split(p, "/")
	for len(todo) > 0 {
		name := todo[0]
		todo = todo[1:]
		if name == "" || name == "." {
			continue
		}
		if name == ".." {
			at = strings.TrimPrefix(path.Dir("/"+at), "/")
			continue
		}
		next := path.Join(at, name)
		f := m.files[next]
		switch {
		case f == nil && create:
			m.put(next, modelDir())
		case f == nil:
			return nowhere, nil
		case f.h.Typeflag == tar.TypeSymlink:
			if links++; links > 40 {
				return nowhere, errModel
			}
			if strings.HasPrefix(f.h.Linkname, "/") {
				at = ""
			}
			todo = slices.Concat(strings.Split(f.h.Linkname, "/"), todo)
			continue
		case !f.dir && create:
			return nowhere, errModel
		case !f.dir:
			return nowhere, nil
		}
		at = next
	}
	return at, nil
}

// listing is what the test's listing of the image should be.
func (m *model) listing() []string {
	paths := make([][]string, 0, len(m.files))
	for p := range m.files {
		paths = append(paths, strings.Split(p, "/"))
	}
	slices.SortFunc(paths, slices.Compare)
	var lines []string
	first := make(map[*modelFile]string)
	for _, parts := range paths {
		p := strings.Join(parts, "/")
		f := m.files[p]
		h := f.h
		h.Name = p
		if f.dir {
			h.Name += "/"
		}
		if p == "" {
			h.Name = "./"
		}
		if earlier, ok := first[f]; ok && !f.dir {
			h.Typeflag, h.Linkname = tar.TypeLink, earlier
		}
		if first[f] == "" {
			first[f] = p
		}
		lines = append(lines, line(&h, f.content))
	}
	return lines
}

// randomName draws a path of few names, so that paths meet often.
func randomName(t *rapid.T, label string) string {
	return strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c"}), 1, 4).Draw(t, label), "/")
}

// randomTarget draws the target of a symbolic link.
func randomTarget(t *rapid.T) string {
	prefix := rapid.SampledFrom([]string{"", "", "/", "../", "../../", "./"}).Draw(t, "prefix")
	return prefix + randomName(t, "target")
}

// randomLayer draws the entries of a layer.
func randomLayer(t *rapid.T) []entry {
	serial := 0
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) entry {
		name := randomName(t, "name")
		mode := int64(rapid.SampledFrom([]int{0o644, 0o755, 0o4711, 0o2555, 0, 0o1777}).Draw(t, "mode"))
		uid, gid := rapid.SampledFrom([]int{0, 0, 1000}).Draw(t, "uid"), rapid.SampledFrom([]int{0, 50}).Draw(t, "gid")
		switch rapid.SampledFrom([]string{"file", "file", "dir", "dir", "sym", "hard", "dev", "fifo", "wh", "wh", "opq"}).Draw(t, "kind") {
		case "file":
			serial++
			return file(name, fmt.Sprint(serial)).mode(mode).owner(uid, gid)
		case "dir":
			return dir(name).mode(mode).owner(uid, gid)
		case "sym":
			return sym(name, randomTarget(t))
		case "hard":
			return hard(name, randomName(t, "target"))
		case "dev":
			return dev(name, 1, 3).owner(uid, gid)
		case "fifo":
			return fifo(name)
		case "wh":
			return wh(name)
		default:
			return opq(name)
		}
	}), 0, 12).Draw(t, "layer")
}

// TestModel compares random stacks of layers with the model: what they mean, what
// is refused, and that the disk is the tree.
func TestModel(t *testing.T) {
	t.Parallel()
	refusals, stacks := 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		stack := rapid.SliceOfN(rapid.Custom(randomLayer), 1, 5).Draw(rt, "stack")
		// Most of what the model refuses is left out: one refusal ends a stack.
		keep := rapid.IntRange(0, 9).Draw(rt, "keep refused") == 0
		m := newModel()
		var want error
		var archives [][]byte
		for _, l := range stack {
			m.layer++
			var kept []entry
			for _, e := range l {
				trial := m.clone()
				err := trial.entry(e)
				if err == nil {
					m = trial
				} else if !keep {
					continue
				} else if want == nil {
					want = err
				}
				kept = append(kept, e)
			}
			archives = append(archives, layer(t, kept...))
		}
		stacks++
		dir := workDir(t)
		owners := DefaultOwners()
		a, img, err := unpackLayers(t.Context(), dir, &owners, Limits{}, archives...)
		defer removeTree(dir)
		if want != nil {
			refusals++
			if !errors.Is(err, ErrContent) {
				rt.Fatalf("%v, and %v", err, want)
			}
			return
		}
		if err != nil {
			rt.Fatal(err)
		}
		if diff := cmp.Diff(m.listing(), listing(t, tarOf(t, img))); diff != "" {
			rt.Fatalf("model -, image +:\n%s", diff)
		}
		checkDisk(t, a, img.RootDir)
		if t.Failed() {
			rt.FailNow()
		}
	})
	if refusals == 0 || refusals*2 > stacks {
		t.Errorf("%d of %d stacks were refused: the test shows little", refusals, stacks)
	}
}
