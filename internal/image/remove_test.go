package image

import (
	"bytes"
	"errors"
	"os"
	"runtime"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// A stock is a cache with three images: "a:1", whose layer "a:2" has as well;
// "b:1", whose other name is "b:2"; and one without a name.
type stock struct {
	*Store
	hub              *hub
	digestA, digestB string
	nameless         string
}

func newStock(t *testing.T) *stock {
	t.Helper()
	h := newHub(t)
	s := &stock{Store: newStore(t, testConfig(t)), hub: h}
	shared := layer(t, file("shared", "x"))
	a1 := imageOf(t, shared)
	a2 := imageOf(t, shared, layer(t, file("f", "2")))
	b := oneFile(t, "b")
	nameless := oneFile(t, "nameless")
	for name, img := range map[string]v1.Image{"a:1": a1, "a:2": a2, "b:1": b, "b:2": b} {
		img, err := s.Pull(t.Context(), h.push(t, name, img), PullOptions{})
		if err != nil {
			t.Fatal(err)
		}
		img.Close()
	}
	infos, err := s.Load(t.Context(), bytes.NewReader(tarDir(t, writeLayout(t, map[string]v1.Image{"-": nameless}))))
	if err != nil {
		t.Fatal(err)
	}
	s.digestA, s.digestB, s.nameless = digestOf(t, a1), digestOf(t, b), infos[0].Digest
	s.check(t, "at first", "a:1", "a:2", "b:1", "b:2", "nameless")
	return s
}

// check checks which images there are.
func (s *stock) check(t *testing.T, when string, want ...string) {
	t.Helper()
	list, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, i := range list {
		name := strings.TrimPrefix(i.Name, s.hub.host+"/")
		if i.Damaged {
			name += " damaged"
		}
		if i.Name == "" && i.Digest == s.nameless {
			name = "nameless"
		}
		got = append(got, name)
	}
	sameStrings(t, when, got, want)
}

func (s *stock) blobs(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir(s.path(blobsDir))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestRemove(t *testing.T) {
	t.Parallel()
	all := []string{"a:1", "a:2", "b:1", "b:2", "nameless"}
	without := func(names ...string) []string {
		var left []string
		for _, n := range all {
			if !strings.Contains(" "+strings.Join(names, " ")+" ", " "+n+" ") {
				left = append(left, n)
			}
		}
		return left
	}
	for _, row := range []struct {
		name  string
		ref   func(*stock) string
		inUse string // an image that is held meanwhile
		force bool
		err   error
		want  []string
		blobs int // that go
	}{
		{"by name", func(s *stock) string { return s.hub.host + "/a:2" }, "", false, nil, without("a:2"), 3},
		{"what shares a layer", func(s *stock) string { return s.hub.host + "/a:1" }, "", false, nil, without("a:1"), 2},
		{"one of two names", func(s *stock) string { return s.hub.host + "/b:1" }, "", false, nil, without("b:1"), 0},
		{"one of two names, in use", func(s *stock) string { return s.hub.host + "/b:1" }, "b:1", false, nil, without("b:1"), 0},
		{"by digest", func(s *stock) string { return s.digestA }, "", false, nil, without("a:1"), 2},
		{"by digits", func(s *stock) string { return s.digestA[len("sha256:"):][:12] }, "", false, nil, without("a:1"), 2},
		{"by digest, with two names", func(s *stock) string { return s.digestB }, "", false, ErrInUse, all, 0},
		{"by digest, with two names, forced", func(s *stock) string { return s.digestB }, "", true, nil, without("b:1", "b:2"), 3},
		{"without a name", func(s *stock) string { return s.nameless }, "", false, nil, without("nameless"), 3},
		{"in use", func(s *stock) string { return s.hub.host + "/a:1" }, "a:1", false, ErrInUse, all, 0},
		{"absent", func(s *stock) string { return "absent" }, "", false, ErrNotFound, all, 0},
		{"absent, forced", func(s *stock) string { return "absent" }, "", true, ErrNotFound, all, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s := newStock(t)
			if row.inUse != "" {
				mustPull(t, s.Store, s.hub.host+"/"+row.inUse, PullOptions{Policy: Never})
			}
			before := s.blobs(t)
			err := s.Remove(row.ref(s), row.force)
			if !errors.Is(err, row.err) || (err == nil) != (row.err == nil) {
				t.Errorf("%v, want %v", err, row.err)
			}
			s.check(t, "after", row.want...)
			if got := before - s.blobs(t); got != row.blobs {
				t.Errorf("%d blobs went, want %d", got, row.blobs)
			}
			if tmp, _ := os.ReadDir(s.path(tmpDir)); len(tmp) > 0 {
				t.Errorf("left %v", tmp)
			}
		})
	}
}

// TestRemoveInUse shows that a root stays as long as somebody holds it, whatever
// becomes of its name.
func TestRemoveInUse(t *testing.T) {
	t.Parallel()
	s := newStock(t)
	img := mustPull(t, s.Store, s.hub.host+"/a:1", PullOptions{Policy: Never})
	if err := s.Remove(s.hub.host+"/a:1", true); err != nil {
		t.Fatal(err)
	}
	if got := content(t, img, "shared"); got != "x" {
		t.Errorf("content %q", got)
	}
	if _, err := s.Pull(t.Context(), s.hub.host+"/a:1", PullOptions{Policy: Never}); !errors.Is(err, ErrNotFound) {
		t.Errorf("its name: %v", err)
	}
	second, err := s.Get(t.Context(), img.Digest)
	if err != nil || second.RootDir != img.RootDir {
		t.Fatalf("by its digest: %v", err)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
	for range 2 {
		if p, err := s.Prune(t.Context(), true); err != nil || strings.Contains(strings.Join(p.Images, " "), img.Digest) {
			t.Errorf("pruned %+v, %v", p, err)
		}
	}
	if got := content(t, img, "shared"); got != "x" {
		t.Errorf("content %q", got)
	}
	for range 2 { // Close is idempotent
		if err := img.Close(); err != nil {
			t.Error(err)
		}
	}
	p, err := s.Prune(t.Context(), false)
	if err != nil || len(p.Images) != 1 || p.Images[0] != img.Digest {
		t.Errorf("pruned %+v, %v", p, err)
	}
	checkClean(t, s.Store, 0, 0, 0)
}

func TestPrune(t *testing.T) {
	t.Parallel()
	t.Run("nameless", func(t *testing.T) {
		t.Parallel()
		s := newStock(t)
		p, err := s.Prune(t.Context(), false)
		if err != nil || p.Bytes == 0 {
			t.Errorf("%+v, %v", p, err)
		}
		sameStrings(t, "pruned", p.Images, []string{s.nameless})
		s.check(t, "after", "a:1", "a:2", "b:1", "b:2")
	})
	t.Run("what was called so before", func(t *testing.T) {
		t.Parallel()
		s := newStock(t)
		ref := s.hub.push(t, "a:1", oneFile(t, "newer"))
		img, err := s.Pull(t.Context(), ref, PullOptions{Policy: Always})
		if err != nil {
			t.Fatal(err)
		}
		img.Close()
		p, err := s.Prune(t.Context(), false)
		if err != nil || len(p.Images) != 2 {
			t.Errorf("%+v, %v", p, err)
		}
		s.check(t, "after", "a:1", "a:2", "b:1", "b:2")
	})
	t.Run("all but what is in use", func(t *testing.T) {
		t.Parallel()
		s := newStock(t)
		mustPull(t, s.Store, s.hub.host+"/b:1", PullOptions{Policy: Never})
		p, err := s.Prune(t.Context(), true)
		if err != nil || len(p.Images) != 3 {
			t.Errorf("%+v, %v", p, err)
		}
		s.check(t, "after", "b:1", "b:2")
		checkClean(t, s.Store, 2, 1, 3)
	})
	t.Run("while somebody pulls", func(t *testing.T) {
		t.Parallel()
		s := newStock(t)
		l, err := tryLockAt(s.path(blobsLock), shared)
		if err != nil {
			t.Fatal(err)
		}
		before := s.blobs(t)
		if _, err := s.Prune(t.Context(), true); err != nil {
			t.Error(err)
		}
		s.check(t, "after")
		if got := s.blobs(t); got != before {
			t.Errorf("%d of %d blobs are left: the pull may need them", got, before)
		}
		if err := l.release(); err != nil {
			t.Error(err)
		}
		if _, err := s.Prune(t.Context(), true); err != nil {
			t.Error(err)
		}
		checkClean(t, s.Store, 0, 0, 0)
	})
}

// TestDamage shows that what was damaged in the cache is noticed, and that a pull
// makes it good.
func TestDamage(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name   string
		damage func(*testing.T, *stock, *manifest)
		list   string // what the list says of it
	}{
		{"the manifest", func(t *testing.T, s *stock, m *manifest) { damage(t, s.blobPath(m.digest)) }, "a:1 damaged"},
		{"no manifest", func(t *testing.T, s *stock, m *manifest) { remove(t, s.blobPath(m.digest)) }, "a:1 damaged"},
		{"the configuration", func(t *testing.T, s *stock, m *manifest) { damage(t, s.blobPath(m.Config.Digest)) }, "a:1 damaged"},
		{"the layer, and no root", func(t *testing.T, s *stock, m *manifest) {
			damage(t, s.blobPath(m.Layers[0].Digest))
			remove(t, s.rootPath(m.digest))
		}, "a:1"},
		{"a byte of the layer that nobody reads, and no root", func(t *testing.T, s *stock, m *manifest) {
			b, err := os.ReadFile(s.blobPath(m.Layers[0].Digest))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(s.blobPath(m.Layers[0].Digest), flip(b, 4), 0o600); err != nil { // gzip's time
				t.Fatal(err)
			}
			remove(t, s.rootPath(m.digest))
		}, "a:1"},
		{"no layer, and no root", func(t *testing.T, s *stock, m *manifest) {
			remove(t, s.blobPath(m.Layers[0].Digest))
			remove(t, s.rootPath(m.digest))
		}, "a:1"},
		{"no root", func(t *testing.T, s *stock, m *manifest) { remove(t, s.rootPath(m.digest)) }, "a:1"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s := newStock(t)
			m, err := s.known(mustHash(t, s.digestA))
			if err != nil {
				t.Fatal(err)
			}
			row.damage(t, s, m)
			s.check(t, "list", row.list, "a:2", "b:1", "b:2", "nameless")
			img := mustPull(t, s.Store, s.hub.host+"/a:1", PullOptions{})
			if got := content(t, img, "shared"); got != "x" {
				t.Errorf("content %q", got)
			}
			s.check(t, "list after the pull", "a:1", "a:2", "b:1", "b:2", "nameless")
			for _, b := range append(m.blobs, v1.Descriptor{Digest: m.digest}) {
				text, err := os.ReadFile(s.blobPath(b.Digest))
				if err != nil || hashBytes(text) != b.Digest {
					t.Errorf("the blob %v is not good again (%v)", b.Digest, err)
				}
			}
		})
	}
}

// TestDamagedName shows that a record that can't be read is said, with its path.
func TestDamagedName(t *testing.T) {
	t.Parallel()
	s := newStock(t)
	path := s.nameFile(s.hub.host+"/a:1", s.platform)
	for _, text := range []string{"", "x", `{"name":"x"}`, `{"digest":"sha256:../../x","resolved":"sha256:x"}`} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.List(); err == nil || !strings.Contains(err.Error(), "remove "+path) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := removeTree(path); err != nil {
		t.Fatal(err)
	}
}

// TestOtherPlatform shows that a name means one image per platform.
func TestOtherPlatform(t *testing.T) {
	t.Parallel()
	h := newHub(t)
	native, other := "linux/"+runtime.GOARCH, "linux/riscv64"
	index := indexOf(t, map[string]v1.Image{native: imageFor(t, native, layer(t, file("f", "native"))), other: imageFor(t, other, layer(t, file("f", "other")))})
	ref := h.push(t, "r:1", index)
	s := newStore(t, testConfig(t))
	for _, row := range []struct{ platform, want string }{{"", "native"}, {other, "other"}, {native, "native"}, {"", "native"}} {
		img, err := s.Pull(t.Context(), ref, PullOptions{Platform: row.platform})
		if err != nil {
			t.Fatal(err)
		}
		if got := content(t, img, "f"); got != row.want {
			t.Errorf("for %q: %q, want %q", row.platform, got, row.want)
		}
		img.Close()
	}
	checkClean(t, s, 2, 2, 7)
	if d, err := s.Inspect(ref); err != nil || d.Platform != native || d.Resolved != digestOf(t, index) {
		t.Errorf("%+v, %v", d, err)
	}
	if err := s.Remove(ref, false); err != nil {
		t.Error(err)
	}
	checkClean(t, s, 0, 0, 0)
}

// TestIndexStays shows that an index that a name came from can be pulled by its
// digest, without a registry, as long as the name is there.
func TestIndexStays(t *testing.T) {
	t.Parallel()
	h := newHub(t)
	index := indexOf(t, map[string]v1.Image{"linux/" + runtime.GOARCH: oneFile(t, "x")})
	ref := h.push(t, "r:1", index)
	cfg := testConfig(t)
	mustPull(t, newStore(t, cfg), ref, PullOptions{})
	cfg.Offline = true
	s := newStore(t, cfg)
	if _, err := s.Prune(t.Context(), false); err != nil {
		t.Error(err)
	}
	mustPull(t, s, ref+"@"+digestOf(t, index), PullOptions{})
}

// TestMakeRoot shows that who waited for another's root takes that.
func TestMakeRoot(t *testing.T) {
	t.Parallel()
	s := newStock(t)
	m, err := s.known(mustHash(t, s.digestA))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.makeRoot(t.Context(), m, nil, nil, nil); err != nil {
		t.Error(err)
	}
}

// TestOtherOwners shows that roots whose files belong to others are apart, and go
// together.
func TestOtherOwners(t *testing.T) {
	t.Parallel()
	h := newHub(t)
	ref := h.push(t, "r:1", oneFile(t, "x"))
	cfg := testConfig(t)
	s := newStore(t, cfg)
	first := mustPull(t, s, ref, PullOptions{})
	cfg.Owners = &Owners{UIDs: []IDRange{{0, uint32(os.Geteuid()), 1}}, GIDs: []IDRange{{5, uint32(os.Getegid()), 1}}}
	cfg.Offline = true
	second := mustPull(t, newStore(t, cfg), ref, PullOptions{})
	if first.RootDir == second.RootDir || second.Recorded.Owners == 0 {
		t.Errorf("%q and %q, %+v", first.RootDir, second.RootDir, second.Recorded)
	}
	if !bytes.Equal(tarOf(t, first), tarOf(t, second)) {
		t.Error("the images differ")
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	if err := s.Remove(ref, false); !errors.Is(err, ErrInUse) {
		t.Errorf("with the other in use: %v", err)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
	if err := s.Remove(ref, false); err != nil {
		t.Error(err)
	}
	checkClean(t, s, 0, 0, 0)
}
