package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	ocilayout "github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// writeLayout writes an OCI layout with images, by the names of its index; names
// that begin with "-" are left out of it.
func writeLayout(t testing.TB, images map[string]v1.Image) string {
	t.Helper()
	dir := filepath.Join(workDir(t), "layout")
	l, err := ocilayout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	for name, img := range images {
		var opts []ocilayout.Option
		if !strings.HasPrefix(name, "-") {
			opts = append(opts, ocilayout.WithAnnotations(map[string]string{annotationRef: name}))
		}
		if err := l.AppendImage(img, opts...); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// tarDir returns a directory as a tar archive.
func tarDir(t testing.TB, dir string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// dockerArchive returns images as docker saves them.
func dockerArchive(t testing.TB, images map[string]v1.Image) []byte {
	t.Helper()
	tags := make(map[name.Reference]v1.Image)
	for s, img := range images {
		tag, err := name.NewTag(s)
		if err != nil {
			t.Fatal(err)
		}
		tags[tag] = img
	}
	var b bytes.Buffer
	if err := tarball.MultiRefWrite(tags, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// legacyArchive returns an image as docker saved it before version 25: layers
// uncompressed in directories of their own, and shared ones as links.
func legacyArchive(t testing.TB) []byte {
	t.Helper()
	one, two := layer(t, file("f", "x")), layer(t, file("g", "y"))
	config, err := json.Marshal(v1.ConfigFile{OS: "linux", Architecture: runtime.GOARCH,
		RootFS: v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{hashBytes(one), hashBytes(two), hashBytes(one)}}})
	if err != nil {
		t.Fatal(err)
	}
	return layer(t, dir("1"), file("1/layer.tar", string(one)), file("1/VERSION", "1.0"), dir("2"), file("2/layer.tar", string(two)),
		dir("3"), sym("3/layer.tar", "../1/layer.tar"), file("config.json", string(config)),
		file("manifest.json", `[{"Config":"config.json","RepoTags":["legacy:1"],"Layers":["1/layer.tar","2/layer.tar","3/layer.tar"]}]`))
}

// saved writes b to a file.
func saved(t testing.TB, b []byte) string {
	t.Helper()
	path := filepath.Join(workDir(t), "image.tar")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestImport brings in every kind of file, after which no registry is needed.
func TestImport(t *testing.T) {
	t.Parallel()
	img := imageOf(t, layer(t, file("f", "x")), layer(t, file("g", "y")))
	both := map[string]v1.Image{"-a": img, "-b": imageFor(t, "linux/riscv64")}
	layoutDir := writeLayout(t, map[string]v1.Image{"-": img})
	for _, row := range []struct {
		name, path string
		digest     string // of the image; "" is not checked
	}{
		{"layout", layoutDir, digestOf(t, img)},
		{"named layout", writeLayout(t, map[string]v1.Image{"example.com/other:1": img}), digestOf(t, img)},
		{"OCI archive", saved(t, tarDir(t, layoutDir)), digestOf(t, img)},
		{"OCI archive, gzip", saved(t, gzipOf(t, tarDir(t, layoutDir))), digestOf(t, img)},
		{"OCI archive, zstd", saved(t, zstdOf(t, tarDir(t, layoutDir))), digestOf(t, img)},
		{"OCI archive for several platforms", saved(t, tarDir(t, writePlatforms(t, both))), digestOf(t, img)},
		{"layout for several platforms", writePlatforms(t, both), digestOf(t, img)},
		{"docker archive", saved(t, dockerArchive(t, map[string]v1.Image{"other:2": img})), ""},
		{"legacy docker archive", saved(t, legacyArchive(t)), ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			cfg := testConfig(t)
			cfg.Offline = true
			s := newStore(t, cfg)
			info, err := s.Import(t.Context(), "alpine", row.path)
			if err != nil {
				t.Fatal(err)
			}
			if info.Name != "alpine:latest" || row.digest != "" && info.Digest != row.digest || info.Size == 0 || info.Named.IsZero() {
				t.Errorf("%+v", info)
			}
			got := mustPull(t, s, "alpine", PullOptions{})
			if got.Digest != info.Digest || content(t, got, "f") != "x" || content(t, got, "g") != "y" {
				t.Errorf("%q with %q %q", got.Digest, content(t, got, "f"), content(t, got, "g"))
			}
			// Again it is the same, and so is the file by its path.
			again, err := s.Import(t.Context(), "alpine", row.path)
			if err != nil || again.Digest != info.Digest {
				t.Errorf("again: %+v, %v", again, err)
			}
			direct := mustPull(t, s, row.path, PullOptions{Policy: Never})
			if direct.RootDir != got.RootDir || direct.Name != "" {
				t.Errorf("by its path: %q in %q", direct.Name, direct.RootDir)
			}
			list, err := s.List()
			if err != nil || len(list) != 1 {
				t.Errorf("the cache has %+v (%v)", list, err)
			}
		})
	}
}

// writePlatforms writes a layout whose index is of one image for several
// platforms.
func writePlatforms(t testing.TB, images map[string]v1.Image) string {
	t.Helper()
	dir := filepath.Join(workDir(t), "layout")
	l, err := ocilayout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	for _, img := range images {
		c, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if err := l.AppendImage(img, ocilayout.WithPlatform(*c.Platform())); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestImportErrors shows what is said about files that are something else.
func TestImportErrors(t *testing.T) {
	t.Parallel()
	img := oneFile(t, "x")
	two := map[string]v1.Image{"a:1": img, "b:1": oneFile(t, "y")}
	layoutDir := writeLayout(t, map[string]v1.Image{"-": img})
	gone := writeLayout(t, map[string]v1.Image{"-": img})
	if err := os.RemoveAll(filepath.Join(gone, "blobs")); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name, path string
		kind       error
		want       string
	}{
		{"alpine", filepath.Join(layoutDir, "nothing"), fs.ErrNotExist, ""},
		{"alpine", filepath.Join(layoutDir, "blobs"), fs.ErrNotExist, "no OCI layout"},
		{"alpine", gone, ErrNotFound, "lacks the blob"},
		{"alpine", saved(t, []byte("text")), ErrContent, "docker save"},
		{"alpine", saved(t, nil), ErrContent, "neither an OCI archive nor a docker archive"},
		{"alpine", saved(t, layer(t, file("etc/passwd", ""))), ErrContent, "neither an OCI archive nor a docker archive"},
		{"alpine", saved(t, tarDir(t, writeLayout(t, two))), ErrContent, "several images; load it"},
		{"alpine", saved(t, dockerArchive(t, two)), ErrContent, "several images; load it"},
		{"alpine", saved(t, layer(t, file("manifest.json", `[{"Config":"c","Layers":[]}]`))), ErrContent, `lacks "c"`},
		{"alpine", saved(t, layer(t, file("manifest.json", `{`))), ErrContent, "parse manifest.json"},
		{"alpine", saved(t, layer(t, file("manifest.json", `[]`))), ErrNotFound, "it is not for linux/" + runtime.GOARCH},
		{"alpine", saved(t, layer(t, sym("a", "b"), sym("b", "a"), file("manifest.json", `[{"Config":"a"}]`))), ErrContent, `lacks "`},
		{"alpine", saved(t, layer(t, dev("d", 1, 3))), ErrContent, "type '3'"},
		{"alpine", saved(t, gzipOf(t, dockerArchive(t, two))[:200]), ErrContent, ""},
		{"alpine@" + digestOf(t, img), layoutDir, ErrReference, "must be a name"},
		{"./alpine", layoutDir, ErrReference, "must be a name"},
		{"UPPER", layoutDir, ErrReference, ""},
	} {
		s := newStore(t, testConfig(t))
		_, err := s.Import(t.Context(), row.name, row.path)
		if !errors.Is(err, row.kind) || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s from %s: %v, want one that matches %v with %q", row.name, row.path, err, row.kind, row.want)
		}
		if tmp, _ := os.ReadDir(s.path(tmpDir)); len(tmp) > 0 {
			t.Errorf("%s from %s: left %v", row.name, row.path, tmp)
		}
	}
}

// TestDamagedLayout shows that each blob of a layout is verified.
func TestDamagedLayout(t *testing.T) {
	t.Parallel()
	img := oneFile(t, "x")
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	for name, digest := range map[string]v1.Hash{"manifest": mustHash(t, digestOf(t, img)), "configuration": m.Config.Digest, "layer": m.Layers[0].Digest} {
		for _, row := range []struct {
			how    string
			change func([]byte) []byte
		}{
			{"changed", func(b []byte) []byte { return flip(b, len(b)/2) }},
			{"changed but sound", soundly},
			{"longer", func(b []byte) []byte { return append(b, ' ') }},
			{"shorter", func(b []byte) []byte { return b[:len(b)-1] }},
		} {
			dir := writeLayout(t, map[string]v1.Image{"-": img})
			path := filepath.Join(dir, layoutBlobs, digest.Hex)
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, row.change(b), 0o600); err != nil {
				t.Fatal(err)
			}
			s := newStore(t, testConfig(t))
			if _, err := s.Import(t.Context(), "x", dir); !errors.Is(err, ErrContent) {
				t.Errorf("%s %s: %v", name, row.how, err)
			}
			if ok, err := exists(s.blobPath(digest)); ok || err != nil {
				t.Errorf("%s %s: it is in the cache (%v)", name, row.how, err)
			}
			if name == "layer" {
				checkNotFetched(t, s, dir, m.Layers[0])
			}
		}
	}
}

// soundly changes a document, or a layer compressed by gzip, so that only its
// digest tells.
func soundly(b []byte) []byte {
	for _, c := range []struct{ old, changed string }{
		{"tar+gzip", "tar+GZIP"},
		{"0001-01-01", "0002-01-01"},
		{"\x1f\x8b\x08\x00\x00\x00\x00\x00", "\x1f\x8b\x08\x00\x00\x01\x00\x00"},
	} {
		if bytes.Contains(b, []byte(c.old)) {
			return bytes.Replace(b, []byte(c.old), []byte(c.changed), 1)
		}
	}
	panic("nothing to change")
}

// checkNotFetched checks that a layer is refused before anybody unpacks it.
func checkNotFetched(t *testing.T, s *Store, dir string, d v1.Descriptor) {
	t.Helper()
	src, _, err := openLayout(dir, s.limits)
	if err != nil {
		t.Fatal(err)
	}
	defer src.close()
	tmp, err := s.newScratch()
	if err != nil {
		t.Fatal(err)
	}
	defer tmp.remove()
	if err := s.fetchBlob(t.Context(), src, d, tmp, func(int64) {}); !errors.Is(err, ErrContent) {
		t.Errorf("the layer was fetched: %v", err)
	}
	if ok, err := exists(s.blobPath(d.Digest)); ok || err != nil {
		t.Errorf("the layer is in the cache (%v)", err)
	}
}

// TestHostileArchives shows that no name in an archive of images reaches the host.
func TestHostileArchives(t *testing.T) {
	t.Parallel()
	index := func(digest string) entry {
		return file(layoutIndex, fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":%q,"size":2}]}`, digest))
	}
	marker := file(layoutFile, layoutMarker)
	for _, row := range []struct {
		name    string
		entries []entry
	}{
		{"names", []entry{file("../../canary/secret", "x"), file("/CANARY/secret", "x"), dir("../../canary")}},
		{"links", []entry{sym("l", "CANARY"), file("l/secret", "x"), hard("h", "CANARY/secret")}},
		{"a link as the index", []entry{marker, sym(layoutIndex, "CANARY/secret")}},
		{"a link as docker's index", []entry{sym(dockerManifest, "../../canary/secret")}},
		{"a digest with a path", []entry{marker, index("sha256:" + strings.Repeat("../", 21) + "x")}},
		{"a digest of another algorithm", []entry{marker, index("md5:../../../../canary/secret")}},
		{"a configuration with a path", []entry{file(dockerManifest, `[{"Config":"../../canary/secret","Layers":["CANARY/secret"]}]`)}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			c := newCanary(t, workDir(t))
			for i := range row.entries {
				h := &row.entries[i].h
				h.Name, h.Linkname = strings.ReplaceAll(h.Name, "CANARY", c.path()), strings.ReplaceAll(h.Linkname, "CANARY", c.path())
			}
			cfg := testConfig(t)
			cfg.Dir = filepath.Join(c.image(), rootName)
			infos, err := newStore(t, cfg).Load(t.Context(), bytes.NewReader(layer(t, row.entries...)))
			if err == nil || len(infos) > 0 {
				t.Errorf("%v, %v", infos, err)
			}
			c.check(t)
		})
	}
}

// TestLongNames shows that an archive can't fill the memory with names.
func TestLongNames(t *testing.T) {
	t.Parallel()
	fits, long := strings.Repeat("x", 4095), strings.Repeat("x", 4096)
	for _, row := range []struct {
		name  string
		entry entry
		ok    bool
	}{
		{"a name that fits", file(fits, ""), true},
		{"a link's target that fits", sym("l", fits), true},
		{"a name", file(long, ""), false},
		{"a link's target", sym("l", long), false},
	} {
		_, err := newStore(t, testConfig(t)).Load(t.Context(), bytes.NewReader(layer(t, file(dockerManifest, "[]"), row.entry)))
		if row.ok && err != nil || !row.ok && !errors.Is(err, ErrContent) {
			t.Errorf("%s: %v", row.name, err)
		}
	}
}

// TestLoad brings in all images of an archive, by their names.
func TestLoad(t *testing.T) {
	t.Parallel()
	a, b := oneFile(t, "a"), oneFile(t, "b")
	images := map[string]v1.Image{"a:1": a, "example.com/b:2": b}
	for _, row := range []struct {
		name    string
		archive []byte
		want    []string
	}{
		{"OCI", tarDir(t, writeLayout(t, images)), []string{"a:1", "example.com/b:2"}},
		{"docker", dockerArchive(t, images), []string{"a:1", "example.com/b:2"}},
		{"legacy docker", legacyArchive(t), []string{"legacy:1"}},
		{"a tag alone is no name", tarDir(t, writeLayout(t, map[string]v1.Image{"latest": a})), []string{""}},
	} {
		s := newStore(t, testConfig(t))
		infos, err := s.Load(t.Context(), bytes.NewReader(row.archive))
		if err != nil {
			t.Errorf("%s: %v", row.name, err)
			continue
		}
		list, err := s.List()
		if err != nil {
			t.Error(err)
		}
		sameStrings(t, row.name+", list", namesOf(list), row.want)
		if len(infos) != len(list) {
			t.Errorf("%s: loaded %+v", row.name, infos)
		}
		for _, i := range infos {
			img, err := s.Get(t.Context(), i.Digest)
			if err != nil {
				t.Errorf("%s: %v", row.name, err)
				continue
			}
			img.Close()
		}
	}
	_, err := newStore(t, testConfig(t)).Load(t.Context(), bytes.NewReader(tarDir(t, writeLayout(t, map[string]v1.Image{"a:1": imageFor(t, "linux/riscv64")}))))
	if !errors.Is(err, ErrNotFound) {
		t.Errorf("for another platform: %v", err)
	}
}

func namesOf(list []Info) []string {
	var names []string
	for _, i := range list {
		names = append(names, i.Name)
	}
	return names
}

// TestSave shows that what Save writes others read, and Load gives the same
// images back.
func TestSave(t *testing.T) {
	t.Parallel()
	h := newHub(t)
	shared := layer(t, file("shared", "x"))
	one := h.push(t, "one:1", imageOf(t, shared, layer(t, file("f", "1"))))
	two := h.push(t, "two:2", imageOf(t, shared, layer(t, file("f", "2"))))
	s := newStore(t, testConfig(t))
	first, second := mustPull(t, s, one, PullOptions{}), mustPull(t, s, two, PullOptions{})
	var b bytes.Buffer
	if err := s.Save(t.Context(), &b, one, second.Digest); err != nil {
		t.Fatal(err)
	}

	other := newStore(t, testConfig(t))
	infos, err := other.Load(t.Context(), bytes.NewReader(b.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	sameStrings(t, "loaded", namesOf(infos), []string{one, ""})
	if infos[0].Digest != first.Digest || infos[1].Digest != second.Digest {
		t.Errorf("digests changed: %+v", infos)
	}

	// Somebody else's readers.
	tag, err := name.NewTag(one)
	if err != nil {
		t.Fatal(err)
	}
	img, err := tarball.ImageFromPath(saved(t, b.Bytes()), &tag)
	if err != nil {
		t.Fatal(err)
	}
	if config, err := img.ConfigName(); err != nil || config.Hex == "" {
		t.Errorf("docker's reader: %v, %v", config, err)
	}
	dir := workDir(t)
	untar(t, b.Bytes(), dir)
	index, err := ocilayout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	m, err := index.IndexManifest()
	if err != nil || len(m.Manifests) != 2 || m.Manifests[0].Digest.String() != first.Digest || m.Manifests[0].Annotations[annotationRef] != "1" {
		t.Errorf("OCI's reader: %+v, %v", m, err)
	}

	if err := s.Save(t.Context(), io.Discard, "absent"); !errors.Is(err, ErrNotFound) {
		t.Errorf("absent: %v", err)
	}
	manifest, err := s.known(mustHash(t, first.Digest))
	if err != nil {
		t.Fatal(err)
	}
	damage(t, s.blobPath(manifest.Layers[0].Digest))
	if err := s.Save(t.Context(), io.Discard, one); !errors.Is(err, ErrContent) {
		t.Errorf("damaged: %v", err)
	}
}

// mustHash parses a digest.
func mustHash(t testing.TB, s string) v1.Hash {
	t.Helper()
	h, err := parseHash(s)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// damage changes a byte of a file.
func damage(t testing.TB, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, flip(b, len(b)/2), 0o600); err != nil {
		t.Fatal(err)
	}
}

// untar writes the regular files of a harmless archive to a directory.
func untar(t testing.TB, archive []byte, dir string) {
	t.Helper()
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, h.Name)
		text, err := io.ReadAll(r)
		if err == nil {
			err = os.MkdirAll(filepath.Dir(path), 0o700)
		}
		if err == nil {
			err = os.WriteFile(path, text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestInspect shows what is known about an image.
func TestInspect(t *testing.T) {
	t.Parallel()
	h := newHub(t)
	img := withConfig(t, imageOf(t, layer(t, file("f", "x"))), v1.Config{Cmd: []string{"sh"}})
	ref := h.push(t, "r:1", img)
	h.push(t, "r:2", img)
	s := newStore(t, testConfig(t))
	mustPull(t, s, ref, PullOptions{})
	mustPull(t, s, h.host+"/r:2", PullOptions{})
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := img.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	rawConfig, err := img.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	want := Details{
		Info:  Info{Name: ref, Digest: digestOf(t, img), Platform: "linux/" + runtime.GOARCH, Resolved: digestOf(t, img), Size: m.Layers[0].Size},
		Names: []string{ref, h.host + "/r:2"}, Config: RunConfig{Cmd: []string{"sh"}},
		Layers:   []Layer{{m.Layers[0].Digest.String(), config.RootFS.DiffIDs[0].String(), string(m.Layers[0].MediaType), m.Layers[0].Size}},
		Manifest: raw, RawConfig: rawConfig,
	}
	for _, by := range []string{ref, digestOf(t, img), strings.TrimPrefix(digestOf(t, img), "sha256:")[:12]} {
		got, err := s.Inspect(by)
		if err != nil {
			t.Errorf("by %q: %v", by, err)
		}
		if got.Named.IsZero() {
			t.Errorf("by %q: no time", by)
		}
		got.Named = want.Named
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("by %q: want -, got +:\n%s", by, diff)
		}
	}
	for _, row := range []struct {
		ref  string
		kind error
	}{{"absent", ErrNotFound}, {"sha256:" + strings.Repeat("0", 64), ErrNotFound}, {digestOf(t, img)[:15], ErrNotFound}, {"./path", ErrNotFound}} {
		if _, err := s.Inspect(row.ref); !errors.Is(err, row.kind) || !strings.Contains(err.Error(), "sluice images ls") {
			t.Errorf("%q: %v", row.ref, err)
		}
	}
}
