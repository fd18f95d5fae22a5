package mitm

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/sluicenet/sluice/mitm/secret"
)

var canaryRequests = flag.Int("canary", 2000, "how many random requests TestCanary makes")

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

// A part is a text of a request, and what should arrive of it.
type part struct {
	sent, arrives string
	placeholder   bool // holds the placeholder
	unfit         bool // and so that it can't be replaced where it stands
}

// randomPart returns words with, sometimes, the placeholder among them. Each spelling
// is one of spellings; as says how the canary must be spelled in its place.
func randomPart(rnd *rand.Rand, permitted bool, words []string, spellings []secret.Spelling, as func(secret.Spelling) (string, bool)) part {
	var p part
	for range 1 + rnd.IntN(3) {
		word := words[rnd.IntN(len(words))]
		p.sent, p.arrives = p.sent+word, p.arrives+word
		if rnd.IntN(6) > 0 {
			continue
		}
		p.placeholder = true
		spelling := spellings[rnd.IntN(len(spellings))]
		in := spell(rnd, spelling)
		p.sent += in + "."
		if permitted {
			out, fits := as(spelling)
			p.arrives, p.unfit = p.arrives+out+".", p.unfit || !fits
		} else {
			p.arrives += in + "."
		}
	}
	return p
}

// spell writes the placeholder with some of its characters escaped.
func spell(rnd *rand.Rand, spelling secret.Spelling) string {
	var b strings.Builder
	escaped := rnd.IntN(len(placeholder)) // this one at least
	for i, c := range []byte(placeholder) {
		hex := []string{"%02x", "%02X"}[rnd.IntN(2)]
		switch {
		case spelling == secret.Raw, i != escaped && rnd.IntN(2) == 0:
			b.WriteByte(c)
		case spelling == secret.Percent:
			fmt.Fprintf(&b, "%%"+hex, c)
		default:
			fmt.Fprintf(&b, `\u00`+hex, c)
		}
	}
	return b.String()
}

// A canaryCase is one random request and what should become of it.
type canaryCase struct {
	id                   string
	http2, tls           bool
	host, method, kind   string
	path, query, body    part
	name                 string // of the header
	value, trailer       part
	hasBody, chunked     bool
	expects              bool // a 100 (Continue), for which it doesn't wait
	headerName           bool // the name has the placeholder
	allowed              bool // the canary may go there
	headBlocked, blocked bool // by its head; by anything
}

var plainWords = []string{"abc", "x1", "MSB_KEY", "q.", "-", "_KEY"}

func (a *aviary) randomCase(rnd *rand.Rand, n int) *canaryCase {
	c := &canaryCase{id: strconv.Itoa(n), http2: rnd.IntN(2) == 0, tls: rnd.IntN(8) > 0}
	c.host = []string{site, site, site, evil, unresolved}[rnd.IntN(5)]
	c.allowed = c.tls && c.host == site
	c.method = []string{"POST", "PUT", "DELETE", "PATCH", "GET", "HEAD", "OPTIONS"}[rnd.IntN(7)]
	c.kind = []string{"text/plain", "application/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"}[rnd.IntN(4)]
	c.hasBody, c.chunked, c.expects = c.method != "GET" && c.method != "HEAD" && rnd.IntN(4) > 0, rnd.IntN(2) == 0, rnd.IntN(10) == 0
	quoted, _ := json.Marshal(canary)
	percent := func(s secret.Spelling) (string, bool) { return url.QueryEscape(canary), s != secret.JSON }
	like := func(s secret.Spelling) (string, bool) {
		return []string{canary, url.QueryEscape(canary), string(quoted[1 : len(quoted)-1])}[s], true
	}
	inBody := like
	switch c.kind {
	case "application/x-www-form-urlencoded":
		inBody = percent
	case "application/json":
		inBody = func(s secret.Spelling) (string, bool) { return like(max(s, secret.JSON*(1-s%2))) }
	case "multipart/form-data; boundary=x":
		inBody = func(secret.Spelling) (string, bool) { return "", false }
	}
	uri := []secret.Spelling{secret.Raw, secret.Percent}
	all := []secret.Spelling{secret.Raw, secret.Percent, secret.JSON}
	c.path = randomPart(rnd, false, plainWords, uri, like)
	c.query = randomPart(rnd, c.allowed && a.permit, append(plainWords, "a=", "&b="), uri, percent)
	c.name = []string{"Authorization", "X-Api-Key", "Cookie", "User-Agent", "Referer", "Origin", "X-Forwarded-Host"}[rnd.IntN(7)]
	reflected := c.name != "Authorization" && c.name != "X-Api-Key" && c.name != "Cookie"
	c.value = randomPart(rnd, c.allowed && !reflected, plainWords, all, like)
	if c.name == "Authorization" && rnd.IntN(2) == 0 {
		c.value.sent, c.value.arrives = basicAuth("u:"+c.value.sent), basicAuth("u:"+c.value.arrives)
	}
	c.headerName = rnd.IntN(12) == 0
	if c.hasBody {
		c.body = randomPart(rnd, c.allowed && a.permit, append(plainWords, `\`, "%", "%2", `\u00`, "$MSB_KE"), all, inBody)
	}
	if c.hasBody && (c.http2 || c.chunked) {
		c.trailer = randomPart(rnd, false, plainWords, all, like)
	}
	c.headBlocked = !c.allowed && (c.path.placeholder || c.query.placeholder || c.value.placeholder || c.headerName)
	c.blocked = c.headBlocked || !c.allowed && (c.body.placeholder || c.trailer.placeholder) || c.body.unfit
	return c
}

func basicAuth(credentials string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(credentials))
}

// header returns the case's fields but those that say where the body ends.
func (c *canaryCase) header() http.Header {
	h := http.Header{"X-Case": {c.id}, "Content-Type": {c.kind}, c.name: {c.value.sent}}
	if c.headerName {
		h["X-"+placeholder] = []string{"1"}
	}
	if c.hasBody && c.expects {
		h["Expect"] = []string{"100-continue"}
	}
	if len(c.id)%2 == 0 {
		h["Accept-Encoding"] = []string{"gzip, br"}
	}
	return h
}

// TestCanary makes random requests, in every place, spelling and split, over both
// versions of HTTP, by kept connections, to hosts that may have the canary and to
// others. It arrives exactly where it is permitted, what holds a placeholder that
// must not go out arrives nowhere, and nothing that the guest gets shows the canary,
// however the server echoes it.
func TestCanary(t *testing.T) {
	t.Parallel()
	for _, permit := range []bool{false, true} {
		t.Run(fmt.Sprintf("permit=%t", permit), func(t *testing.T) {
			t.Parallel()
			a := newAviary(t, permit)
			g := &canaryGuest{aviary: a, conns: make(map[string]net.Conn)}
			t.Cleanup(g.close)
			rnd := rand.New(rand.NewPCG(21, 22))
			delivered, blocked := 0, 0
			for n := range *canaryRequests / 2 {
				c := a.randomCase(rnd, n)
				status, got := g.do(rnd, c)
				if form := shows(got); form != "" {
					t.Fatalf("%+v: the guest got %s in %q", c, form, got)
				}
				s := a.sighting(c.id)
				switch {
				case c.headBlocked && s != nil, c.blocked && s != nil && s.complete:
					t.Fatalf("%+v: arrived as %+v", c, s)
				case c.blocked && status != 0 && status != http.StatusForbidden && s == nil:
					t.Fatalf("%+v: answered %d, %q", c, status, got)
				case c.blocked:
					blocked++
					g.forget(c) // the Proxy needn't read what follows
				case s == nil || !s.complete:
					t.Fatalf("%+v: didn't arrive: %+v; answered %d, %q", c, s, status, got)
				default:
					delivered++
					c.check(t, s)
				}
				a.mu.Lock()
				clear(a.seen)
				a.mu.Unlock()
			}
			for _, kind := range []string{EventInject, EventSkip, EventBlock, EventRedact} {
				if len(a.world.seen(kind)) == 0 {
					t.Errorf("no event %s", kind)
				}
			}
			if delivered < *canaryRequests/10 || blocked < *canaryRequests/10 {
				t.Errorf("%d delivered, %d blocked: too few to tell", delivered, blocked)
			}
		})
	}
}

// check compares what arrived.
func (c *canaryCase) check(t *testing.T, s *sighting) {
	t.Helper()
	if want := "/" + c.path.arrives + "?" + c.query.arrives; s.uri != want || s.method != c.method {
		t.Fatalf("%+v: arrived as %s %s, want %s", c, s.method, s.uri, want)
	}
	if got := s.header[c.name]; len(got) != 1 || got[0] != c.value.arrives {
		t.Fatalf("%+v: %s arrived as %q, want %q", c, c.name, got, c.value.arrives)
	}
	if s.body != c.body.arrives {
		t.Fatalf("%+v: body arrived as %q, want %q", c, s.body, c.body.arrives)
	}
	if got := s.trailer.Get("X-Sum"); got != c.trailer.arrives {
		t.Fatalf("%+v: trailer arrived as %q, want %q", c, got, c.trailer.arrives)
	}
}

// A canaryGuest makes the requests. Of HTTP/1 it writes the bytes itself, in pieces,
// and keeps its connections; it belongs to one goroutine.
type canaryGuest struct {
	*aviary
	conns map[string]net.Conn
}

func (g *canaryGuest) close() {
	for _, c := range g.conns {
		_ = c.Close()
	}
}

// forget closes the connection on which a case was sent, if it is kept.
func (g *canaryGuest) forget(c *canaryCase) {
	if conn := g.conns[c.route()]; conn != nil && !c.http2 {
		delete(g.conns, c.route())
		_ = conn.Close()
	}
}

// route names the connections on which a case may be sent.
func (c *canaryCase) route() string { return fmt.Sprint(c.tls, c.host) }

// do makes a request, and returns the answer's status, 0 if there is none, and
// everything that the guest got.
func (g *canaryGuest) do(rnd *rand.Rand, c *canaryCase) (status int, got string) {
	if c.http2 {
		return g.do2(rnd, c)
	}
	return g.do1(c, shred(rnd, c.bytes(rnd)))
}

// shred cuts a text into pieces.
func shred(rnd *rand.Rand, text string) (pieces []string) {
	for text != "" {
		n := min(len(text), 1+rnd.IntN(1+rnd.IntN(200)))
		pieces, text = append(pieces, text[:n]), text[n:]
	}
	return pieces
}

// bytes returns the request as HTTP/1 has it.
func (c *canaryCase) bytes(rnd *rand.Rand) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s /%s?%s HTTP/1.1\r\nHost: %s\r\n", c.method, c.path.sent, c.query.sent, c.host)
	for name, values := range c.header() {
		fmt.Fprintf(&b, "%s: %s\r\n", name, values[0])
	}
	switch {
	case !c.hasBody:
		b.WriteString("\r\n")
	case !c.chunked:
		fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n%s", len(c.body.sent), c.body.sent)
	default:
		b.WriteString("Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n")
		for _, chunk := range shred(rnd, c.body.sent) {
			fmt.Fprintf(&b, "%x\r\n%s\r\n", len(chunk), chunk)
		}
		fmt.Fprintf(&b, "0\r\nX-Sum: %s\r\n\r\n", c.trailer.sent)
	}
	return b.String()
}

// do1 sends the pieces of a request over HTTP/1.
func (g *canaryGuest) do1(c *canaryCase, pieces []string) (status int, got string) {
	key := c.route()
	conn := g.conns[key]
	if conn == nil {
		var err error
		if conn, err = g.connect(c); err != nil {
			return 0, err.Error()
		}
	}
	delete(g.conns, key)
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		for _, p := range pieces {
			if _, err := io.WriteString(conn, p); err != nil {
				return
			}
		}
	}()
	var raw bytes.Buffer
	r := bufio.NewReader(io.TeeReader(conn, &raw))
	for {
		res, err := http.ReadResponse(r, &http.Request{Method: c.method})
		if err != nil {
			_ = conn.Close()
			<-wrote
			return 0, raw.String() + err.Error()
		}
		if res.StatusCode < 200 {
			continue
		}
		body, err := io.ReadAll(res.Body)
		got = raw.String() + string(body) + fmt.Sprint(res.Header, res.Trailer)
		if err != nil || res.Close {
			_ = conn.Close()
			<-wrote
			return res.StatusCode, got
		}
		<-wrote
		g.conns[key] = conn
		return res.StatusCode, got
	}
}

func (g *canaryGuest) connect(c *canaryCase) (net.Conn, error) {
	if !c.tls {
		return net.Dial("tcp", g.plain)
	}
	cfg := g.guestTLS("http/1.1")
	cfg.ServerName = c.host
	return tls.Dial("tcp", g.secure, cfg)
}

// do2 makes a request over HTTP/2, its body a DATA frame for each piece.
func (g *canaryGuest) do2(rnd *rand.Rand, c *canaryCase) (status int, got string) {
	target := "http://" + c.host + "/" + c.path.sent + "?" + c.query.sent
	if c.tls {
		target = "https" + target[len("http"):]
	}
	r, err := http.NewRequest(c.method, target, nil)
	if err != nil {
		return 0, err.Error()
	}
	r.Header = c.header()
	if c.hasBody {
		r.Trailer = http.Header{"X-Sum": nil}
		r.Body = &shreds{pieces: shred(rnd, c.body.sent), end: func() { r.Trailer["X-Sum"] = []string{c.trailer.sent} }}
	}
	res, err := g.clients[true].Do(r)
	if err != nil {
		return 0, strings.ReplaceAll(err.Error(), target, "")
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return res.StatusCode, string(body) + fmt.Sprint(res.Header, res.Trailer, err)
}

// Shreds is a body that comes piece by piece.
type shreds struct {
	pieces []string
	end    func() // at its end
}

func (s *shreds) Read(p []byte) (int, error) {
	if len(s.pieces) == 0 {
		if s.end != nil {
			s.end()
			s.end = nil
		}
		return 0, io.EOF
	}
	n := copy(p, s.pieces[0])
	if s.pieces[0] = s.pieces[0][n:]; s.pieces[0] == "" {
		s.pieces = s.pieces[1:]
	}
	return n, nil
}

func (s *shreds) Close() error { return nil }

// TestCanaryEverySplit cuts a request with the placeholder in every place that may be
// permitted at every byte, over HTTP/1.
func TestCanaryEverySplit(t *testing.T) {
	t.Parallel()
	a := newAviary(t, true)
	g := &canaryGuest{aviary: a, conns: make(map[string]net.Conn)}
	t.Cleanup(g.close)
	percent := url.QueryEscape(canary)
	quoted, _ := json.Marshal(canary)
	for _, host := range []string{site, evil} {
		length := 1
		for n := 0; n < length; n++ {
			c := &canaryCase{
				id: host + strconv.Itoa(n), tls: true, host: host, method: "POST", kind: "application/json", name: "Authorization", hasBody: true, chunked: n%2 == 0,
				path: part{sent: "p/%24MSB_KEY", arrives: "p/%24MSB_KEY"}, query: part{sent: "k=$MSB%5fKEY", arrives: "k=" + percent},
				value: part{sent: basicAuth("u:" + placeholder), arrives: basicAuth("u:" + canary)}, body: part{sent: `{"k":"\u0024MSB_KEY"}`, arrives: `{"k":` + string(quoted) + `}`},
			}
			text := c.bytes(rand.New(rand.NewPCG(1, 1)))
			length = len(text)
			status, got := g.do1(c, []string{text[:n], text[n:]})
			if form := shows(got); form != "" {
				t.Fatalf("cut at %d: the guest got %s in %q", n, form, got)
			}
			s := a.sighting(c.id)
			switch {
			case host == site && (s == nil || !s.complete):
				t.Fatalf("cut at %d: didn't arrive: %+v; answered %d, %q", n, s, status, got)
			case host == site:
				c.check(t, s)
			case s != nil || status != http.StatusForbidden:
				t.Fatalf("cut at %d: arrived as %+v; answered %d, %q", n, s, status, got)
			}
		}
	}
}

// TestCanaryEveryFrame is TestCanaryEverySplit over HTTP/2: the head is cut between
// HEADERS and CONTINUATION, the body between DATA frames, one of them padded. A body
// in which nothing can be replaced is refused at every cut.
func TestCanaryEveryFrame(t *testing.T) {
	t.Parallel()
	a := newAviary(t, true)
	f, stream := newFramer(t, a.world), uint32(1)
	quoted, _ := json.Marshal(canary)
	text := `{"k":"\u0024MSB_KEY","l":"$MSB_KEY"}`
	arrives := strings.NewReplacer(`"\u0024MSB_KEY"`, string(quoted), `"$MSB_KEY"`, string(quoted)).Replace(text)
	for _, kind := range []string{"application/json", "multipart/form-data; boundary=x"} {
		head := 1
		for n := 0; n < max(head, len(text)); n++ {
			id := kind + strconv.Itoa(n)
			f.buf.Reset()
			for _, h := range [][2]string{
				{":method", "POST"}, {":scheme", "https"}, {":authority", site}, {":path", "/p?k=%24MSB_KEY"}, {"content-type", kind},
				{"x-case", id}, {"authorization", basicAuth("u:" + placeholder)}, {"x-key", placeholder},
			} {
				if err := f.enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1], Sensitive: true}); err != nil {
					t.Fatal(err)
				}
			}
			block := f.buf.Bytes()
			head = len(block)
			i, j := n%len(block), n%len(text)
			for _, err := range []error{
				f.WriteWindowUpdate(0, 1<<16), // for the answer
				f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block[:i]}),
				f.WriteContinuation(stream, true, block[i:]),
				f.WriteDataPadded(stream, false, []byte(text[:j]), make([]byte, n%7)),
				f.WriteData(stream, true, []byte(text[j:])),
			} {
				if err != nil {
					t.Fatal(err)
				}
			}
			status, s := f.outcome(stream), a.sighting(id)
			stream += 2
			switch percent := url.QueryEscape(canary); {
			case kind != "application/json" && (s != nil && s.complete || status == "200"):
				t.Fatalf("cut at %d: arrived as %+v; answered %s", n, s, status)
			case kind != "application/json":
				_ = f.conn.Close() // as the Proxy does
				f, stream = newFramer(t, a.world), 1
			case s == nil || !s.complete || s.body != arrives || s.uri != "/p?k="+percent ||
				s.header.Get("Authorization") != basicAuth("u:"+canary) || s.header.Get("X-Key") != canary:
				t.Fatalf("cut at %d: arrived as %+v; answered %s", n, s, status)
			}
		}
	}
}

// TestCanaryRotation replaces the canary while requests are under way: each arrives
// with one value in all of its places, and neither comes back.
func TestCanaryRotation(t *testing.T) {
	t.Parallel()
	a := newAviary(t, true)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
			if _, err := a.proxy.cfg.Secrets.Put("KEY", secret.NewValue(fmt.Sprintf("value number %06d", n))); err != nil {
				t.Error(err)
			}
		}
	})
	for n := range 200 {
		id := strconv.Itoa(n)
		r, err := http.NewRequest("POST", "https://"+site+"/", &shreds{pieces: []string{"$MSB", "_KEY"}})
		if err != nil {
			t.Fatal(err)
		}
		r.Header = http.Header{"X-Case": {id}, "Content-Type": {"text/plain"}, "Authorization": {placeholder}}
		res, err := a.clients[n%2 == 0].Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if got := string(body) + fmt.Sprint(res.Header, res.Trailer); strings.Contains(got, "value number") {
			t.Fatalf("the guest got %q, %v", got, err)
		}
		if s := a.sighting(id); s == nil || s.body != s.header.Get("Authorization") || s.body == placeholder {
			t.Fatalf("arrived as %+v", s)
		}
	}
	close(stop)
	wg.Wait()
}

// TestCanaryBrokenServer: what a server says that isn't HTTP doesn't come back either.
func TestCanaryBrokenServer(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{
		"no status line":  canary + "\r\n\r\n",
		"reason phrase":   "HTTP/1.1 200 " + canary + "\r\nContent-Length: 0\r\n\r\n",
		"header line":     "HTTP/1.1 200 OK\r\n" + canary + "\r\n\r\n",
		"header's name":   "HTTP/1.1 200 OK\r\n" + strings.ReplaceAll(canary, "\"", "") + " : 1\r\n\r\n",
		"quoted value":    "HTTP/1.1 200 OK\r\nContent-Length: \x01" + canary + "\r\n\r\n",
		"status":          "HTTP/1.1 " + canary + " OK\r\n\r\n",
		"length":          "HTTP/1.1 200 OK\r\nContent-Length: " + canary + "\r\n\r\n",
		"encoding":        "HTTP/1.1 200 OK\r\nTransfer-Encoding: " + canary + "\r\n\r\n",
		"chunk":           "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + canary + "\r\n",
		"chunk extension": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;" + canary + "\r\nx\r\n0\r\n\r\n",
		"gzip":            "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + canary,
		"before it":       canary + "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		"after it":        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" + canary,
		"cut value":       "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 99\r\n\r\n" + canary,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAviary(t, true)
			a.serveTLSConns(&tls.Config{NextProtos: []string{"http/1.1"}}, func(c net.Conn) {
				r, err := http.ReadRequest(bufio.NewReader(c))
				if err == nil && r.Header.Get("Authorization") == canary {
					_, _ = io.WriteString(c, answer)
				}
			})
			conn := a.mustHandshake("http/1.1")
			got := talk(t, conn, "GET / HTTP/1.1\r\nHost: "+site+"\r\nAuthorization: "+placeholder+"\r\nConnection: close\r\n\r\n")
			if form := shows(got); form != "" {
				t.Errorf("the guest got %s in %q", form, got)
			}
			if got == "" && !errors.Is(conn.Close(), net.ErrClosed) {
				t.Logf("no answer")
			}
		})
	}
}
