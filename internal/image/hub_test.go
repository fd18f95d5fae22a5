package image

import (
	"bytes"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	memory "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// A hub is a registry on loopback that notes what it is asked for.
type hub struct {
	*httptest.Server
	host    string // "127.0.0.1:port"
	backend http.Handler

	mu       sync.Mutex // guards the following fields
	requests []string   // "GET /v2/..."
	// meddle may answer a request itself; nil doesn't.
	meddle func(w http.ResponseWriter, r *http.Request) (done bool)
}

// newHub starts a hub. It ends with the test.
func newHub(t testing.TB) *hub { return startHub(t, (*httptest.Server).Start) }

func startHub(t testing.TB, start func(*httptest.Server)) *hub {
	t.Helper()
	h := &hub{backend: memory.New(memory.Logger(log.New(io.Discard, "", 0)))}
	h.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		h.requests = append(h.requests, r.Method+" "+r.URL.Path)
		meddle := h.meddle
		h.mu.Unlock()
		if meddle == nil || !meddle(w, r) {
			h.backend.ServeHTTP(w, r)
		}
	}))
	h.Config.ErrorLog = log.New(io.Discard, "", 0)
	start(h.Server)
	t.Cleanup(h.Close)
	_, h.host, _ = strings.Cut(h.URL, "://")
	return h
}

// asked returns how often a request was made whose text has part in it, and
// forgets all of them.
func (h *hub) asked(part string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, r := range h.requests {
		if strings.Contains(r, part) {
			n++
		}
	}
	h.requests = nil
	return n
}

// intercept sets meddle.
func (h *hub) intercept(f func(w http.ResponseWriter, r *http.Request) bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.meddle = f
}

// push puts an image or an index under a name, "repo:tag", and returns the whole
// name.
func (h *hub) push(t testing.TB, at string, what remote.Taggable, opts ...remote.Option) string {
	t.Helper()
	ref, err := name.ParseReference(h.host + "/" + at)
	if err != nil {
		t.Fatal(err)
	}
	opts = append(opts, remote.WithTransport(h.Client().Transport))
	if index, ok := what.(v1.ImageIndex); ok {
		err = remote.WriteIndex(ref, index, opts...)
	} else {
		err = remote.Write(ref, what.(v1.Image), opts...)
	}
	if err != nil {
		t.Fatal(err)
	}
	h.asked("")
	return h.host + "/" + at
}

// imageOf returns an image for this machine with layers, tar archives.
func imageOf(t testing.TB, layers ...[]byte) v1.Image {
	t.Helper()
	return imageFor(t, "linux/"+runtime.GOARCH, layers...)
}

func imageFor(t testing.TB, platform string, layers ...[]byte) v1.Image {
	t.Helper()
	p := mustPlatform(platform)
	img, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant, RootFS: v1.RootFS{Type: "layers"}})
	for _, l := range layers {
		if err == nil {
			img, err = mutate.AppendLayers(img, gzipLayer(t, l))
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// gzipLayer returns a tar archive as a layer.
func gzipLayer(t testing.TB, archive []byte) v1.Layer {
	t.Helper()
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive)), nil }, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// rawLayer returns a layer of which the registry has content, whatever that
// unpacks to.
type rawLayer struct {
	v1.Layer
	diffID v1.Hash
}

func (l rawLayer) DiffID() (v1.Hash, error) { return l.diffID, nil }

// withLayer returns img with a layer of content, which unpacks to what has the
// digest diffID.
func withLayer(t testing.TB, img v1.Image, content []byte, mediaType types.MediaType, diffID v1.Hash) v1.Image {
	t.Helper()
	out, err := mutate.Append(img, mutate.Addendum{Layer: rawLayer{static.NewLayer(content, mediaType), diffID}, MediaType: mediaType})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// withConfig returns img with a configuration.
func withConfig(t testing.TB, img v1.Image, c v1.Config) v1.Image {
	t.Helper()
	out, err := mutate.Config(img, c)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// indexOf returns an index of images, by their platforms.
func indexOf(t testing.TB, images map[string]v1.Image) v1.ImageIndex {
	t.Helper()
	index := v1.ImageIndex(mutate.IndexMediaType(empty.Index, types.OCIImageIndex))
	for platform, img := range images {
		p := mustPlatform(platform)
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &p}})
	}
	return index
}

// digestOf returns the digest of an image or an index.
func digestOf(t testing.TB, what interface{ Digest() (v1.Hash, error) }) string {
	t.Helper()
	h, err := what.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return h.String()
}

// testConfig is a configuration of a cache in a directory of its own.
func testConfig(t testing.TB) Config {
	return Config{Dir: filepath.Join(workDir(t), "cache"), Keychain: authn.NewMultiKeychain(), RetryDelay: time.Millisecond}
}

// newStore opens a cache.
func newStore(t testing.TB, cfg Config) *Store {
	t.Helper()
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// mustPull pulls an image that is closed with the test.
func mustPull(t testing.TB, s *Store, ref string, o PullOptions) *Image {
	t.Helper()
	img, err := s.Pull(t.Context(), ref, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := img.Close(); err != nil {
			t.Error(err)
		}
	})
	return img
}

// checkClean checks that nothing unfinished is in the cache, and that it has so
// many of each.
func checkClean(t testing.TB, s *Store, names, roots, blobs int) {
	t.Helper()
	for _, row := range []struct {
		dir  string
		want int
	}{{tmpDir, 0}, {namesDir, names}, {rootsDir, roots}, {blobsDir, blobs}} {
		entries, err := os.ReadDir(s.path(row.dir))
		if err != nil {
			t.Fatal(err)
		}
		var found []string
		for _, e := range entries {
			if row.dir != rootsDir || e.IsDir() {
				found = append(found, e.Name())
			}
		}
		if len(found) != row.want {
			t.Errorf("%s has %q, want %d", row.dir, found, row.want)
		}
	}
}

// content returns a file of an image's root.
func content(t testing.TB, img *Image, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(img.RootDir, path))
	if err != nil {
		t.Error(err)
	}
	return string(text)
}

// sameStrings reports whether two slices have the same elements, and says what
// they are if not.
func sameStrings(t testing.TB, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

// oneFile returns an image whose file "f" has the text.
func oneFile(t testing.TB, text string) v1.Image {
	t.Helper()
	return imageOf(t, layer(t, file("f", text)))
}
