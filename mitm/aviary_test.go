package mitm

import (
	"bytes"
	"compress/gzip"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/sluicenet/sluice/mitm/secret"
)

// The canary is a secret's value that no encoding leaves as it is. The guest knows
// its placeholder only.
const (
	canary      = `tok/Ab+9"c0ffee-Zz`
	placeholder = "$MSB_KEY"
)

// Hosts of the canary's tests; the site may have the canary.
const (
	evil       = "evil.example.com"
	unresolved = "unresolved.example.com" // may have it too, but isn't in the table of names
)

// spelled returns a text in the forms in which sluice may have sent it, and in those
// that a proxy's own output might have.
func spelled(text string) []string {
	quoted, _ := json.Marshal(text)
	escaped := string(quoted[1 : len(quoted)-1])
	forms := []string{text, url.QueryEscape(text), url.PathEscape(text), escaped, strings.ReplaceAll(escaped, "/", `\/`), fmt.Sprintf("%x", text), fmt.Sprint([]byte(text))}
	for before := range 3 {
		whole := base64.StdEncoding.EncodeToString([]byte("xx"[:before] + text))
		forms = append(forms, whole[(before*8+5)/6:(before+len(text))*8/6])
	}
	return forms
}

// canaryForms are those of the canary.
var canaryForms = spelled(canary)

// shows returns the form of the canary that a text holds, "" if none.
func shows(text string) string {
	for _, form := range canaryForms {
		if strings.Contains(text, form) {
			return form
		}
	}
	return ""
}

// An aviary is a world with a canary in it: a Proxy with one secret, between guests
// whose every byte is looked at and a server for all hosts that writes down and
// answers what it gets.
type aviary struct {
	*world
	permit  bool // the canary may stand in queries and bodies too
	secure  string
	plain   string
	log     bytes.Buffer // of the Proxy; read when it is closed
	clients map[bool]*http.Client

	mu    sync.Mutex // guards the following fields
	seen  map[string]*sighting
	leaks []string
}

// A sighting is a request as the server got it.
type sighting struct {
	method, uri, body string
	header, trailer   http.Header
	complete          bool
}

func newAviary(t *testing.T, permit bool) *aviary {
	t.Helper()
	set, _, err := secret.New(secret.Config{Secrets: []secret.Secret{{
		EnvVar: "KEY", Value: secret.NewValue(canary), AllowHosts: []string{site, unresolved}, InjectQuery: permit, InjectBody: permit,
	}}})
	if err != nil {
		t.Fatal(err)
	}
	a := &aviary{permit: permit, seen: make(map[string]*sighting)}
	t.Cleanup(func() { // after the Proxy's end
		if form := shows(a.log.String() + fmt.Sprintf("%+v", a.events)); form != "" {
			t.Errorf("the log or an event has %s", form)
		}
		for _, leak := range a.leaks {
			t.Error(leak)
		}
	})
	a.world = newWorld(t, Config{Secrets: set, Logger: slog.New(slog.NewTextHandler(&a.log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	a.resolved = func(name string) bool { return name != unresolved }
	a.serveTLS(http.HandlerFunc(a.answer), func(cfg *tls.Config) {
		cfg.Certificates = []tls.Certificate{a.leaf(nil, site, evil, unresolved)}
	})
	a.servePlain(http.HandlerFunc(a.answer))
	a.secure, a.plain = a.door(443), a.door(80)
	a.clients = map[bool]*http.Client{true: a.client(true), false: a.client(false)}
	return a
}

// answer is the server: it notes what it got, looks for the canary where it must not
// be, and sends back everything, the canary in a random form, in random pieces.
func (a *aviary) answer(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	id := r.Header.Get("X-Case")
	s := &sighting{r.Method, r.RequestURI, string(body), r.Header.Clone(), r.Trailer.Clone(), err == nil}
	path, query, _ := strings.Cut(r.RequestURI, "?")
	everywhere := []string{r.Method, r.Host, path, fmt.Sprint(r.Trailer)}
	permitted := r.TLS != nil && r.Host == site
	for name, values := range r.Header {
		everywhere = append(everywhere, name)
		if !permitted || name == "User-Agent" || name == "Referer" || name == "Origin" || strings.HasPrefix(name, "X-Forwarded-") {
			everywhere = append(everywhere, values...)
		}
	}
	if !permitted || !a.permit {
		everywhere = append(everywhere, query, string(body))
	}
	a.mu.Lock()
	a.seen[id] = s
	for _, text := range everywhere {
		decoded, _ := url.QueryUnescape(text)
		if form := shows(text + "\n" + decoded); form != "" {
			a.leaks = append(a.leaks, fmt.Sprintf("case %s, %s: the server got %s in %q", id, r.Host, form, text))
		}
	}
	a.mu.Unlock()

	n, _ := strconv.Atoi(id)
	rnd := rand.New(rand.NewPCG(uint64(n), 99))
	echo := r.RequestURI + " " + fmt.Sprint(r.Header, r.Trailer) + " " + string(body)
	if permitted && rnd.IntN(2) == 0 {
		echo += canaryForms[rnd.IntN(len(canaryForms)-5)] + "|" // those that sluice sends
	}
	if rnd.IntN(8) == 0 {
		w.Header().Set("Link", strings.Join(r.Header["Authorization"], ""))
		w.WriteHeader(http.StatusEarlyHints)
	}
	w.Header().Set("Content-Type", []string{"text/plain", "application/json", "image/png", "text/event-stream"}[rnd.IntN(4)])
	for name, values := range r.Header {
		w.Header()["Echo-"+name] = values
	}
	w.Header().Set("Location", "https://"+r.Host+r.RequestURI)
	w.Header().Set("Trailer", "Echo-Sum")
	out := io.Writer(w)
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") && rnd.IntN(2) == 0 {
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		defer z.Close()
		out = z
	}
	for rest := echo; rest != ""; {
		n := min(len(rest), 1+rnd.IntN(40))
		if _, err := io.WriteString(out, rest[:n]); err != nil {
			return
		}
		rest = rest[n:]
		if z, ok := out.(*gzip.Writer); ok {
			_ = z.Flush()
		}
		if rnd.IntN(3) == 0 {
			_ = http.NewResponseController(w).Flush()
		}
	}
	w.Header().Set("Echo-Sum", strings.Join(r.Header["Authorization"], ""))
}

// sighting returns what the server got of a case, nil for nothing.
func (a *aviary) sighting(id string) *sighting {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.seen[id]
}
