package image

import (
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
)

// TestCredentials shows who gets them, and what is said without.
func TestCredentials(t *testing.T) {
	t.Parallel()
	h, mirror := newHub(t), newHub(t)
	ref := h.push(t, "private/r:1", oneFile(t, "x"))
	var mu sync.Mutex
	var seen []string // what the mirror got
	h.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if user, password, _ := r.BasicAuth(); user == "me" && password == "secret" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="hub"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	mirror.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, r.Header.Get("Authorization"))
		w.Header().Set("WWW-Authenticate", `Basic realm="mirror"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	cfg := testConfig(t)
	cfg.Mirrors = map[string][]string{h.host: {mirror.host}}
	s := newStore(t, cfg)
	for _, row := range []struct {
		name string
		o    PullOptions
		ok   bool
	}{
		{"none", PullOptions{}, false},
		{"wrong", PullOptions{Username: "me", Password: "guess"}, false},
		{"right", PullOptions{Username: "me", Password: "secret"}, true},
	} {
		img, err := s.Pull(t.Context(), ref, row.o)
		if (err == nil) != row.ok {
			t.Errorf("%s: %v", row.name, err)
		}
		if err == nil {
			img.Close()
			continue
		}
		if !errors.Is(err, ErrPull) || !strings.Contains(err.Error(), "credentials") {
			t.Errorf("%s: %v", row.name, err)
		}
		if strings.Contains(err.Error(), "guess") {
			t.Errorf("%s: the error has the password: %v", row.name, err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	for _, got := range seen {
		if got != "" {
			t.Errorf("the mirror got %q", got)
		}
	}
	if len(seen) == 0 {
		t.Error("the mirror was not asked")
	}

	cfg.Keychain, cfg.Mirrors = staticKeychain{authn.Basic{Username: "me", Password: "secret"}}, nil
	mustPull(t, newStore(t, cfg), ref, PullOptions{Policy: Always})
}

// TestRedirect shows that a registry may keep its blobs elsewhere, and that its
// credentials don't go there.
func TestRedirect(t *testing.T) {
	t.Parallel()
	h, store := newHub(t), newHub(t)
	img := oneFile(t, "x")
	ref := h.push(t, "r:1", img)
	store.push(t, "r:1", img)
	var mu sync.Mutex
	var seen []string // what the other host got
	h.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if _, _, ok := r.BasicAuth(); !ok {
			w.Header().Set("WWW-Authenticate", `Basic realm="hub"`)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		if strings.Contains(r.URL.Path, "/blobs/") {
			http.Redirect(w, r, "http://"+store.host+r.URL.Path, http.StatusTemporaryRedirect)
			return true
		}
		return false
	})
	store.intercept(func(_ http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, r.Header.Get("Authorization"))
		return false
	})
	mustPull(t, newStore(t, testConfig(t)), ref, PullOptions{Username: "me", Password: "secret"})
	mu.Lock()
	defer mu.Unlock()
	if len(seen) == 0 || strings.Join(seen, "") != "" {
		t.Errorf("the other host got the credentials %q", seen)
	}
}

// A staticKeychain has the same credentials for all.
type staticKeychain struct{ authn.Basic }

func (k staticKeychain) Resolve(authn.Resource) (authn.Authenticator, error) { return &k.Basic, nil }

// TestCertificates shows what is trusted.
func TestCertificates(t *testing.T) {
	t.Parallel()
	h := startHub(t, (*httptest.Server).StartTLS)
	ref := h.push(t, "r:1", oneFile(t, "x"))
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.Certificate().Raw})
	for _, row := range []struct {
		name string
		o    PullOptions
		want string // part of the error
	}{
		{"unknown", PullOptions{}, "CA certificate"},
		{"given", PullOptions{CACerts: ca}, ""},
		{"insecure", PullOptions{Insecure: true}, ""},
		{"no PEM", PullOptions{CACerts: []byte("x")}, "must be PEM"},
	} {
		img, err := newStore(t, testConfig(t)).Pull(t.Context(), ref, row.o)
		if row.want == "" && err != nil || row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want)) {
			t.Errorf("%s: %v, want %q", row.name, err, row.want)
		}
		if err == nil {
			img.Close()
		}
	}
}

// TestPlainHTTP shows for which hosts it is used.
func TestPlainHTTP(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		url             string
		insecure, local bool
		want            bool
	}{
		{"https://example.com/v2/", false, false, true},
		{"http://example.com/v2/", false, false, false},
		{"http://example.com/v2/", false, true, false},
		{"http://example.com/v2/", true, false, true},
		{"http://10.0.0.1:5000/v2/", false, true, false},
		{"http://registry.local/v2/", false, true, false},
		{"http://127.0.0.1:5000/v2/", false, true, true},
		{"http://127.0.0.1:5000/v2/", false, false, false},
		{"http://[::1]:5000/v2/", false, true, true},
		{"http://localhost:5000/v2/", false, true, true},
		{"http://localhost:5000/v2/", false, false, false},
		{"http://localhost.example.com/v2/", false, true, false},
		{"http://127.0.0.1.example.com/v2/", false, true, false},
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, row.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		reached := false
		_, err = (&onlyTLS{roundTripper(func() { reached = true }), row.insecure, row.local}).RoundTrip(r)
		if reached != row.want || !row.want && !errors.Is(err, errPlainHTTP) {
			t.Errorf("%s, insecure %t, local %t: sent: %t (%v), want %t", row.url, row.insecure, row.local, reached, err, row.want)
		}
	}
}

type roundTripper func()

func (f roundTripper) RoundTrip(*http.Request) (*http.Response, error) {
	f()
	return nil, io.EOF
}

// TestMirrors shows who is asked, and in which order.
func TestMirrors(t *testing.T) {
	t.Parallel()
	origin, near, far := newHub(t), newHub(t), newHub(t)
	ref := origin.push(t, "r:1", oneFile(t, "origin"))
	for _, row := range []struct {
		name         string
		mirrors      map[string][]string
		near, origin bool // whether they were asked
	}{
		{"none", nil, false, true},
		{"one that lacks it", map[string][]string{origin.host: {near.host}}, true, true},
		{"another registry's", map[string][]string{"docker.io": {near.host}}, false, true},
		{"for all", map[string][]string{"*": {near.host}}, true, true},
		{"its own before that for all", map[string][]string{"*": {near.host}, origin.host: {far.host}}, false, true},
	} {
		origin.asked("")
		near.asked("")
		cfg := testConfig(t)
		cfg.Mirrors = row.mirrors
		mustPull(t, newStore(t, cfg), ref, PullOptions{})
		if a, b := near.asked("") > 0, origin.asked("") > 0; a != row.near || b != row.origin {
			t.Errorf("%s: asked near %t, origin %t; want %t, %t", row.name, a, b, row.near, row.origin)
		}
	}
	near.push(t, "prefix/r:1", oneFile(t, "near"))
	cfg := testConfig(t)
	cfg.Mirrors = map[string][]string{origin.host: {far.host, near.host + "/prefix"}}
	origin.asked("")
	if got := content(t, mustPull(t, newStore(t, cfg), ref, PullOptions{}), "f"); got != "near" {
		t.Errorf("content %q, want the mirror's", got)
	}
	if n := origin.asked(""); n != 0 {
		t.Errorf("the registry itself was asked %d times", n)
	}
	cfg.Mirrors = map[string][]string{"*": {"nodot"}}
	if _, err := newStore(t, cfg).Pull(t.Context(), h404(ref), PullOptions{}); err == nil || !strings.Contains(err.Error(), "nodot") {
		t.Errorf("%v", err)
	}
}

// h404 returns a name in the same registry that it doesn't have.
func h404(ref string) string { return strings.TrimSuffix(ref, "/r:1") + "/absent:1" }

// TestHub shows that docker's names go to the mirror of docker's registry.
func TestHub(t *testing.T) {
	t.Parallel()
	mirror := newHub(t)
	mirror.push(t, "library/alpine:latest", oneFile(t, "x"))
	cfg := testConfig(t)
	cfg.Mirrors = map[string][]string{"docker.io": {mirror.host}}
	s := newStore(t, cfg)
	if img := mustPull(t, s, "alpine", PullOptions{}); img.Name != "alpine:latest" {
		t.Errorf("its name is %q", img.Name)
	}
	mirror.asked("")
	mustPull(t, s, "docker.io/library/alpine:latest", PullOptions{})
	if n := mirror.asked(""); n != 0 {
		t.Errorf("the same name in full was asked for %d times", n)
	}
}
