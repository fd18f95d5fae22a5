package mitm

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/sluicenet/sluice/mitm/secret"
)

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
