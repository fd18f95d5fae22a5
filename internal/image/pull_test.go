package image

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// TestPullBusybox pulls an image with a real program, and runs that.
func TestPullBusybox(t *testing.T) {
	t.Parallel()
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skip("no busybox-static here")
	}
	h := newHub(t)
	img := imageOf(t, layer(t, dir("bin"), file("bin/busybox", string(busybox)).mode(0o755), hard("bin/sh", "bin/busybox")), layer(t, sym("bin/echo", "busybox")))
	img = withConfig(t, img, v1.Config{
		Entrypoint: []string{"/bin/sh", "-c"}, Cmd: []string{"echo hi"}, Env: []string{"PATH=/bin", "A=b=c"}, WorkingDir: "/srv", User: "1000:100",
		Labels: map[string]string{"l": "v"}, ExposedPorts: map[string]struct{}{"80/tcp": {}, "53/udp": {}}, StopSignal: "SIGINT",
	})
	cfg := testConfig(t)
	cfg.Dir = filepath.Join(dirIn(t, ""), "cache") // memory may be mounted noexec, and a disk is another file system
	s := newStore(t, cfg)
	got := mustPull(t, s, h.push(t, "library/busybox:1", img), PullOptions{})
	want := RunConfig{
		Entrypoint: []string{"/bin/sh", "-c"}, Cmd: []string{"echo hi"}, Env: []string{"PATH=/bin", "A=b=c"}, WorkingDir: "/srv", User: "1000:100",
		Labels: map[string]string{"l": "v"}, ExposedPorts: []string{"53/udp", "80/tcp"}, StopSignal: "SIGINT",
	}
	if diff := cmp.Diff(want, got.Config); diff != "" {
		t.Errorf("configuration: want -, got +:\n%s", diff)
	}
	if got.Digest != digestOf(t, img) || got.Name != h.host+"/library/busybox:1" || got.Recorded != (Recorded{}) {
		t.Errorf("%q %q %+v", got.Name, got.Digest, got.Recorded)
	}
	out, err := exec.Command(filepath.Join(got.RootDir, "bin/echo"), "it", "runs").CombinedOutput()
	if err != nil || string(out) != "it runs\n" {
		t.Errorf("%q, %v", out, err)
	}
	checkClean(t, s, 1, 1, 4)
}

// TestPolicies shows when a registry is asked, and what for.
func TestPolicies(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name             string
		policy           Policy
		cached, changed  bool
		offline          bool
		want             string // content of the file; "" is an error that matches ErrNotFound
		manifests, blobs int    // GET requests
	}{
		{"if missing, missing", IfMissing, false, false, false, "old", 1, 2},
		{"if missing, cached", IfMissing, true, false, false, "old", 0, 0},
		{"if missing, cached and changed", "", true, true, false, "old", 0, 0},
		{"always, missing", Always, false, false, false, "old", 1, 2},
		{"always, cached", Always, true, false, false, "old", 0, 0},
		{"always, cached and changed", Always, true, true, false, "new", 1, 2},
		{"never, missing", Never, false, false, false, "", 0, 0},
		{"never, cached", Never, true, true, false, "old", 0, 0},
		{"offline, missing", "", false, false, true, "", 0, 0},
		{"offline, cached", "", true, true, true, "old", 0, 0},
		{"offline, always", Always, true, false, true, "", 0, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			h := newHub(t)
			ref := h.push(t, "r:1", oneFile(t, "old"))
			cfg := testConfig(t)
			if row.cached {
				mustPull(t, newStore(t, cfg), ref, PullOptions{})
			}
			if row.changed {
				h.push(t, "r:1", oneFile(t, "new"))
			}
			h.asked("")
			cfg.Offline = row.offline
			img, err := newStore(t, cfg).Pull(t.Context(), ref, PullOptions{Policy: row.policy})
			h.mu.Lock()
			requests := h.requests
			h.mu.Unlock()
			manifests, blobs := 0, 0
			for _, r := range requests {
				if strings.HasPrefix(r, "GET") && strings.Contains(r, "/manifests/") {
					manifests++
				}
				if strings.HasPrefix(r, "GET") && strings.Contains(r, "/blobs/") {
					blobs++
				}
			}
			if manifests != row.manifests || blobs != row.blobs {
				t.Errorf("%d manifests and %d blobs were asked for, want %d and %d: %q", manifests, blobs, row.manifests, row.blobs, requests)
			}
			if (row.policy == Never || row.offline) && len(requests) > 0 {
				t.Errorf("asked all the same: %q", requests)
			}
			if row.want == "" {
				if !errors.Is(err, ErrNotFound) || !errors.Is(err, ErrPull) {
					t.Errorf("%v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer img.Close()
			if got := content(t, img, "f"); got != row.want {
				t.Errorf("content %q, want %q", got, row.want)
			}
		})
	}
}

// TestPinned shows that a digest is what counts: of a manifest or an index, from
// whatever name it came.
func TestPinned(t *testing.T) {
	t.Parallel()
	h := newHub(t)
	img := oneFile(t, "x")
	index := indexOf(t, map[string]v1.Image{"linux/" + runtime.GOARCH: img, "linux/riscv64": imageFor(t, "linux/riscv64")})
	tagged := h.push(t, "r:1", index)
	repo := strings.TrimSuffix(tagged, ":1")
	other := digestOf(t, oneFile(t, "never pushed"))
	cfg := testConfig(t)
	s := newStore(t, cfg)
	for _, row := range []struct {
		name, ref string
		policy    Policy
		asks      bool
		err       error
	}{
		{"of an index", repo + "@" + digestOf(t, index), IfMissing, true, nil},
		{"of an index again", repo + "@" + digestOf(t, index), Always, false, nil},
		{"of its manifest", repo + "@" + digestOf(t, img), Always, false, nil},
		{"with a tag as well", tagged + "@" + digestOf(t, img), Always, false, nil},
		{"in another repository", h.host + "/other@" + digestOf(t, img), Never, false, nil},
		{"that nobody has", repo + "@" + other, IfMissing, true, ErrNotFound},
		{"that nobody has, never", repo + "@" + other, Never, false, ErrNotFound},
		{"of another algorithm", repo + "@sha512:" + strings.Repeat("a", 128), IfMissing, false, ErrReference},
	} {
		h.asked("")
		img, err := s.Pull(t.Context(), row.ref, PullOptions{Policy: row.policy})
		if asks := h.asked("") > 0; asks != row.asks {
			t.Errorf("%s: asked: %t, want %t", row.name, asks, row.asks)
		}
		if !errors.Is(err, row.err) || (err == nil) != (row.err == nil) {
			t.Errorf("%s: %v, want %v", row.name, err, row.err)
		}
		if err == nil {
			if got := content(t, img, "f"); got != "x" {
				t.Errorf("%s: content %q", row.name, got)
			}
			img.Close()
		}
	}
}

// TestPinnedLie shows that a registry can't give something else for a digest.
func TestPinnedLie(t *testing.T) {
	t.Parallel()
	h := newHub(t)
	img := oneFile(t, "x")
	ref := h.push(t, "r:1", img)
	lie, err := oneFile(t, "lie").RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	h.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/manifests/") {
			w.Header().Set("Docker-Content-Digest", digestOf(t, img))
			_, _ = w.Write(lie)
			return true
		}
		return false
	})
	s := newStore(t, testConfig(t))
	got, err := s.Pull(t.Context(), ref+"@"+digestOf(t, img), PullOptions{})
	if !errors.Is(err, ErrPull) {
		t.Errorf("%v, %v", got, err)
	}
	checkClean(t, s, 0, 0, 0)
}

// TestLyingRegistry shows that what doesn't have the digest that was asked for
// doesn't get into the cache.
func TestLyingRegistry(t *testing.T) {
	t.Parallel()
	good := oneFile(t, "good")
	manifest, err := good.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	config, err := good.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	wrongDiff := withLayer(t, imageOf(t), gzipOf(t, layer(t, file("f", "x"))), types.OCILayer, hashBytes([]byte("else")))
	hostile := layer(t, file("../../f", "x"))
	for _, row := range []struct {
		name  string
		image v1.Image
		// of the request's path: what is answered instead
		part  string
		reply func(real []byte) []byte
		err   error
	}{
		{"a changed layer", good, "/blobs/", func(b []byte) []byte { return flip(b, len(b)/2) }, ErrContent},
		{"a longer layer", good, "/blobs/", func(b []byte) []byte { return append(b, 0) }, ErrContent},
		{"an endless layer", good, "/blobs/", func(b []byte) []byte { return append(b, make([]byte, 1<<20)...) }, ErrContent},
		{"a changed manifest", good, "/manifests/", func([]byte) []byte { return flip(manifest, 5) }, nil},
		{"an empty manifest", good, "/manifests/", func([]byte) []byte { return nil }, ErrContent},
		{"a manifest of a config", good, "/manifests/", func([]byte) []byte { return config }, ErrContent},
		{"two documents in one", good, "/manifests/", func([]byte) []byte {
			return []byte(strings.Replace(string(manifest), `"schemaVersion":2`, `"schemaVersion":2,"manifests":[]`, 1))
		}, ErrContent},
		{"another diffID", wrongDiff, "", nil, ErrContent},
		{"a hostile layer", imageOf(t, hostile), "", nil, ErrContent},
		{"a layer that is no tar", withLayer(t, imageOf(t), []byte("x"), types.OCILayer, hashBytes([]byte("x"))), "", nil, ErrContent},
		{"too many layers", imageOf(t, layer(t), layer(t, file("a", "")), layer(t, file("b", "")), layer(t, file("c", "")), layer(t, file("d", ""))), "", nil, ErrContent},
		{"another platform", imageFor(t, "linux/riscv64"), "", nil, ErrNotFound},
		{"a chart", good, "/manifests/", func([]byte) []byte {
			return []byte(strings.Replace(string(manifest), string(types.DockerConfigJSON), "application/vnd.cncf.helm.config.v1+json", 1))
		}, ErrContent},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			h := newHub(t)
			ref := h.push(t, "r:1", row.image)
			if row.reply != nil {
				h.intercept(func(w http.ResponseWriter, r *http.Request) bool {
					if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, row.part) || strings.Contains(r.URL.Path, hashBytes(config).Hex) {
						return false
					}
					rec := httptest.NewRecorder()
					h.backend.ServeHTTP(rec, r)
					_, _ = w.Write(row.reply(rec.Body.Bytes()))
					return true
				})
			}
			cfg := testConfig(t)
			cfg.Limits.Layers = 4
			s := newStore(t, cfg)
			img, err := s.Pull(t.Context(), ref, PullOptions{})
			if err == nil {
				img.Close()
				t.Fatal("it was pulled")
			}
			if !errors.Is(err, ErrPull) || row.err != nil && !errors.Is(err, row.err) {
				t.Errorf("%v, want one that matches %v", err, row.err)
			}
			names, _ := os.ReadDir(s.path(namesDir))
			roots, _ := s.unpacked()
			tmp, _ := os.ReadDir(s.path(tmpDir))
			if len(names)+len(roots)+len(tmp) > 0 {
				t.Errorf("in the cache: %v %v %v", names, roots, tmp)
			}
			blobs, _ := os.ReadDir(s.path(blobsDir))
			for _, b := range blobs {
				text, err := os.ReadFile(s.path(blobsDir, b.Name()))
				if err != nil || hashBytes(text).Hex != b.Name() {
					t.Errorf("the blob %s has another digest (%v)", b.Name(), err)
				}
			}
		})
	}
}

// TestCompressions pulls layers in every compression, whatever their type says.
func TestCompressions(t *testing.T) {
	t.Parallel()
	archive := layer(t, file("f", "x"))
	for _, row := range []struct {
		name      string
		data      []byte
		mediaType types.MediaType
	}{
		{"gzip", gzipOf(t, archive), types.OCILayer},
		{"docker's", gzipOf(t, archive), types.DockerLayer},
		{"zstd", zstdOf(t, archive), types.OCILayerZStd},
		{"none", archive, types.OCIUncompressedLayer},
		{"gzip that says zstd", gzipOf(t, archive), types.OCILayerZStd},
		{"gzip in two members", append(gzipOf(t, archive[:700]), gzipOf(t, archive[700:])...), types.OCILayer},
		{"zstd in two frames", append(zstdOf(t, archive[:700]), zstdOf(t, archive[700:])...), types.OCILayerZStd},
	} {
		h := newHub(t)
		ref := h.push(t, "r:1", withLayer(t, imageOf(t), row.data, row.mediaType, hashBytes(archive)))
		img, err := newStore(t, testConfig(t)).Pull(t.Context(), ref, PullOptions{})
		if err != nil {
			t.Errorf("%s: %v", row.name, err)
			continue
		}
		if got := content(t, img, "f"); got != "x" {
			t.Errorf("%s: content %q", row.name, got)
		}
		img.Close()
	}
}

// TestPullErrors shows what users read.
func TestPullErrors(t *testing.T) {
	t.Parallel()
	h := newHub(t)
	ref := h.push(t, "r:1", oneFile(t, "x"))
	closed := newHub(t)
	closed.Close()
	s := newStore(t, testConfig(t))
	for _, row := range []struct {
		ref  string
		o    PullOptions
		kind error
		want string
	}{
		{h404(ref), PullOptions{}, ErrNotFound, "check the name"},
		{h.host + "/r:2", PullOptions{}, ErrNotFound, "check the name"},
		{closed.host + "/r:1", PullOptions{}, ErrPull, "sluice images import"},
		{"UPPER", PullOptions{}, ErrReference, `write a name like "alpine:3.22"`},
		{"", PullOptions{}, ErrReference, "write a name"},
		{ref, PullOptions{Policy: "sometimes"}, ErrPull, `policy "sometimes" is none of`},
		{ref, PullOptions{Platform: "linux"}, ErrPull, `not like linux/arm64`},
		{ref, PullOptions{Platform: "linux/riscv64"}, ErrNotFound, "it is not for linux/riscv64 but for linux/" + runtime.GOARCH},
		{"alpine", PullOptions{Policy: Never}, ErrNotFound, `the policy is "never"; sluice images import alpine FILE`},
		{"/does/not/exist.tar", PullOptions{}, os.ErrNotExist, "give the path"},
		{"./testdata", PullOptions{}, ErrPull, ""},
	} {
		_, err := s.Pull(t.Context(), row.ref, row.o)
		if !errors.Is(err, row.kind) || !errors.Is(err, ErrPull) || !strings.Contains(err.Error(), row.want) || !strings.Contains(err.Error(), row.ref) {
			t.Errorf("%q: %v, want one that matches %v with %q", row.ref, err, row.kind, row.want)
		}
	}
}

// TestBrokenLine shows that a download is tried again, but not for ever, and that
// one that stands still is broken too.
func TestBrokenLine(t *testing.T) {
	t.Parallel()
	big := imageOf(t, layer(t, file("f", randomText(3<<20))))
	for _, row := range []struct {
		name     string
		failures int
		stall    bool
		ok       bool
	}{
		{"once", 1, false, true},
		{"twice", 2, false, true},
		{"always", 100, false, false},
		{"stalls once", 1, true, true},
		{"stalls always", 100, true, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			h := newHub(t)
			ref := h.push(t, "r:1", big)
			config, err := big.ConfigName()
			if err != nil {
				t.Fatal(err)
			}
			var mu sync.Mutex
			left := row.failures
			h.intercept(func(w http.ResponseWriter, r *http.Request) bool {
				mu.Lock()
				defer mu.Unlock()
				if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/") || strings.Contains(r.URL.Path, config.Hex) || left == 0 {
					return false
				}
				left--
				w.Header().Set("Content-Length", "3000000")
				_, _ = w.Write(make([]byte, 100_000))
				w.(http.Flusher).Flush()
				if row.stall {
					<-r.Context().Done()
				}
				panic(http.ErrAbortHandler)
			})
			cfg := testConfig(t)
			cfg.StallTimeout = time.Second // longer than what doesn't stall takes on a busy machine
			img, err := newStore(t, cfg).Pull(t.Context(), ref, PullOptions{})
			if (err == nil) != row.ok {
				t.Errorf("%v", err)
			}
			if err == nil {
				img.Close()
			} else if row.stall && !strings.Contains(err.Error(), "nothing came for 1s") {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestDrip shows that a document whose bytes come one by one doesn't come for ever.
func TestDrip(t *testing.T) {
	t.Parallel()
	for _, part := range []string{"/manifests/", "/blobs/"} {
		t.Run(part, func(t *testing.T) {
			t.Parallel()
			h := newHub(t)
			ref := h.push(t, "r:1", oneFile(t, "x"))
			h.intercept(func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, part) {
					return false
				}
				for r.Context().Err() == nil {
					_, _ = w.Write([]byte(" "))
					w.(http.Flusher).Flush()
					time.Sleep(10 * time.Millisecond)
				}
				return true
			})
			cfg := testConfig(t)
			cfg.StallTimeout = 500 * time.Millisecond
			_, err := newStore(t, cfg).Pull(t.Context(), ref, PullOptions{})
			if err == nil || !strings.Contains(err.Error(), "came within 2.5s") {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestCancel shows that a pull ends with its context, wherever it is, and leaves
// nothing.
func TestCancel(t *testing.T) {
	t.Parallel()
	h := newHub(t)
	ref := h.push(t, "r:1", imageOf(t, layer(t, file("f", randomText(1<<20))), layer(t, file("g", randomText(1<<20)))))
	for _, row := range []struct{ method, part string }{{"GET", "/v2/"}, {"GET", "/manifests/"}, {"GET", "/blobs/"}} {
		ctx, cancel := context.WithCancel(t.Context())
		h.intercept(func(_ http.ResponseWriter, r *http.Request) bool {
			if r.Method == row.method && strings.Contains(r.URL.Path, row.part) {
				cancel()
				<-r.Context().Done()
				return true
			}
			return false
		})
		s := newStore(t, testConfig(t))
		_, err := s.Pull(ctx, ref, PullOptions{})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("at %s: %v", row.part, err)
		}
		cancel()
		tmp, _ := os.ReadDir(s.path(tmpDir))
		roots, _ := os.ReadDir(s.path(rootsDir))
		if len(tmp) > 0 || len(roots) > 1 { // the lock of blobs
			t.Errorf("at %s: left %v %v", row.part, tmp, roots)
		}
	}
}

// TestManyAtOnce shows that those who want the same image at once share one
// download and one root.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	h := newHub(t)
	var layers [][]byte
	for i := range 6 {
		layers = append(layers, layer(t, file(string(rune('a'+i)), randomText(200_000))))
	}
	layers = append(layers, layers[0]) // twice the same blob
	ref := h.push(t, "r:1", imageOf(t, layers...))
	cfg := testConfig(t)
	roots := make([]string, 8)
	var wg sync.WaitGroup
	for i := range roots {
		wg.Go(func() {
			s, err := Open(cfg)
			if err != nil {
				t.Error(err)
				return
			}
			img, err := s.Pull(t.Context(), ref, PullOptions{})
			if err != nil {
				t.Error(err)
				return
			}
			roots[i] = img.RootDir
			if err := img.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, r := range roots {
		if r != roots[0] || r == "" {
			t.Errorf("roots %q", roots)
			break
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	count := make(map[string]int)
	for _, r := range h.requests {
		if strings.HasPrefix(r, "GET") && strings.Contains(r, "/blobs/") {
			count[r]++
		}
	}
	// The configuration comes before it is known who makes the image.
	if len(count) != 7 {
		t.Errorf("%d blobs came, want 7", len(count))
	}
	more := 0
	for _, n := range count {
		if n > 1 {
			more++
		}
	}
	if more > 1 {
		t.Errorf("blobs came more than once: %v", count)
	}
}

// randomText returns n bytes that don't compress well.
func randomText(n int) string {
	b := make([]byte, n)
	state := uint64(n)*2654435761 + 88172645463325252
	for i := range b {
		state ^= state << 13
		state ^= state >> 7
		state ^= state << 17
		b[i] = byte(state)
	}
	return string(b)
}
