package image

import (
	"archive/tar"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// root is the line of a root that no layer describes.
const root = "d 0755 0:0 ./"

func TestApply(t *testing.T) {
	t.Parallel()
	type layers = [][]entry
	for _, row := range []struct {
		name   string
		layers layers
		want   []string
	}{
		{"nothing", layers{}, []string{root}},
		{"an empty layer", layers{{}}, []string{root}},
		{"the root itself", layers{{dir(".").mode(0o711).owner(0, 0)}}, []string{"d 0711 0:0 ./"}},
		{"kinds", layers{{dir("d"), file("d/f", "x"), sym("d/s", "f"), hard("d/h", "d/f"), fifo("d/p"), dev("d/null", 1, 3)}},
			[]string{root, "d 0755 0:0 d/", `f 0644 0:0 d/f "x"`, "h d/h => d/f", "c 0666 0:0 d/null 1:3", "p 0600 0:0 d/p", "l d/s -> f"}},
		{"implicit parents", layers{{file("a/b/c", "")}}, []string{root, "d 0755 0:0 a/", "d 0755 0:0 a/b/", `f 0644 0:0 a/b/c ""`}},
		{"names that begin oddly", layers{{file("/abs", ""), file("./dot", ""), file("//two", "")}},
			[]string{root, `f 0644 0:0 abs ""`, `f 0644 0:0 dot ""`, `f 0644 0:0 two ""`}},
		{"modes", layers{{file("su", "").mode(0o4755), file("sg", "").mode(0o2755), dir("tmp").mode(0o1777), file("none", "secret").mode(0)}},
			[]string{root, `f 0000 0:0 none "secret"`, `f 2755 0:0 sg ""`, `f 4755 0:0 su ""`, "d 1777 0:0 tmp/"}},
		{"owners", layers{{dir("home").owner(1000, 100), file("home/f", "").owner(65534, 4_000_000_000)}},
			[]string{root, "d 0755 1000:100 home/", `f 0644 65534:4000000000 home/f ""`}},
		{"attributes", layers{{file("f", "").xattr("user.a", "1").xattr("security.capability", "c"), dir("d").xattr("user.d", ""), sym("l", "f").xattr("user.l", "2")}},
			[]string{root, `d 0755 0:0 d/ user.d=""`, `f 0644 0:0 f "" security.capability="c" user.a="1"`, `l l -> f user.l="2"`}},
		{"a contiguous file", layers{{file("f", "x").kind(tar.TypeCont)}}, []string{root, `f 0644 0:0 f "x"`}},

		{"a file replaces a file", layers{{file("f", "old").mode(0o600)}, {file("f", "new")}}, []string{root, `f 0644 0:0 f "new"`}},
		{"a directory keeps its content", layers{{dir("d"), file("d/f", "x")}, {dir("d").mode(0o700)}}, []string{root, "d 0700 0:0 d/", `f 0644 0:0 d/f "x"`}},
		{"a file replaces a directory", layers{{dir("d"), file("d/f", "x")}, {file("d", "y")}}, []string{root, `f 0644 0:0 d "y"`}},
		{"a directory replaces a file", layers{{file("d", "y")}, {dir("d"), file("d/f", "")}}, []string{root, "d 0755 0:0 d/", `f 0644 0:0 d/f ""`}},
		{"a directory replaces a link to one", layers{{dir("usr"), sym("lib", "usr")}, {dir("lib"), file("lib/f", "")}},
			[]string{root, "d 0755 0:0 lib/", `f 0644 0:0 lib/f ""`, "d 0755 0:0 usr/"}},
		{"a link replaces a directory", layers{{dir("d"), file("d/f", "")}, {sym("d", "/")}}, []string{root, "l d -> /"}},
		{"the last of a name counts", layers{{file("f", "1"), file("f", "2")}}, []string{root, `f 0644 0:0 f "2"`}},
		{"a read-only directory is filled", layers{{dir("d").mode(0o555), file("d/f", "")}, {file("d/g", "")}},
			[]string{root, "d 0555 0:0 d/", `f 0644 0:0 d/f ""`, `f 0644 0:0 d/g ""`}},
		{"a device is replaced", layers{{dev("d", 1, 3)}, {file("d", "")}}, []string{root, `f 0644 0:0 d ""`}},

		{"a whiteout", layers{{file("a", ""), file("b", "")}, {wh("a")}}, []string{root, `f 0644 0:0 b ""`}},
		{"a whiteout of a tree", layers{{file("d/e/f", "")}, {wh("d")}}, []string{root}},
		{"a whiteout of nothing", layers{{file("a", "")}, {wh("b"), wh("c/d")}}, []string{root, `f 0644 0:0 a ""`}},
		{"a whiteout in a file", layers{{file("a", "")}, {wh("a/b"), opq("a")}}, []string{root, `f 0644 0:0 a ""`}},
		{"a whiteout before its layer's own", layers{{file("d/old", "")}, {wh("d"), file("d/new", "")}}, []string{root, "d 0755 0:0 d/", `f 0644 0:0 d/new ""`}},
		{"a whiteout behind its layer's own", layers{{dir("d").mode(0o700), file("d/old", "")}, {file("d/new", ""), wh("d")}},
			[]string{root, "d 0755 0:0 d/", `f 0644 0:0 d/new ""`}},
		{"a whiteout behind its own directory", layers{{file("d/old", "")}, {dir("d").mode(0o700), wh("d")}}, []string{root, "d 0700 0:0 d/"}},
		{"a whiteout leaves its own file", layers{{file("f", "old")}, {file("f", "new"), wh("f")}}, []string{root, `f 0644 0:0 f "new"`}},
		{"a whiteout of one hard link", layers{{file("a", "x"), hard("b", "a")}, {wh("a")}}, []string{root, `f 0644 0:0 b "x"`}},
		{"a whiteout of a link's target", layers{{file("a", "x")}, {hard("b", "a"), wh("a")}}, []string{root, `f 0644 0:0 b "x"`}},
		{"a whiteout, then again a file", layers{{file("a", "1")}, {wh("a")}, {file("a", "3")}}, []string{root, `f 0644 0:0 a "3"`}},
		{"opaque", layers{{file("d/a", ""), file("d/e/f", ""), file("g", "")}, {opq("d"), file("d/b", "")}},
			[]string{root, "d 0755 0:0 d/", `f 0644 0:0 d/b ""`, `f 0644 0:0 g ""`}},
		{"opaque behind its layer's own", layers{{file("d/e/old", "")}, {file("d/e/new", ""), opq("d"), opq("d")}},
			[]string{root, "d 0755 0:0 d/", "d 0755 0:0 d/e/", `f 0644 0:0 d/e/new ""`}},
		{"an opaque root", layers{{file("a", "")}, {newEntry(tar.TypeReg, whiteoutOpaque, 0), file("b", "")}}, []string{root, `f 0644 0:0 b ""`}},
		{"aufs's notes", layers{{dir(".wh..wh.plnk"), file(".wh..wh.plnk/1", ""), file(".wh..wh.aufs", ""), file("a", "")}}, []string{root, `f 0644 0:0 a ""`}},

		{"a link on the way", layers{{dir("usr/lib"), sym("lib", "usr/lib")}, {file("lib/f", "x")}},
			[]string{root, "l lib -> usr/lib", "d 0755 0:0 usr/", "d 0755 0:0 usr/lib/", `f 0644 0:0 usr/lib/f "x"`}},
		{"an absolute link on the way", layers{{dir("a"), sym("b/l", "/a")}, {file("b/l/f", "")}},
			[]string{root, "d 0755 0:0 a/", `f 0644 0:0 a/f ""`, "d 0755 0:0 b/", "l b/l -> /a"}},
		{"a link up on the way", layers{{dir("a"), sym("b/l", "../a")}, {file("b/l/f", "")}},
			[]string{root, "d 0755 0:0 a/", `f 0644 0:0 a/f ""`, "d 0755 0:0 b/", "l b/l -> ../a"}},
		{"a link to what isn't there", layers{{sym("l", "a/b")}, {file("l/f", "")}},
			[]string{root, "d 0755 0:0 a/", "d 0755 0:0 a/b/", `f 0644 0:0 a/b/f ""`, "l l -> a/b"}},
		{"a whiteout through a link", layers{{file("usr/lib/f", ""), sym("lib", "usr/lib")}, {wh("lib/f")}},
			[]string{root, "l lib -> usr/lib", "d 0755 0:0 usr/", "d 0755 0:0 usr/lib/"}},
		{"a link is not followed at the end", layers{{file("f", "x"), sym("l", "f")}, {file("l", "y")}}, []string{root, `f 0644 0:0 f "x"`, `f 0644 0:0 l "y"`}},

		{"a hard link to a lower file", layers{{file("a", "x")}, {hard("b", "a")}}, []string{root, `f 0644 0:0 a "x"`, "h b => a"}},
		{"a hard link to a symbolic one", layers{{sym("a", "x"), hard("b", "a")}}, []string{root, "l a -> x", "h b => a"}},
		{"a hard link to a device", layers{{dev("a", 1, 5), hard("b", "a")}}, []string{root, "c 0666 0:0 a 1:5", "h b => a"}},
		{"a hard link to itself", layers{{file("a", "x")}, {hard("a", "/a")}}, []string{root, `f 0644 0:0 a "x"`}},
		{"a hard link replaces", layers{{file("a", "x"), file("b", "y")}, {hard("b", "./a")}}, []string{root, `f 0644 0:0 a "x"`, "h b => a"}},
		{"one of two hard links is replaced", layers{{file("a", "x"), hard("b", "a")}, {file("a", "y")}}, []string{root, `f 0644 0:0 a "y"`, `f 0644 0:0 b "x"`}},
		{"a hard link through a link", layers{{file("d/a", "x"), sym("l", "d")}, {hard("b", "l/a")}}, []string{root, `f 0644 0:0 b "x"`, "d 0755 0:0 d/", "h d/a => b", "l l -> d"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			var archives [][]byte
			for _, l := range row.layers {
				archives = append(archives, layer(t, l...))
			}
			a, img := mustUnpack(t, archives...)
			if diff := cmp.Diff(row.want, listing(t, tarOf(t, img))); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
			checkDisk(t, a, img.RootDir)
		})
	}
}

func TestTimes(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ at, want time.Time }{
		{buildTime, buildTime},
		{time.Unix(0, 0), time.Unix(0, 0)},
		{time.Unix(-5, 0), time.Unix(0, 0)},
		{time.Unix(1<<60, 0), time.Unix(latest, 0)},
		{time.Unix(1_700_000_000, 5000), time.Unix(1_700_000_000, 5000)},
	} {
		e := file("d/f", "").at(row.at)
		e.h.Format = tar.FormatPAX
		d := dir("d").at(row.at)
		d.h.Format = tar.FormatPAX
		a, img := mustUnpack(t, layer(t, d, e))
		if got := a.root.children["d"].children["f"].mtime; !got.Equal(row.want) {
			t.Errorf("%v: the file has %v, want %v", row.at, got, row.want)
		}
		checkDisk(t, a, img.RootDir)
	}
}
