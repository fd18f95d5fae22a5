package image

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"
)

// fuzzLimits keep one input from costing much.
var fuzzLimits = Limits{Entries: 200, ImageBytes: 1 << 20, Depth: 20}

// FuzzLayer applies two layers of any bytes. Whatever they are, nothing outside
// the image changes, an error is the layers' fault, and without one the disk is
// what the tree says and the record what both say.
func FuzzLayer(f *testing.F) {
	add := func(lower, upper []entry) { f.Add(layer(f, lower...), layer(f, upper...)) }
	add([]entry{dir("d"), file("d/f", "x"), sym("l", "d")}, []entry{file("l/f", "y"), wh("d/f"), opq("d"), hard("h", "d/f")})
	add([]entry{sym("l", "../../canary"), sym("m", "/")}, []entry{file("l/secret", "x"), wh("l/secret"), file("m/../canary/secret", "x")})
	add([]entry{dev("n", 1, 3), fifo("p"), file("s", "").mode(0o6777)}, []entry{hard("n2", "n"), file("n", ""), dir("p")})
	add([]entry{file("x", "").xattr("user.a", "b"), file("y", "").xattr("user.overlay.opaque", "y")}, []entry{file(strings.Repeat("long/", 30)+"f", "")})
	add([]entry{file("not UTF-8 \xff\xff/f", "")}, nil)
	f.Add(sparse(1<<30), []byte{})
	f.Add([]byte{}, []byte("no tar"))
	f.Fuzz(func(t *testing.T, lower, upper []byte) {
		base := workDir(t)
		c := newCanary(t, base)
		owners := DefaultOwners()
		a, img, err := unpackLayers(t.Context(), c.image(), &owners, fuzzLimits, repaired(lower), repaired(upper))
		c.check(t)
		if err != nil {
			if !errors.Is(err, ErrContent) {
				t.Errorf("an error of the host's: %v", err)
			}
			return
		}
		checkDisk(t, a, img.RootDir)
		if got := len(listing(t, tarOf(t, img))); got > fuzzLimits.Entries+1 {
			t.Errorf("%d entries", got)
		}
	})
}

// repaired returns b with right checksums in what look like headers, so that what
// was changed in them is seen.
func repaired(b []byte) []byte {
	b = bytes.Clone(b)
	for at := 0; at+512 <= len(b); {
		header := b[at : at+512]
		if bytes.Count(header, []byte{0}) == 512 {
			return b
		}
		retype(header, header[156])
		size, err := strconv.ParseInt(strings.Trim(string(header[124:136]), " \x00"), 8, 64)
		if err != nil || size < 0 || size > int64(len(b)) {
			return b
		}
		at += 512 + int(size+511)/512*512
	}
	return b
}

// FuzzDocument parses any bytes as each of the documents that a registry may
// send. Whatever they are, a fault is the document's, and what is accepted can be
// used.
func FuzzDocument(f *testing.F) {
	for _, seed := range []string{
		`{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:` + strings.Repeat("a", 64) + `","size":2},"layers":[]}`,
		`{"schemaVersion":2,"manifests":[{"digest":"sha256:` + strings.Repeat("b", 64) + `","size":3,"platform":{"os":"linux","architecture":"amd64"}}]}`,
		`{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":["sha256:` + strings.Repeat("c", 64) + `"]}}`,
		`{"schemaVersion":1}`, `{}`, `[]`, `null`, ``,
	} {
		f.Add([]byte(seed))
	}
	limits := Limits{}.withDefaults()
	f.Fuzz(func(t *testing.T, document []byte) {
		refusedOnly := func(what string, err error) {
			if err != nil && !errors.Is(err, ErrContent) && !errors.Is(err, ErrNotFound) {
				t.Errorf("%s: %v", what, err)
			}
		}
		_, err := isIndex(document)
		refusedOnly("isIndex", err)
		d, err := chooseFrom(document, mustPlatform("linux/amd64"))
		refusedOnly("chooseFrom", err)
		_ = d
		_, err = parseLayoutIndex(document)
		refusedOnly("parseLayoutIndex", err)
		m, err := parseManifest(document, limits)
		refusedOnly("parseManifest", err)
		if err != nil {
			m = &manifest{}
		}
		for _, b := range m.blobs {
			if len(b.Digest.Hex) != 64 || strings.ContainsAny(b.Digest.Hex, "/.") || b.Size < 0 {
				t.Errorf("a blob %v of %d bytes", b.Digest, b.Size)
			}
		}
		if err := m.configure(document); err != nil {
			refusedOnly("configure", err)
		} else if len(m.config.RootFS.DiffIDs) != len(m.Layers) {
			t.Errorf("%d diffIDs for %d layers", len(m.config.RootFS.DiffIDs), len(m.Layers))
		}
	})
}

// FuzzReference parses any reference. What it takes as a name, its canonical form
// means as well, and no path of a record leaves its directory.
func FuzzReference(f *testing.F) {
	for _, s := range []string{"alpine", "alpine:3.22", "ghcr.io/a/b:c", "localhost:5000/x", "a@sha256:" + strings.Repeat("d", 64), "./x.tar", "/x", "../x", "", "A", "a/../b", "sha256:abc",
		strings.Repeat("l", 250), // with "library/" too long
	} {
		f.Add(s)
	}
	s := &Store{dir: os.TempDir()}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := parseReference(text)
		if err != nil {
			if !errors.Is(err, ErrReference) {
				t.Errorf("%q: %v", text, err)
			}
			return
		}
		if r.path != "" {
			return
		}
		for _, form := range []string{r.name, familiar(r.name)} {
			again, err := parseReference(form)
			if err != nil || again.name != r.name || again.pinned != r.pinned {
				t.Errorf("%q is %q, and %q is %q (%v)", text, r.name, form, again.name, err)
			}
		}
		if file := s.nameFile(r.name, mustPlatform("linux/amd64")); strings.Contains(strings.TrimPrefix(file, s.path(namesDir)+"/"), "/") {
			t.Errorf("%q has its record at %q", text, file)
		}
	})
}
