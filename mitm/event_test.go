package mitm

import (
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/sluicenet/sluice/mitm/secret"
)

// TestRequestEvents shows what an event tells of a request, and what not: the
// query, and more of the path than is ours to keep.
func TestRequestEvents(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, method, path, body string
		want                     Event
	}{
		{"a request", "GET", "/a%20b?token=x", "", Event{Method: "GET", Path: "/a%20b", Status: 201, Received: 6}},
		{"with a body", "POST", "/x", "body", Event{Method: "POST", Path: "/x", Status: 201, Sent: 4, Received: 6}},
		{"a long path", "GET", "/" + strings.Repeat("x", 2000), "", Event{Method: "GET", Path: "/" + strings.Repeat("x", 1023), Status: 201, Received: 6}},
	} {
		eachWay(t, func(t *testing.T, w *world, serve func(http.Handler), client *http.Client, origin string, http2 bool) {
			serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				w.WriteHeader(http.StatusCreated)
				_, _ = io.WriteString(w, "answer")
			}))
			req, err := http.NewRequestWithContext(t.Context(), row.method, origin+row.path, strings.NewReader(row.body))
			if err != nil {
				t.Fatal(err)
			}
			res, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, res.Body)
			_ = res.Body.Close()
			got := w.waitFor(EventRequest)
			if got.Time.IsZero() || got.Destination.Addr().String() != address || !got.Source.IsValid() || got.Name != site || got.Proto != res.Proto || got.Duration <= 0 {
				t.Errorf("%s: got %+v", row.name, got)
			}
			want := row.want
			if got.Method != want.Method || got.Path != want.Path || got.Status != want.Status || got.Sent != want.Sent || got.Received != want.Received {
				t.Errorf("%s: got %+v, want %+v", row.name, got, want)
			}
		})
	}
}

// TestSecretPunishment shows what each action does when a placeholder is on its
// way to another host, in a head and in a body.
func TestSecretPunishment(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		action     secret.Action
		event      bool
		terminates bool
	}{
		{secret.ActionBlock, false, false},
		{secret.ActionDefault, true, false},
		{secret.ActionBlockAndLog, true, false},
		{secret.ActionBlockAndTerminate, true, true},
	} {
		for _, inBody := range []bool{false, true} {
			for _, http2 := range []bool{false, true} {
				set, _, err := secret.New(secret.Config{Secrets: []secret.Secret{{EnvVar: "KEY", Value: secret.NewValue("the-real-value"), AllowHosts: []string{"api.example.net"}, OnViolation: row.action}}})
				if err != nil {
					t.Fatal(err)
				}
				ended := make(chan string, 1)
				w := newWorld(t, Config{Secrets: set, Terminate: func(reason string) { ended <- reason }})
				served := make(chan string, 1)
				w.serveTLS(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					body, err := io.ReadAll(r.Body)
					if err == nil {
						served <- string(body)
					}
				}), nil)
				req, _ := http.NewRequestWithContext(t.Context(), "POST", "https://"+site, strings.NewReader("body"))
				req.Header.Set("X-Key", "$MSB_KEY")
				if inBody {
					req, _ = http.NewRequestWithContext(t.Context(), "POST", "https://"+site, io.MultiReader(strings.NewReader(strings.Repeat("x", 70_000)), strings.NewReader("$MSB_KEY")))
				}
				res, err := w.client(http2).Do(req)
				if err == nil {
					page, _ := io.ReadAll(res.Body)
					_ = res.Body.Close()
					if res.StatusCode != http.StatusForbidden || !strings.Contains(string(page), "KEY") || strings.Contains(string(page), "the-real-value") {
						t.Errorf("%q, body %t, HTTP/2 %t: got %d %q", row.action, inBody, http2, res.StatusCode, page)
					}
				}
				w.waitFor(EventRequest)
				if len(served) > 0 || len(w.seen(EventBlock)) > 0 != row.event || len(ended) > 0 != row.terminates {
					t.Errorf("%q, body %t, HTTP/2 %t: %d requests arrived, events %+v, ended %d", row.action, inBody, http2, len(served), w.seen(EventBlock), len(ended))
				}
			}
		}
	}
}

// TestProof shows on which connections a secret goes out.
func TestProof(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name       string
		origin     string
		cfg        Config
		plain      bool // the secret may go out without TLS
		unresolved bool
		goes       bool
	}{
		{"verified", "https://" + site, Config{}, false, false, true},
		{"not verified", "https://" + site, Config{SkipVerify: true}, false, false, false},
		{"not verified, but it may go out plain", "https://" + site, Config{SkipVerify: true}, true, false, true},
		{"a name that wasn't resolved", "https://" + site, Config{}, false, true, false},
		{"plain", "http://" + site, Config{}, false, false, false},
		{"plain, as it may", "http://" + site, Config{}, true, false, true},
		{"plain, of a name that wasn't resolved", "http://" + site, Config{}, true, true, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			set, _, err := secret.New(secret.Config{Secrets: []secret.Secret{{EnvVar: "KEY", Value: secret.NewValue("the-real-value"), AllowHosts: []string{site}, AllowPlain: row.plain}}})
			if err != nil {
				t.Fatal(err)
			}
			row.cfg.Secrets = set
			w := newWorld(t, row.cfg)
			w.resolved = func(string) bool { return !row.unresolved }
			got := make(chan string, 1)
			handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				got <- r.Header.Get("Authorization")
				_, _ = io.WriteString(w, r.Header.Get("Authorization"))
			})
			w.serveTLS(handler, nil)
			w.servePlain(handler)
			req, _ := http.NewRequestWithContext(t.Context(), "GET", row.origin, nil)
			req.Header.Set("Authorization", "$MSB_KEY")
			res, err := w.client(false).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			echo, _ := io.ReadAll(res.Body)
			_ = res.Body.Close()
			if strings.Contains(string(echo), "the-real-value") {
				t.Errorf("the guest got %q", echo)
			}
			switch {
			case !row.goes && (res.StatusCode != http.StatusForbidden || len(got) > 0):
				t.Errorf("got %d, the server %d requests", res.StatusCode, len(got))
			case row.goes && (res.StatusCode != http.StatusOK || <-got != "the-real-value" || string(echo) != "$MSB_KEY"):
				t.Errorf("got %d %q", res.StatusCode, echo)
			}
		})
	}
}

// TestInjectedLength shows how a body with a secret in it is framed: with its new
// length if it is small, in chunks if not.
func TestInjectedLength(t *testing.T) {
	t.Parallel()
	set, _, err := secret.New(secret.Config{Secrets: []secret.Secret{{EnvVar: "KEY", Value: secret.NewValue("the-real-value"), AllowHosts: []string{site}, InjectBody: true}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, http2 := range []bool{false, true} {
		w := newWorld(t, Config{Secrets: set})
		length := make(chan int64, 1)
		w.serveTLS(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			if !strings.Contains(string(body), `"the-real-value"`) {
				t.Errorf("got %.60q", body)
			}
			length <- r.ContentLength
		}), nil)
		client := w.client(http2)
		for _, row := range []struct {
			padding int
			want    int64
		}{{0, 21}, {60_000, 60_021}, {70_000, -1}} {
			res, err := client.Post("https://"+site, "application/json", strings.NewReader(`["$MSB_KEY","`+strings.Repeat("x", row.padding)+`"]`))
			if err != nil {
				t.Fatal(err)
			}
			_ = res.Body.Close()
			if got := <-length; got != row.want {
				t.Errorf("HTTP/2 %t, %d bytes: got %d, want %d", http2, row.padding, got, row.want)
			}
		}
	}
}

// TestTrace shows that TRACE, whose answer is the request, is refused where there
// are secrets: row S-19.
func TestTrace(t *testing.T) {
	t.Parallel()
	for _, secrets := range []bool{false, true} {
		cfg := Config{}
		if secrets {
			set, _, err := secret.New(secret.Config{Secrets: []secret.Secret{{EnvVar: "KEY", Value: secret.NewValue("the-real-value"), AllowHosts: []string{site}}}})
			if err != nil {
				t.Fatal(err)
			}
			cfg.Secrets = set
		}
		w := newWorld(t, cfg)
		w.serveTLS(http.HandlerFunc(hello), nil)
		got := talk(t, w.mustHandshake("http/1.1"), "TRACE / HTTP/1.1\r\nHost: "+site+"\r\nConnection: close\r\n\r\n")
		if strings.HasPrefix(got, "HTTP/1.1 405") != secrets {
			t.Errorf("secrets %t: got %.60q", secrets, got)
		}
	}
}

// TestTrailerNames shows that a placeholder among the names of trailers, which are
// sent before the body, is found before anything is sent.
func TestTrailerNames(t *testing.T) {
	t.Parallel()
	set, _, err := secret.New(secret.Config{Secrets: []secret.Secret{{EnvVar: "TOKEN", Value: secret.NewValue("the-value-of-it"), AllowHosts: []string{"other.example"}}}})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, Config{Secrets: set})
	var heard atomic.Int64
	w.serveTLS(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { heard.Add(1); _, _ = io.ReadAll(r.Body) }), nil)
	c := w.mustHandshake("http/1.1")
	got := talk(t, c, "POST / HTTP/1.1\r\nHost: "+site+"\r\nConnection: close\r\nTrailer: $MSB_TOKEN\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n$MSB_TOKEN: x\r\n\r\n")
	if !strings.HasPrefix(got, "HTTP/1.1 403") || heard.Load() != 0 {
		t.Errorf("got %q, and the server heard %d requests", got, heard.Load())
	}
	if e := w.waitFor(EventBlock); e.Secret.Place != secret.PlaceHeaderName {
		t.Errorf("got %+v", e)
	}
}
