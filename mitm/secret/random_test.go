package secret

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/url"
	"strings"
	"testing"
	"time"
)

// How many random requests TestRandomRequests makes, and how long at most: the race
// detector is slow.
const (
	randomCases = 100_000
	randomTime  = 20 * time.Second
)

// A text is made of pieces of which it is known what they become.
type text struct {
	in  string // what the guest sends
	out string // what arrives if the place is permitted
	// any says that there is a placeholder, and unfit that there is one in a spelling
	// that can't be replaced here.
	any, unfit bool
}

// randomText returns words with, sometimes, the placeholder among them, in a spelling
// that may stand in place.
func randomText(rnd *rand.Rand, place Place, kind string) text {
	var t text
	for range 1 + rnd.IntN(4) {
		word := []string{"abc", "x1", "%2", "$MSB_KE", `\u00`, "MSB_KEY", "%", "q", "%2524MSB_KEY"}[rnd.IntN(9)]
		t.in, t.out = t.in+word+".", t.out+word+"."
		if rnd.IntN(4) == 0 {
			t.any = true
			in, spelling := randomSpelling(rnd)
			t.in += in
			out, fits := respelled(place, kind, spelling)
			t.out, t.unfit = t.out+out, t.unfit || !fits
		}
	}
	return t
}

// randomSpelling writes the placeholder.
func randomSpelling(rnd *rand.Rand) (string, Spelling) {
	const placeholder = "$MSB_KEY"
	spelling := Spelling(rnd.IntN(3))
	if spelling == Raw {
		return placeholder, Raw
	}
	var b strings.Builder
	escaped := rnd.IntN(len(placeholder)) // this one at least
	for i, c := range []byte(placeholder) {
		switch {
		case i != escaped && rnd.IntN(2) == 0:
			b.WriteByte(c)
		case spelling == Percent:
			b.WriteString(anyCase(rnd, fmt.Sprintf("%%%02x", c)))
		default:
			b.WriteString(`\u` + anyCase(rnd, fmt.Sprintf("%04x", c)))
		}
	}
	return b.String(), spelling
}

// respelled returns the value as it should stand in a place, by the standard library.
func respelled(place Place, kind string, found Spelling) (string, bool) {
	quoted, _ := json.Marshal(canary)
	switch {
	case place == PlaceQuery, kind == "application/x-www-form-urlencoded":
		return url.QueryEscape(canary), found != JSON
	case found == Percent:
		return url.QueryEscape(canary), true
	case found == JSON, kind == "application/json":
		return string(quoted[1 : len(quoted)-1]), true
	}
	return canary, true
}

// TestRandomRequests sends requests with placeholders in random places, spellings and
// pieces to random hosts: the value arrives where it is permitted and nowhere else,
// and what arrives is otherwise what was sent.
func TestRandomRequests(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(11, 12))
	sets := map[bool]*Set{true: newSet(t, key(everywhere)), false: newSet(t, key())}
	headers := []string{"Authorization", "X-Api-Key", "Cookie", "User-Agent", "Referer", "Origin", "X-Forwarded-Host"}
	blocked, made := 0, 0
	for start := time.Now(); made < randomCases && time.Since(start) < randomTime; made++ {
		permit := rnd.IntN(2) == 0
		to := []Destination{listed, listed, below, elsewhere, plain, unverified}[rnd.IntN(6)]
		kind := []string{"text/plain", "application/json", "application/x-www-form-urlencoded", "image/png"}[rnd.IntN(4)]
		path, query, body := randomText(rnd, PlacePath, ""), randomText(rnd, PlaceQuery, ""), randomText(rnd, PlaceBody, kind)
		name, value := headers[rnd.IntN(len(headers))], randomText(rnd, PlaceHeader, "")
		value.unfit = false
		if name == "Authorization" && rnd.IntN(2) == 0 {
			value.in, value.out = basic("u:"+value.in), basic("u:"+value.out)
		}
		r := sets[permit].Request(to)
		h := Head{Method: "POST", Path: "/" + path.in, Query: query.in, Header: map[string][]string{name: {value.in}, "Content-Type": {kind}}, HasBody: true}
		err := r.Head(&h)
		allowed := to == listed || to == below
		wrong := func(place, got, want string) {
			t.Fatalf("case %d, to %v, permitted %t: %s %q, want %q", made, to, permit, place, got, want)
		}
		if want := !allowed && (path.any || query.any || value.any) || allowed && permit && query.unfit; want != errors.As(err, new(*Violation)) {
			wrong("head: error", fmt.Sprint(err), fmt.Sprint(want))
		}
		if err != nil {
			blocked++
			continue
		}
		if h.Path != "/"+path.in {
			wrong("path", h.Path, path.in)
		}
		if want := choose(allowed && permit, query); h.Query != want {
			wrong("query", h.Query, want)
		}
		if want := choose(allowed && !reflected(name) && value.any, value); h.Header[name][0] != want {
			wrong(name, h.Header[name][0], want)
		}
		src, reframe := r.Body(&pieces{list: split(rnd, body.in), err: io.EOF, last: rnd.IntN(2) == 0})
		got, err := io.ReadAll(src)
		if want := body.any && (!allowed || permit && (body.unfit || kind == "image/png")); want != errors.As(err, new(*Violation)) {
			wrong("body: error", fmt.Sprint(err), fmt.Sprint(want))
		}
		if err != nil {
			blocked++
			if strings.Contains(string(got), canary) && !(allowed && permit) {
				wrong("refused body", string(got), "no value")
			}
			continue
		}
		want := choose(allowed && permit, body)
		if string(got) != want {
			wrong("body", string(got), want)
		}
		if len(got) != len(body.in) && !reframe {
			wrong("re-framed", "false", "true")
		}
		// What the host echoes doesn't come back.
		if allowed {
			p := r.Response(200, map[string][]string{"Content-Type": {kind}})
			echo, err := io.ReadAll(p.Body(&pieces{list: split(rnd, string(got)+h.Query+h.Header[name][0]), err: io.EOF}))
			if kind == "image/png" != errors.As(err, new(*Leak)) && want+h.Query != body.in+query.in {
				wrong("echo: error", fmt.Sprint(err), kind)
			}
			if holds(string(echo), canary) {
				wrong("echo", string(echo), "no value")
			}
		}
	}
	if blocked < made/4 || blocked > made*3/4 {
		t.Errorf("%d of %d were blocked: too few or too many to tell", blocked, made)
	}
}

func choose(replaced bool, t text) string {
	if replaced {
		return t.out
	}
	return t.in
}

func split(rnd *rand.Rand, in string) (list [][]byte) {
	for rest := []byte(in); len(rest) > 0; {
		n := 1 + rnd.IntN(min(len(rest), 1+rnd.IntN(16)))
		list, rest = append(list, rest[:n]), rest[n:]
	}
	return list
}

// TestBodyEverySplit cuts a body with all spellings at every byte.
func TestBodyEverySplit(t *testing.T) {
	t.Parallel()
	in := `{"a":"$MSB_KEY","b":"\u0024MSB\u005fKEY","c":"%24MSB%5fKEY","d":"$MSB_KE"}`
	set := newSet(t, key(everywhere))
	want, _, _, err := sendBody(t, set, listed, map[string][]string{"Content-Type": {"application/json"}}, in)
	if err != nil {
		t.Fatal(err)
	}
	for i := range in {
		for j := i; j < len(in); j++ {
			r := set.Request(listed)
			if err := r.Head(&Head{Header: map[string][]string{"Content-Type": {"application/json"}}}); err != nil {
				t.Fatal(err)
			}
			body, _ := r.Body(&pieces{list: [][]byte{[]byte(in[:i]), []byte(in[i:j]), []byte(in[j:])}, err: io.EOF})
			if got, err := io.ReadAll(body); string(got) != want || err != nil {
				t.Fatalf("split at %d and %d: %q, %v, want %q", i, j, got, err, want)
			}
		}
	}
}

// TestNoAllocs pins what doesn't hold a placeholder or a value to cost nothing but the
// Request.
func TestNoAllocs(t *testing.T) {
	set := newSet(t, manySecrets(5)...)
	text := bodies()["text"][:64<<10]
	m, values := set.current.Load().placeholders, set.Request(listed).scope.values.matcher
	header := map[string][]string{"Authorization": {basic("user:password")}, "User-Agent": {"curl/8"}, "Cookie": {"a=b; c=d"}}
	answer := map[string][]string{"Server": {"x"}, "Location": {"https://example.com/%20"}}
	buf := make([]byte, 4096)
	src := &endless{text}
	to := set.Request(elsewhere)
	body, _ := to.Body(src)
	from := set.Request(listed)
	response := from.Response(200, map[string][]string{"Content-Type": {"text/plain"}}).Body(src)
	for name, row := range map[string]struct {
		f    func()
		want float64
	}{
		"placeholders": {func() { m.find(text, 0, false) }, 0},
		"values":       {func() { values.find(text, 0, false) }, 0},
		"request":      {func() { set.Request(elsewhere) }, 1},
		"head":         {func() { _ = to.Head(&Head{Method: "GET", Path: "/a", Query: "b=c", Header: header}) }, 0},
		"body":         {func() { _, _ = body.Read(buf) }, 0},
		"header":       {func() { from.Redact(answer) }, 0},
		"response":     {func() { _, _ = response.Read(buf) }, 0},
	} {
		if got := testing.AllocsPerRun(200, row.f); got > row.want {
			t.Errorf("%s: %v allocations, want %v", name, got, row.want)
		}
	}
}

// An endless reader repeats a text.
type endless struct{ text []byte }

func (e *endless) Read(p []byte) (int, error) { return copy(p, e.text), nil }
