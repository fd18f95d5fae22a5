package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A canary is what lies beside an image's root and must never change:
//
//	BASE/image/root/    the image
//	BASE/image/sibling
//	BASE/canary/        a directory, with
//	BASE/canary/secret  a file
type canary struct {
	base   string
	before map[string]string
}

// newCanary returns a canary in the directory base.
func newCanary(t testing.TB, base string) *canary {
	t.Helper()
	c := &canary{base: base}
	for _, d := range []string{c.image(), c.path()} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{c.image() + "/sibling", c.path() + "/secret"} {
		if err := os.WriteFile(f, []byte("canary"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(f, buildTime, buildTime); err != nil {
			t.Fatal(err)
		}
	}
	c.before = c.look(t)
	return c
}

func (c *canary) image() string { return filepath.Join(c.base, "image") }
func (c *canary) path() string  { return filepath.Join(c.base, "canary") }

// look returns what there is outside the image.
func (c *canary) look(t testing.TB) map[string]string {
	t.Helper()
	seen := make(map[string]string)
	err := fs.WalkDir(os.DirFS(c.base), ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if path == "image/"+rootName {
			return fs.SkipDir
		}
		if path == "image/"+recordName || path == "image/"+infoName {
			return nil
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		uid, gid := ownerOf(info)
		seen[path] = fmt.Sprintf("%v %d:%d", info.Mode(), uid, gid)
		if path != "image" { // where the root and the record are made
			seen[path] += fmt.Sprintf(" %v %d links", info.ModTime(), linksOf(info))
		}
		if info.Mode().IsRegular() {
			text, err := os.ReadFile(filepath.Join(c.base, path))
			if err != nil {
				return err
			}
			seen[path] += fmt.Sprintf(" %q", text)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return seen
}

// check checks that nothing outside the image has changed.
func (c *canary) check(t testing.TB) {
	t.Helper()
	if diff := cmp.Diff(c.before, c.look(t)); diff != "" {
		t.Errorf("outside the image: before -, after +:\n%s", diff)
	}
}

// TestHostile applies layers that try to get out. CANARY in a name stands for
// the absolute path of the canary's directory.
func TestHostile(t *testing.T) {
	t.Parallel()
	const refused, applied = "refused", "applied"
	type layers = [][]entry
	long := strings.Repeat("x", 256)
	deep := strings.Repeat("d/", 256)
	for _, row := range []struct {
		name   string
		layers layers
		want   string
	}{
		// Names.
		{"dot-dot", layers{{file("../sibling", "x")}}, refused},
		{"dot-dot within", layers{{file("a/../../sibling", "x")}}, refused},
		{"dot-dot within that stays", layers{{file("a/../b", "x")}}, refused},
		{"dot-dot at the end", layers{{dir("a/..")}}, refused},
		{"dot-dot alone", layers{{dir("..")}}, refused},
		{"absolute dot-dot", layers{{file("/../../canary/secret", "x")}}, refused},
		{"an absolute name", layers{{file("CANARY/secret", "x")}}, applied},
		{"an absolute directory", layers{{dir("CANARY").mode(0o777)}}, applied},
		{"many slashes", layers{{file("////CANARY//secret", "x")}}, applied},
		{"a directory for the root, as a file", layers{{file(".", "x")}}, refused},
		{"a link for the root", layers{{sym("./", "CANARY")}}, refused},
		{"a link for the root, without a name", layers{{sym("/", "CANARY")}, {file("secret", "x")}}, refused},
		{"a long name", layers{{file(long, "x")}}, refused},
		{"a long directory", layers{{file(long+"/f", "x")}}, refused},
		{"a deep path", layers{{file(deep+"f", "x")}}, refused},
		{"a deep path through links", layers{{dir(strings.Repeat("d/", 200)), sym("l", strings.Repeat("d/", 200))}, {dir("l/" + deep)}}, refused},
		{"a backslash", layers{{file(`..\..\canary\secret`, "x")}}, applied},

		// Symbolic links on the way.
		{"through an absolute link", layers{{sym("l", "CANARY"), file("l/secret", "x")}}, applied},
		{"through an absolute link below", layers{{sym("l", "CANARY")}, {file("l/secret", "x")}}, applied},
		{"through a relative link", layers{{sym("l", "../../canary"), file("l/secret", "x")}}, applied},
		{"through a link to the parent", layers{{sym("l", ".."), file("l/sibling", "x")}}, applied},
		{"through a link to the root", layers{{sym("l", "/"), file("l/CANARY/secret", "x")}}, applied},
		{"through a link in a link", layers{{sym("a", "b"), sym("b", "../../canary"), file("a/secret", "x")}}, applied},
		{"through a link that was a directory", layers{{dir("d"), file("d/f", "")}, {sym("d", "CANARY"), file("d/secret", "x")}}, applied},
		{"over a link", layers{{sym("secret", "CANARY/secret")}, {file("secret", "x")}}, applied},
		{"over a link in the same layer", layers{{sym("secret", "CANARY/secret"), file("secret", "x").mode(0o777)}}, applied},
		{"a directory over a link", layers{{sym("d", "CANARY"), dir("d").mode(0o777).owner(0, 0), file("d/secret", "x")}}, applied},
		{"a directory through a link", layers{{sym("l", "../.."), dir("l/canary").mode(0o777)}}, applied},
		{"a link through a link", layers{{sym("l", "../../canary"), sym("l/secret", "/")}}, applied},
		{"a device through a link", layers{{sym("l", "../../canary"), dev("l/null", 1, 3)}}, applied},
		{"a fifo through a link", layers{{sym("l", "../../canary"), fifo("l/fifo")}}, applied},
		{"a loop", layers{{sym("a", "b"), sym("b", "a"), file("a/f", "x")}}, refused},
		{"a loop on itself", layers{{sym("a", "a/a"), file("a/f", "x")}}, refused},
		{"links that double", layers{{sym("a", "b/b"), sym("b", "c/c"), sym("c", "d/d"), sym("d", "e/e"), sym("e", "f/f"), sym("f", "g/g"), file("a/x", "")}}, applied},
		{"many names in links", layers{{sym("a", strings.Repeat("x/../", 600)), file("a/f", "")}}, refused},
		{"as many links as a kernel follows", layers{append(chain(maxLinks), file("l0/f", ""))}, applied},
		{"one more", layers{append(chain(maxLinks+1), file("l0/f", ""))}, refused},
		{"an empty link", layers{{sym("a", "")}}, refused},
		{"a way through a file", layers{{file("f", "")}, {file("f/g", "x")}}, refused},

		// Hard links.
		{"a hard link out", layers{{hard("h", "../../canary/secret")}}, refused},
		{"an absolute hard link", layers{{hard("h", "CANARY/secret")}}, refused},
		{"a hard link through a link", layers{{sym("l", "CANARY"), hard("h", "l/secret"), file("h", "x")}}, refused},
		{"a hard link through a relative link", layers{{sym("l", "../../canary"), hard("h", "l/secret")}}, refused},
		{"a hard link to a link out, written", layers{{sym("l", "CANARY/secret"), hard("h", "l"), file("h", "x")}}, applied},
		{"a hard link to a link out, with a mode", layers{{sym("l", "CANARY/secret"), hard("h", "l").mode(0o777)}}, applied},
		{"a hard link to the root", layers{{hard("h", ".")}}, refused},
		{"a hard link to a directory", layers{{dir("d"), hard("h", "d")}}, refused},
		{"a hard link to nothing", layers{{hard("h", "")}}, refused},
		{"a hard link to what it replaces", layers{{file("d/f", "x")}, {hard("d", "d/f")}}, refused},
		{"a hard link to what a whiteout took", layers{{file("a", "x")}, {wh("a"), hard("h", "a")}}, refused},
		{"a hard link at the root", layers{{file("a", "x"), hard("/", "a")}}, refused},

		// Whiteouts.
		{"a whiteout of the directory itself", layers{{file("d/f", "")}, {file("d/.wh..", "")}}, refused},
		{"a whiteout of the parent", layers{{file("d/f", "")}, {file("d/.wh...", "")}}, refused},
		{"a whiteout of the root's parent", layers{{file(".wh...", "")}}, refused},
		{"a whiteout without a name", layers{{file("d/.wh.", "")}}, refused},
		{"a whiteout through dot-dot", layers{{file("../.wh.sibling", "")}}, refused},
		{"an absolute whiteout", layers{{file("CANARY/.wh.secret", "")}}, applied},
		{"a whiteout through a link", layers{{sym("l", "CANARY")}, {wh("l/secret")}}, applied},
		{"a whiteout through a relative link", layers{{sym("l", "../../canary")}, {wh("l/secret")}}, applied},
		{"an opaque whiteout through a link", layers{{sym("l", "CANARY")}, {opq("l")}}, applied},
		{"an opaque whiteout through a relative link", layers{{sym("l", "../..")}, {opq("l/canary")}}, applied},
		{"a whiteout of a link", layers{{sym("l", "CANARY")}, {wh("l")}}, applied},
		{"a whiteout on the way", layers{{file(".wh.a/f", "x")}}, refused},
		{"a whiteout that is a link", layers{{file("a", "")}, {sym(".wh.a", "CANARY/secret")}}, applied},
		{"a whiteout that is a hard link", layers{{file("a", "")}, {hard(".wh.a", "CANARY/secret")}}, applied},
		{"a whiteout as a symbolic link's target", layers{{sym("l", ".wh.x"), file("l/f", "")}}, refused},

		// What a disk can't have, or must not.
		{"a setuid file", layers{{file("su", "x").mode(0o6777)}}, applied},
		{"overlay's own attributes", layers{{dir("d").xattr("user.overlay.redirect", "/../../canary").xattr("trusted.overlay.redirect", "/x")}}, applied},
		{"a whiteout device", layers{{file("a", "")}, {dev("a", 0, 0)}}, applied},
		{"a disk", layers{{dev("sda", 8, 0).kind(tar.TypeBlock)}}, applied},
		{"a device with impossible numbers", layers{{dev("d", 1<<12, 0)}}, refused},
		{"an owner below 0", layers{{file("f", "").owner(-1, 0)}}, refused},
		{"a group that means none", layers{{file("f", "").owner(0, 1<<32-1)}}, refused},
		{"a type that nobody knows", layers{{newEntry('Z', "f", 0)}}, refused},
		{"a time before all", layers{{file("f", "").at(time.Unix(-1<<40, 0))}}, applied},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			c := newCanary(t, workDir(t))
			var archives [][]byte
			for _, l := range row.layers {
				for i := range l {
					l[i].h.Name = strings.ReplaceAll(l[i].h.Name, "CANARY", c.path())
					l[i].h.Linkname = strings.ReplaceAll(l[i].h.Linkname, "CANARY", c.path())
				}
				archives = append(archives, layer(t, l...))
			}
			owners := DefaultOwners()
			a, img, err := unpackLayers(t.Context(), c.image(), &owners, Limits{}, archives...)
			c.check(t)
			switch {
			case row.want == applied && err != nil:
				t.Errorf("refused: %v", err)
			case row.want == applied:
				checkDisk(t, a, img.RootDir)
			case !errors.Is(err, ErrContent):
				t.Errorf("%v, want one that matches ErrContent", err)
			}
		})
	}
}

// chain returns so many links, "l0" first, of which the last leads to a directory.
func chain(n int) []entry {
	entries := []entry{dir("end")}
	for i := range n {
		target := fmt.Sprintf("l%d", i+1)
		if i == n-1 {
			target = "end"
		}
		entries = append(entries, sym(fmt.Sprintf("l%d", i), target))
	}
	return entries
}

// TestLimits shows each bound, just within and just beyond.
func TestLimits(t *testing.T) {
	t.Parallel()
	kilobyte := strings.Repeat("k", 1000)
	for _, row := range []struct {
		name   string
		limits Limits
		within []entry
		beyond []entry
	}{
		{"entries", Limits{Entries: 3}, []entry{file("a", ""), file("b", ""), file("c", "")}, []entry{file("a", ""), file("a", ""), file("a", ""), file("a", "")}},
		{"implicit directories", Limits{Entries: 3}, []entry{file("a/b/c", "")}, []entry{file("a/b/c/d", "")}},
		{"whiteouts", Limits{Entries: 2}, []entry{wh("a"), wh("b")}, []entry{wh("a"), wh("a"), wh("a")}},
		{"names", Limits{MetadataBytes: 10}, []entry{file("12345", ""), file("12346", "")}, []entry{file("12345", ""), file("123456", "")}},
		{"link targets", Limits{MetadataBytes: 10}, []entry{sym("1", "123456789")}, []entry{sym("1", "1234567890")}},
		{"attributes", Limits{XattrBytes: 10}, []entry{file("a", "").xattr("user.a", "1234")}, []entry{file("a", "").xattr("user.a", "12345")}},
		{"a path", Limits{PathBytes: 6}, []entry{file("a/b/c", "")}, []entry{file("a/b/cd", "")}},
		{"depth", Limits{Depth: 3}, []entry{file("a/b/c", "")}, []entry{file("a/b/c/d", "")}},
		{"a link's target", Limits{PathBytes: 6}, []entry{sym("a", "123456")}, []entry{sym("a", "1234567")}},
		{"bytes", Limits{ImageBytes: 2000}, []entry{file("a", kilobyte), file("b", kilobyte)}, []entry{file("a", kilobyte), file("a", kilobyte), file("b", "x")}},
	} {
		for _, half := range []struct {
			name    string
			entries []entry
			ok      bool
		}{{"within", row.within, true}, {"beyond", row.beyond, false}} {
			owners := DefaultOwners()
			_, _, err := unpackLayers(t.Context(), workDir(t), &owners, row.limits, layer(t, half.entries...))
			if half.ok && err != nil || !half.ok && !errors.Is(err, ErrContent) {
				t.Errorf("%s, %s: %v", row.name, half.name, err)
			}
		}
	}
}

// TestSparseBomb shows that a file of holes is bounded though no byte of it is in
// the layer, and that what it says is believed before it is written.
func TestSparseBomb(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name    string
		size    int64
		limits  Limits
		written int64 // at most, before it is noticed
	}{
		{"more than the image may have", 1 << 50, Limits{}, -1},
		{"more than a layer of its size may have", 8 << 30, Limits{RatioFree: 1 << 20}, 2 << 20},
		{"just more than a small image may have", 2 << 20, Limits{ImageBytes: 1 << 20}, -1},
	} {
		owners := DefaultOwners()
		dir := workDir(t)
		_, _, err := unpackLayers(t.Context(), dir, &owners, row.limits, sparse(row.size))
		if !errors.Is(err, ErrContent) {
			t.Errorf("%s: %v", row.name, err)
		}
		if info, err := os.Stat(filepath.Join(dir, rootName, "holes")); err == nil && info.Size() > row.written {
			t.Errorf("%s: %d bytes were written first", row.name, info.Size())
		}
	}
}

// sparse returns a layer with a file of one hole, in the PAX format 1.0 of GNU
// tar, which package tar reads and doesn't write.
func sparse(size int64) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	body := make([]byte, 512) // the map: no data
	copy(body, fmt.Sprintf("1\n%d\n0\n", size))
	records := paxRecord("GNU.sparse.major", "1") + paxRecord("GNU.sparse.minor", "0") +
		paxRecord("GNU.sparse.name", "holes") + paxRecord("GNU.sparse.realsize", fmt.Sprint(size))
	_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "pax", Size: int64(len(records))})
	_, _ = w.Write([]byte(records))
	_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "GNUSparseFile.0/holes", Mode: 0o644, Size: 512})
	_, _ = w.Write(body)
	_ = w.Close()
	retype(b.Bytes()[:512], tar.TypeXHeader)
	return b.Bytes()
}

// paxRecord returns a record as PAX has it: its length, and then key and value.
func paxRecord(key, value string) string {
	rest := " " + key + "=" + value + "\n"
	for n := len(rest) + 1; ; n++ {
		if s := fmt.Sprint(n) + rest; len(s) == n {
			return s
		}
	}
}

// retype changes the type of a header, and its checksum accordingly.
func retype(header []byte, kind byte) {
	header[156] = kind
	copy(header[148:156], "        ")
	sum := 0
	for _, c := range header {
		sum += int(c)
	}
	copy(header[148:156], fmt.Sprintf("%06o\x00 ", sum))
}

// TestBombs shows that the ratio is bounded, whatever compresses.
func TestBombs(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name     string
		compress func(testing.TB, []byte) []byte
	}{{"gzip", gzipOf}, {"zstd", zstdOf}} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			const size = 4 << 20
			zeros := row.compress(t, layer(t, file("zeros", strings.Repeat("\x00", size))))
			owners := DefaultOwners()
			_, _, err := unpackLayers(t.Context(), workDir(t), &owners, Limits{Ratio: 10, RatioFree: size / 2}, zeros)
			if !errors.Is(err, ErrContent) || !strings.Contains(err.Error(), "times as many") {
				t.Errorf("%d bytes of zeros in %d: %v", size, len(zeros), err)
			}
			if _, _, err := unpackLayers(t.Context(), workDir(t), &owners, Limits{Ratio: 10, RatioFree: 2 * size}, zeros); err != nil {
				t.Errorf("within the bound: %v", err)
			}
		})
	}
}

// TestCutLayers shows that a layer that ends early, or is changed, is an error and
// never a panic, and that it is the layer's fault.
func TestCutLayers(t *testing.T) {
	t.Parallel()
	whole := layer(t, file("a", strings.Repeat("a", 3000)), file("b", "b"))
	for _, row := range []struct {
		name string
		data []byte
	}{
		{"in a header", whole[:100]},
		{"in a file", whole[:1000]},
		{"gzip", gzipOf(t, whole)[:30]},
		{"zstd", zstdOf(t, whole)[:30]},
		{"gzip header", gzipOf(t, whole)[:5]},
		{"no tar", []byte(strings.Repeat("no tar at all ", 100))},
		{"gzip of no tar", gzipOf(t, []byte(strings.Repeat("no tar at all ", 100)))},
		{"gzip with a bad sum", flip(gzipOf(t, whole), -6)},
		{"zstd with a bad sum", flip(zstdOf(t, whole), -2)},
	} {
		owners := DefaultOwners()
		_, _, err := unpackLayers(t.Context(), workDir(t), &owners, Limits{}, row.data)
		if !errors.Is(err, ErrContent) {
			t.Errorf("%s: %v", row.name, err)
		}
	}
}

// flip returns b with one byte changed; a negative index counts from the end.
func flip(b []byte, i int) []byte {
	b = bytes.Clone(b)
	if i < 0 {
		i += len(b)
	}
	b[i] ^= 0xff
	return b
}
