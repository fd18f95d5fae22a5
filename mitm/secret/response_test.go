package secret

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/url"
	"strings"
	"testing"
	"testing/iotest"
)

// forms returns a value in every form in which sluice can have sent it.
func forms(value string) map[string]string {
	quoted, _ := json.Marshal(value)
	escaped := string(quoted[1 : len(quoted)-1])
	percent := ""
	for _, c := range []byte(value) {
		percent += fmt.Sprintf("%%%02x", c)
	}
	all := map[string]string{
		"raw": value, "query": url.QueryEscape(value), "path": url.PathEscape(value), "percent": percent, "PERCENT": strings.ToUpper(percent),
		"JSON": escaped, "JSON, slashes": strings.ReplaceAll(escaped, "/", `\/`),
	}
	for before := range 3 {
		for name, e := range map[string]*base64.Encoding{"std": base64.StdEncoding, "raw": base64.RawStdEncoding, "url": base64.URLEncoding, "rawurl": base64.RawURLEncoding} {
			all[fmt.Sprintf("%s Base64 behind %d", name, before)] = e.EncodeToString([]byte("user:"[:before] + value + "!"[:before/2]))
		}
	}
	return all
}

// TestResponseForms: every form is replaced in a text, and ends what is no text, in a
// body that comes in any pieces; and in headers and trailers.
func TestResponseForms(t *testing.T) {
	t.Parallel()
	set := newSet(t, key())
	for name, form := range forms(canary) {
		for _, in := range []string{form, "before " + form, form + " after", "a " + form + "\n" + form + " z"} {
			for split, wrap := range map[string]func(io.Reader) io.Reader{"whole": func(r io.Reader) io.Reader { return r }, "bytes": iotest.OneByteReader} {
				r := set.Request(listed)
				p := r.Response(200, map[string][]string{"Content-Type": {"text/plain"}})
				got, err := io.ReadAll(p.Body(wrap(strings.NewReader(in))))
				if err != nil || holds(string(got), canary) || strings.Count(string(got), "MSB_KEY") != strings.Count(in, form) {
					t.Errorf("%s, %s: %q became %q, %v", name, split, in, got, err)
				}
				if found := kinds(r.Findings()); !strings.HasPrefix(found, "redact KEY: body") {
					t.Errorf("%s, %s: %s", name, split, found)
				}
				r = set.Request(listed)
				p = r.Response(200, map[string][]string{"Content-Type": {"image/png"}, "Content-Length": {"99"}})
				got, err = io.ReadAll(p.Body(wrap(strings.NewReader(in))))
				var l *Leak
				if !errors.As(err, &l) || p.Reframe || string(got) != in[:strings.Index(in, form)] && !strings.Contains(name, "Base64") {
					t.Errorf("%s, %s, no text: %q became %q, %v", name, split, in, got, err)
				}
				if found := kinds(r.Findings()); !strings.HasPrefix(found, "reset KEY: body") || l.Host != listed.Host {
					t.Errorf("%s, %s: %s", name, split, found)
				}
			}
		}
		r := set.Request(listed)
		header := map[string][]string{"Location": {"https://x/?k=" + form}, "X": {"nothing", form}}
		r.Response(302, header)
		trailer := map[string][]string{"X-Sum": {form}}
		r.RedactTrailer(trailer)
		early := map[string][]string{"Link": {form}}
		r.Redact(early)
		if text := fmt.Sprint(header, trailer, early); holds(text, canary) || strings.Count(text, "MSB_KEY") != 4 {
			t.Errorf("%s in a header or trailer: %s", name, text)
		}
		if found := r.Findings(); len(found) != 4 || found[0].Kind != Redact || found[2].Place != PlaceTrailer {
			t.Errorf("%s in a header or trailer: %s", name, kinds(found))
		}
	}
}

// holds reports whether a text has the value in it in one of its forms.
func holds(text, value string) bool {
	for _, form := range forms(value) {
		if core := strings.Trim(form, "="); strings.Contains(text, core) {
			return true
		}
	}
	return false
}

// TestResponseHeaderName: names have no case.
func TestResponseHeaderName(t *testing.T) {
	t.Parallel()
	value := "Token-ABCdef123"
	r := newSet(t, key(func(s *Secret) { s.Value = NewValue(value) })).Request(listed)
	header := map[string][]string{"X-Token-Abcdef123-Y": {"1"}, "token-abcdef123": {"2"}, "T%6fken%2dabcdef123": {"3"}, "Fine%20": {"4"}}
	r.Response(200, header)
	if found := r.Findings(); len(header) != 1 || len(found) != 1 || found[0].Place != PlaceHeaderName || found[0].Count != 3 {
		t.Errorf("header %v, found %v", header, found)
	}
}

// TestResponse goes through what a response can be.
func TestResponse(t *testing.T) {
	t.Parallel()
	packed := string(pack(t, "a "+canary+" ."))
	quoted, _ := json.Marshal(map[string]string{"k": canary})
	for _, row := range []struct {
		name, method  string
		status        int
		kind          string
		encoding      []string
		in, want, err string // err: part of the error
		found         string
		reframe       bool
	}{
		{"text", "GET", 200, "text/plain", nil, "a " + canary, "a $MSB_KEY", "", "redact KEY: body", true},
		{"nothing in it", "GET", 200, "text/plain", nil, "abc", "abc", "", "", true},
		{"error", "GET", 500, "text/html", nil, "a " + canary, "a $MSB_KEY", "", "redact KEY: body", true},
		{"events", "GET", 200, "text/event-stream", nil, "data: " + canary + "\n\n", "data: $MSB_KEY\n\n", "", "redact KEY: body", true},
		{"JSON", "GET", 200, "application/json", nil, string(quoted), `{"k":"$MSB_KEY"}`, "", "redact KEY: body, JSON-escaped", true},
		{"form", "GET", 200, "application/x-www-form-urlencoded", nil, `k=` + strings.ReplaceAll(canary, `"`, `\"`), "k=$MSB_KEY", "", "redact KEY: body, JSON-escaped", true},
		{"bytes", "GET", 200, "application/octet-stream", nil, "a " + canary, "a ", "reset KEY: body", "reset KEY: body", false},
		{"no type", "GET", 200, "", nil, "a " + canary, "a ", "reset KEY: body", "reset KEY: body", false},
		{"gRPC", "POST", 200, "application/grpc", nil, "\x00\x00\x00\x00\x16" + canary, "\x00\x00\x00\x00\x16", "reset KEY: body", "reset KEY: body", false},
		{"gzip", "GET", 200, "text/plain", []string{"gzip"}, packed, "a $MSB_KEY .", "", "redact KEY: body", true},
		{"x-gzip", "GET", 200, "text/plain", []string{"X-GZIP"}, packed, "a $MSB_KEY .", "", "redact KEY: body", true},
		{"gzip of bytes", "GET", 200, "image/png", []string{"gzip"}, packed, "a ", "reset KEY: body", "reset KEY: body", true},
		{"broken gzip", "GET", 200, "text/plain", []string{"gzip"}, packed[:len(packed)-4], "a $MSB_KEY .", "unexpected EOF", "redact KEY: body", true},
		{"no gzip", "GET", 200, "text/plain", []string{"gzip"}, "plain text", "", "gzip: invalid header", "", true},
		{"br", "GET", 200, "text/plain", []string{"br"}, "a " + canary, "a ", "reset KEY: body", "unscanned KEY: body, encoded; reset KEY: body", false},
		{"gzip twice", "GET", 200, "text/plain", []string{"gzip, gzip"}, "xyz", "xyz", "", "unscanned KEY: body, encoded", false},
		{"gzip and br", "GET", 200, "text/plain", []string{"gzip", "br"}, "xyz", "xyz", "", "unscanned KEY: body, encoded", false},
		{"identity", "GET", 200, "text/plain", []string{"identity"}, "a " + canary, "a $MSB_KEY", "", "redact KEY: body", true},
		{"partial", "GET", 206, "text/plain", nil, "a " + canary, "a ", "reset KEY: body", "unscanned KEY: body, partial; reset KEY: body", false},
		{"partial gzip", "GET", 206, "text/plain", []string{"gzip"}, packed[:20], packed[:20], "", "unscanned KEY: body, partial", false},
		{"HEAD", "HEAD", 200, "text/plain", []string{"gzip"}, "", "", "", "", false},
		{"no content", "GET", 204, "text/plain", nil, "", "", "", "", false},
		{"not modified", "GET", 304, "text/plain", []string{"gzip"}, "", "", "", "", false},
		{"upgrade", "GET", 101, "", nil, canary, canary, "", "unscanned KEY: body, upgraded", false},
	} {
		r := newSet(t, key()).Request(listed)
		if err := r.Head(&Head{Method: row.method}); err != nil {
			t.Fatal(err)
		}
		header := map[string][]string{"Content-Length": {"1"}, "Content-Digest": {"x"}}
		if row.kind != "" {
			header["Content-Type"] = []string{row.kind}
		}
		if row.encoding != nil {
			header["Content-Encoding"] = row.encoding
		}
		p := r.Response(row.status, header)
		got, err := io.ReadAll(p.Body(strings.NewReader(row.in)))
		if string(got) != row.want || (err == nil) != (row.err == "") || err != nil && !strings.Contains(err.Error(), row.err) {
			t.Errorf("%s: %q, %v, want %q, %q", row.name, got, err, row.want, row.err)
		}
		if found := kinds(r.Findings()); found != row.found {
			t.Errorf("%s: found %s, want %s", row.name, found, row.found)
		}
		if _, length := header["Content-Length"]; p.Reframe != row.reframe || length == row.reframe {
			t.Errorf("%s: re-framed %t, want %t; header %v", row.name, p.Reframe, row.reframe, header)
		}
		_, encoded := header["Content-Encoding"]
		_, digest := header["Content-Digest"]
		if decoded := strings.Contains(row.name, "gzip") && row.reframe; encoded != (row.encoding != nil && !decoded) || digest == decoded {
			t.Errorf("%s: header %v", row.name, header)
		}
	}
}

func pack(t *testing.T, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := io.WriteString(z, text); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestResponseElsewhere: a host that can't have got a value is not searched: that it
// is replaced would tell a guest that it guessed it.
func TestResponseElsewhere(t *testing.T) {
	t.Parallel()
	for _, to := range []Destination{elsewhere, {}} {
		r := newSet(t, key()).Request(to)
		header := map[string][]string{"Content-Type": {"text/plain"}, "X": {canary}, "Content-Length": {"9"}}
		p := r.Response(200, header)
		src := strings.NewReader(canary)
		if p.Body(src) != src || p.Reframe || header["X"][0] != canary || len(header) != 3 || r.Findings() != nil {
			t.Errorf("to %q: changed", to.Host)
		}
	}
}

// TestResponseShort: a short value would be found everywhere.
func TestResponseShort(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]string{"1234567": "1234567", "12345678": "$MSB_KEY"} {
		r := newSet(t, key(func(s *Secret) { s.Value = NewValue(value) })).Request(listed)
		p := r.Response(200, map[string][]string{"Content-Type": {"text/plain"}})
		if got, err := io.ReadAll(p.Body(strings.NewReader(value))); string(got) != want || err != nil {
			t.Errorf("%q became %q, %v", value, got, err)
		}
	}
}

// TestResponseStreams: what a server flushed is handed out, also through gzip.
func TestResponseStreams(t *testing.T) {
	t.Parallel()
	asked := errors.New("asked for more")
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	for _, text := range []string{"data: one\n\n", "data: " + canary + "\n\n"} {
		b.Reset()
		if _, err := io.WriteString(z, text); err != nil {
			t.Fatal(err)
		}
		if err := z.Flush(); err != nil {
			t.Fatal(err)
		}
		if text == "data: one\n\n" {
			r := newSet(t, key()).Request(listed)
			p := r.Response(200, map[string][]string{"Content-Type": {"text/event-stream"}, "Content-Encoding": {"gzip"}})
			got, err := io.ReadAll(p.Body(&pieces{list: [][]byte{bytes.Clone(b.Bytes())}, err: asked}))
			if string(got) != text || !errors.Is(err, asked) {
				t.Errorf("%q before more was asked for, %v", got, err)
			}
		}
	}
}

// FuzzRedact: whatever stands around a value in whatever form, and however it comes,
// no form of it comes out.
func FuzzRedact(f *testing.F) {
	f.Add("before", "after", uint64(0))
	f.Add("sk-live/4f9+\"c0ffe", "e\"", uint64(1))
	f.Add("%", "\\", uint64(2))
	f.Add("c2stbGl2", "ZS80Zjkr", uint64(3))
	list := forms(canary)
	var names []string
	for name := range list {
		names = append(names, name)
	}
	f.Fuzz(func(t *testing.T, before, after string, seed uint64) {
		if len(before)+len(after) > 1000 {
			return
		}
		rnd := rand.New(rand.NewPCG(seed, 0))
		set := newSet(t, key())
		in := before
		for range rnd.IntN(4) {
			in += list[names[rnd.IntN(len(names))]] + after
		}
		p := set.Request(listed).Response(200, map[string][]string{"Content-Type": {"text/plain"}})
		whole, err := io.ReadAll(p.Body(strings.NewReader(in)))
		if err != nil || holds(string(whole), canary) {
			t.Fatalf("%q became %q, %v", in, whole, err)
		}
		var list [][]byte
		for rest := []byte(in); len(rest) > 0; {
			n := 1 + rnd.IntN(len(rest))
			list, rest = append(list, rest[:n]), rest[n:]
		}
		p = set.Request(listed).Response(200, map[string][]string{"Content-Type": {"text/plain"}})
		if got, err := io.ReadAll(p.Body(&pieces{list: list, err: io.EOF})); err != nil || !bytes.Equal(got, whole) {
			t.Fatalf("%q split as %q became %q, %v, want %q", in, list, got, err, whole)
		}
	})
}
