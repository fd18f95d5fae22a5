package secret

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"testing"
)

// Destinations of the tests' requests.
var (
	listed     = Destination{"api.example.com", ProofTLS}
	below      = Destination{"a.dev.example.com", ProofTLS}
	elsewhere  = Destination{"evil.example", ProofTLS}
	plain      = Destination{"api.example.com", ProofPlain}
	unverified = Destination{"api.example.com", ProofNone}
)

// kinds describes findings, in order: kind, secret, place, spelling, reason.
func kinds(findings []Finding) string {
	var list []string
	for _, f := range findings {
		list = append(list, f.String())
	}
	return strings.Join(list, "; ")
}

// basic returns a header value with the scheme Basic.
func basic(credentials string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(credentials))
}

// TestHeadPlaces goes through the places of a head: at the secret's host the value
// stands where it is permitted, and the placeholder where it isn't; at another host
// each is a violation.
func TestHeadPlaces(t *testing.T) {
	t.Parallel()
	escaped := url.QueryEscape(canary)
	header := func(name, value string) Head { return Head{Header: map[string][]string{name: {value}}} }
	for _, row := range []struct {
		name    string
		head    Head
		secret  func(*Secret)
		found   string // at the listed host
		blocked string // at another one
		want    Head   // at the listed host
	}{
		{"method", Head{Method: "$MSB_KEY"}, everywhere, "skip KEY: method", "block KEY: method, unlisted", Head{Method: "$MSB_KEY"}},
		{"scheme", Head{Scheme: "$MSB_KEY"}, everywhere, "skip KEY: scheme", "block KEY: scheme, unlisted", Head{Scheme: "$MSB_KEY"}},
		{"authority", Head{Authority: "$MSB_KEY"}, everywhere, "skip KEY: authority", "block KEY: authority, unlisted", Head{Authority: "$MSB_KEY"}},
		{"path", Head{Path: "/a/$MSB_KEY/b"}, everywhere, "skip KEY: path", "block KEY: path, unlisted", Head{Path: "/a/$MSB_KEY/b"}},
		{"escaped path", Head{Path: "/%24MSB_KEY"}, everywhere, "skip KEY: path, percent-encoded", "block KEY: path, percent-encoded, unlisted", Head{Path: "/%24MSB_KEY"}},
		{"escaped path, mixed", Head{Path: "/%24m%53B_%4bEY$MSB_%4b%45Y"}, everywhere, "skip KEY: path, percent-encoded", "block KEY: path, percent-encoded, unlisted", Head{Path: "/%24m%53B_%4bEY$MSB_%4b%45Y"}},
		{"query", Head{Query: "k=$MSB_KEY&x=1"}, everywhere, "inject KEY: query", "block KEY: query, unlisted", Head{Query: "k=" + escaped + "&x=1"}},
		{"query, escaped", Head{Query: "k=%24MSB_KEY"}, everywhere, "inject KEY: query, percent-encoded", "block KEY: query, percent-encoded, unlisted", Head{Query: "k=" + escaped}},
		{"query, JSON", Head{Query: `k=\u0024MSB_KEY`}, everywhere, "block KEY: query, JSON-escaped, framing", "block KEY: query, JSON-escaped, unlisted", Head{}},
		{"query, not permitted", Head{Query: "k=$MSB_KEY"}, nil, "skip KEY: query", "block KEY: query, unlisted", Head{Query: "k=$MSB_KEY"}},
		{"query, name of a parameter", Head{Query: "$MSB_KEY=v"}, everywhere, "inject KEY: query", "block KEY: query, unlisted", Head{Query: escaped + "=v"}},
		{"header", header("Authorization", "Bearer $MSB_KEY"), nil, `inject KEY: header "Authorization"`, `block KEY: header "Authorization", unlisted`, header("Authorization", "Bearer "+canary)},
		{"header, any", header("X-Api-Key", "$MSB_KEY"), nil, `inject KEY: header "X-Api-Key"`, `block KEY: header "X-Api-Key", unlisted`, header("X-Api-Key", canary)},
		{"header, twice", header("X-Api-Key", "$MSB_KEY,$MSB_KEY"), nil, `inject KEY: header "X-Api-Key"`, `block KEY: header "X-Api-Key", unlisted`, header("X-Api-Key", canary+","+canary)},
		{"header, escaped", header("Cookie", "k=%24MSB_KEY"), nil, `inject KEY: header "Cookie", percent-encoded`, `block KEY: header "Cookie", percent-encoded, unlisted`, header("Cookie", "k="+escaped)},
		{"header, JSON", header("X-Data", `{"k":"\u0024MSB_KEY"}`), nil, `inject KEY: header "X-Data", JSON-escaped`, `block KEY: header "X-Data", JSON-escaped, unlisted`, header("X-Data", `{"k":"sk-live/4f9+\"c0ffee\""}`)},
		{"header's name", header("X-$MSB_KEY", "v"), everywhere, `skip KEY: header-name "X-$MSB_KEY"`, `block KEY: header-name "X-$MSB_KEY", unlisted`, header("X-$MSB_KEY", "v")},
		{"header's name, HTTP/2", header("$msb_key", "v"), everywhere, `skip KEY: header-name "$msb_key"`, `block KEY: header-name "$msb_key", unlisted`, header("$msb_key", "v")},
		{"header's name, canonical", header("X-$msb_key", "v"), everywhere, `skip KEY: header-name "X-$msb_key"`, `block KEY: header-name "X-$msb_key", unlisted`, header("X-$msb_key", "v")},
		{"header's name, escaped, canonical", header("X-%24msb_k%45y", "v"), everywhere, `skip KEY: header-name "X-%24msb_k%45y", percent-encoded`, `block KEY: header-name "X-%24msb_k%45y", percent-encoded, unlisted`, header("X-%24msb_k%45y", "v")},
		{"header's name, escaped", header("%24MSB_KEY", "v"), everywhere, `skip KEY: header-name "%24MSB_KEY", percent-encoded`, `block KEY: header-name "%24MSB_KEY", percent-encoded, unlisted`, header("%24MSB_KEY", "v")},
		{"Basic password", header("Authorization", basic("user:$MSB_KEY")), nil, `inject KEY: basic "Authorization"`, `block KEY: basic "Authorization", unlisted`, header("Authorization", basic("user:"+canary))},
		{"Basic user", header("Authorization", basic("$MSB_KEY:")), nil, `inject KEY: basic "Authorization"`, `block KEY: basic "Authorization", unlisted`, header("Authorization", basic(canary+":"))},
		{"Basic, proxy", header("Proxy-Authorization", basic("u:$MSB_KEY")), nil, `inject KEY: basic "Proxy-Authorization"`, `block KEY: basic "Proxy-Authorization", unlisted`, header("Proxy-Authorization", basic("u:"+canary))},
		{"Basic, unpadded", header("Authorization", strings.TrimRight(basic("a:$MSB_KEY"), "=")), nil, `inject KEY: basic "Authorization"`, `block KEY: basic "Authorization", unlisted`, header("Authorization", basic("a:"+canary))},
		{"Basic, case", header("Authorization", "bAsIc  "+basic("u:$MSB_KEY")[6:]), nil, `inject KEY: basic "Authorization"`, `block KEY: basic "Authorization", unlisted`, header("Authorization", "bAsIc  "+basic("u:" + canary)[6:])},
		{"Basic, folded", header("Authorization", strings.Replace(basic("u:$MSB_KEY"), "=", "\t=", 1)[:10]+" "+basic("u:$MSB_KEY")[10:]), nil, `inject KEY: basic "Authorization"`, `block KEY: basic "Authorization", unlisted`, header("Authorization", basic("u:"+canary))},
		{"Basic, in two parts", header("Authorization", basic("u:::")+basic("$MSB_KEY")[6:]), nil, `inject KEY: basic "Authorization"`, `block KEY: basic "Authorization", unlisted`, header("Authorization", basic("u:::"+canary))},
		{"Basic, raw", header("Authorization", "Basic $MSB_KEY"), nil, `inject KEY: header "Authorization"`, `block KEY: header "Authorization", unlisted`, header("Authorization", "Basic "+canary)},
		{"Basic, escaped inside", header("Authorization", basic("u:%24MSB_KEY")), nil, `inject KEY: basic "Authorization", percent-encoded`, `block KEY: basic "Authorization", percent-encoded, unlisted`, header("Authorization", basic("u:"+escaped))},
		{"Host", header("Host", "$MSB_KEY"), everywhere, `skip KEY: header "Host"`, `block KEY: header "Host", unlisted`, header("Host", "$MSB_KEY")},
		{"User-Agent", header("User-Agent", "$MSB_KEY"), everywhere, `skip KEY: header "User-Agent"`, `block KEY: header "User-Agent", unlisted`, header("User-Agent", "$MSB_KEY")},
		{"Referer", header("Referer", "https://x/$MSB_KEY"), everywhere, `skip KEY: header "Referer"`, `block KEY: header "Referer", unlisted`, header("Referer", "https://x/$MSB_KEY")},
		{"Origin", header("Origin", "$MSB_KEY"), everywhere, `skip KEY: header "Origin"`, `block KEY: header "Origin", unlisted`, header("Origin", "$MSB_KEY")},
		{"X-Forwarded", header("X-Forwarded-For", "$MSB_KEY"), everywhere, `skip KEY: header "X-Forwarded-For"`, `block KEY: header "X-Forwarded-For", unlisted`, header("X-Forwarded-For", "$MSB_KEY")},
		{"x-forwarded", header("x-forwarded-any", "$MSB_KEY"), everywhere, `skip KEY: header "x-forwarded-any"`, `block KEY: header "x-forwarded-any", unlisted`, header("x-forwarded-any", "$MSB_KEY")},
		{"Basic in a reflected one", header("Origin", basic("u:$MSB_KEY")), everywhere, `skip KEY: basic "Origin"`, `block KEY: basic "Origin", unlisted`, header("Origin", basic("u:$MSB_KEY"))},
		{"TRACE", Head{Method: "TRACE", Query: "$MSB_KEY"}, everywhere, `skip KEY: query`, `block KEY: query, unlisted`, Head{Method: "TRACE", Query: "$MSB_KEY"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			set := newSet(t, key(orNothing(row.secret)))
			for _, to := range []Destination{listed, below, elsewhere, {}} {
				head, r := copyHead(row.head), set.Request(to)
				err := r.Head(&head)
				found, want := kinds(r.Findings()), row.found
				if at := to.Host; at != listed.Host && at != below.Host {
					want = row.blocked
				}
				if found != want {
					t.Errorf("at %q: %s, want %s", to.Host, found, want)
				}
				var v *Violation
				if blocked := strings.HasPrefix(want, "block"); errors.As(err, &v) != blocked {
					t.Errorf("at %q: error %v", to.Host, err)
				} else if blocked {
					if len(head.Header) > 0 || head.Query != "" {
						t.Errorf("at %q: left %+v", to.Host, head)
					}
					if v.Host != to.Host || v.Finding.Action != ActionBlockAndLog || !strings.Contains(v.Error(), want) {
						t.Errorf("at %q: violation %+v: %v", to.Host, v, v)
					}
				} else if got, want := printHead(head), printHead(row.want); got != want {
					t.Errorf("at %q: sent %s, want %s", to.Host, got, want)
				}
			}
		})
	}
}

func orNothing(change func(*Secret)) func(*Secret) {
	if change == nil {
		return func(*Secret) {}
	}
	return change
}

func copyHead(h Head) Head {
	header := make(map[string][]string)
	for name, values := range h.Header {
		header[name] = append([]string(nil), values...)
	}
	h.Header = header
	return h
}

// printHead prints a head without what every request to a listed host gets.
func printHead(h Head) string {
	h = copyHead(h)
	delete(h.Header, "Accept-Encoding")
	text, err := json.Marshal(h)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// TestHeadProof shows what the caller must know of the destination.
func TestHeadProof(t *testing.T) {
	t.Parallel()
	allowPlain := func(s *Secret) { s.AllowPlain = true }
	for _, row := range []struct {
		name   string
		to     Destination
		secret func(*Secret)
		want   string
	}{
		{"verified", listed, nil, `inject KEY: header "X"`},
		{"plain", plain, nil, `block KEY: header "X", unverified`},
		{"plain allowed", plain, allowPlain, `inject KEY: header "X"`},
		{"verified, plain allowed", listed, allowPlain, `inject KEY: header "X"`},
		{"nothing known", unverified, nil, `block KEY: header "X", unverified`},
		{"nothing known, plain allowed", unverified, allowPlain, `block KEY: header "X", unverified`},
		{"elsewhere, plain allowed", Destination{"evil.example", ProofPlain}, allowPlain, `block KEY: header "X", unlisted`},
		{"an unknown proof", Destination{"api.example.com", 9}, allowPlain, `block KEY: header "X", unverified`},
	} {
		r := newSet(t, key(orNothing(row.secret))).Request(row.to)
		err := r.Head(&Head{Header: map[string][]string{"X": {"$MSB_KEY"}}})
		if got := kinds(r.Findings()); got != row.want || (err != nil) != strings.HasPrefix(row.want, "block") {
			t.Errorf("%s: %s, %v, want %s", row.name, got, err, row.want)
		}
	}
}

// TestHeadSeveralSecrets: each has its own hosts, and the longest placeholder wins.
func TestHeadSeveralSecrets(t *testing.T) {
	t.Parallel()
	a := Secret{EnvVar: "A", Value: NewValue("value-of-a"), AllowHosts: []string{"a.example", "both.example"}}
	ab := Secret{EnvVar: "AB", Value: NewValue("value-of-ab $MSB_A"), AllowHosts: []string{"b.example", "both.example"}, OnViolation: ActionBlockAndTerminate}
	for _, row := range []struct{ host, in, want, found string }{
		{"both.example", "$MSB_A,$MSB_AB,$MSB_ABC", "value-of-a,value-of-ab $MSB_A,value-of-ab $MSB_AC", `inject A: header "X"; inject AB: header "X"`},
		{"a.example", "$MSB_A", "value-of-a", `inject A: header "X"`},
		{"a.example", "$MSB_AB", "", `block AB: header "X", unlisted`},
		{"b.example", "$MSB_AB", "value-of-ab $MSB_A", `inject AB: header "X"`},
		{"b.example", "$MSB_A$MSB_AB", "", `block A: header "X", unlisted; inject AB: header "X"`},
		{"c.example", "$MSB_A$MSB_AB", "", `block A: header "X", unlisted; block AB: header "X", unlisted`},
	} {
		r := newSet(t, a, ab).Request(Destination{row.host, ProofTLS})
		h := Head{Header: map[string][]string{"X": {row.in}}}
		err := r.Head(&h)
		if got := kinds(r.Findings()); got != row.found {
			t.Errorf("%s at %s: %s, want %s", row.in, row.host, got, row.found)
		}
		if got := strings.Join(h.Header["X"], ""); got != row.want || (err == nil) == (row.want == "") {
			t.Errorf("%s at %s: %q, %v, want %q", row.in, row.host, got, err, row.want)
		}
	}
}

// TestHeadStrongestAction: of several violations the strongest action counts.
func TestHeadStrongestAction(t *testing.T) {
	t.Parallel()
	var list []Secret
	for name, action := range map[string]Action{"BLOCK": ActionBlock, "LOG": ActionBlockAndLog, "END": ActionBlockAndTerminate} {
		list = append(list, Secret{EnvVar: name, Value: NewValue(name), AllowHosts: []string{"a.example"}, OnViolation: action})
	}
	for _, row := range []struct {
		path string
		want Action
	}{
		{"/$MSB_BLOCK", ActionBlock},
		{"/$MSB_BLOCK/$MSB_LOG", ActionBlockAndLog},
		{"/$MSB_END/$MSB_LOG/$MSB_BLOCK", ActionBlockAndTerminate},
		{"/$MSB_BLOCK/$MSB_LOG/$MSB_END", ActionBlockAndTerminate},
	} {
		var v *Violation
		if err := newSet(t, list...).Request(elsewhere).Head(&Head{Path: row.path}); !errors.As(err, &v) || v.Finding.Action != row.want {
			t.Errorf("%s: %+v, want %s", row.path, v, row.want)
		}
	}
}

// TestHeadSharedPlaceholder: of the secrets with one placeholder that counts which
// lists the host and permits the place.
func TestHeadSharedPlaceholder(t *testing.T) {
	t.Parallel()
	header := Secret{EnvVar: "HEADER", Placeholder: "PH", Value: NewValue(canary), AllowHosts: []string{"both.example", "header.example"}}
	query := Secret{EnvVar: "QUERY", Placeholder: "PH", Value: NewValue(canary), AllowHosts: []string{"both.example"}, InjectQuery: true, OnViolation: ActionBlockAndTerminate}
	for _, row := range []struct {
		host, want string
		action     Action
	}{
		{"both.example", "inject QUERY: query", 0},
		{"header.example", "skip HEADER: query", 0},
		{"evil.example", "block HEADER: query, unlisted", ActionBlockAndTerminate},
	} {
		r := newSet(t, header, query).Request(Destination{row.host, ProofTLS})
		err := r.Head(&Head{Query: "PH"})
		var v *Violation
		if got := kinds(r.Findings()); got != row.want || errors.As(err, &v) && v.Finding.Action != row.action {
			t.Errorf("%s: %s, %v, want %s", row.host, got, err, row.want)
		}
	}
}

// TestBasicBesideRaw: what is replaced beside credentials doesn't hide what is in
// them.
func TestBasicBesideRaw(t *testing.T) {
	t.Parallel()
	other := Secret{EnvVar: "OTHER", Value: NewValue("other value"), AllowHosts: []string{"other.example"}}
	set := newSet(t, key(), other)
	for value, want := range map[string]string{
		basic("u:$MSB_OTHER") + " $MSB_KEY": `inject KEY: header "X"; block OTHER: basic "X", unlisted`,
		basic("u:$MSB_KEY") + " $MSB_KEY":   `inject KEY: header "X"`,
	} {
		r := set.Request(listed)
		err := r.Head(&Head{Header: map[string][]string{"X": {value}}})
		if got := kinds(r.Findings()); got != want || (err != nil) != strings.Contains(want, "block") {
			t.Errorf("%s: %s, %v, want %s", value, got, err, want)
		}
	}
}

func TestAskReadable(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ in, want string }{
		{"", "identity"},
		{"gzip", "gzip"},
		{"gzip, deflate, br, zstd", "gzip"},
		{"br, GZIP;q=0.5", "gzip"},
		{"br, x-gzip", "gzip"},
		{"gzip;q=0", "identity"},
		{"gzip; q=0.000", "identity"},
		{"gzip;q=0.001", "gzip"},
		{"br", "identity"},
		{"*", "identity"},
	} {
		header := map[string][]string{"Range": {"bytes=0-9"}, "If-Range": {`"x"`}, "Grpc-Accept-Encoding": {"gzip"}, "Accept": {"*/*"}}
		if row.in != "" {
			header["Accept-Encoding"] = []string{row.in}
		}
		if err := newSet(t, key()).Request(listed).Head(&Head{Header: header}); err != nil {
			t.Fatal(err)
		}
		if got := header["Accept-Encoding"]; len(header) != 2 || len(got) != 1 || got[0] != row.want {
			t.Errorf("Accept-Encoding %q: header %v, want %q", row.in, header, row.want)
		}
	}
	header := map[string][]string{"Range": {"bytes=0-9"}, "Accept-Encoding": {"br"}}
	if err := newSet(t, key()).Request(elsewhere).Head(&Head{Header: header}); err != nil || len(header) != 2 {
		t.Errorf("elsewhere: header %v, %v", header, err)
	}
}

// TestBody goes through the kinds of bodies.
func TestBody(t *testing.T) {
	t.Parallel()
	const form, object, text, multi = "application/x-www-form-urlencoded", "application/json; charset=utf-8", "text/plain", "multipart/form-data; boundary=x"
	escaped := url.QueryEscape(canary)
	quoted, _ := json.Marshal(canary)
	for _, row := range []struct{ kind, encoding, in, want, found string }{
		{form, "", "a=$MSB_KEY&b=1", "a=" + escaped + "&b=1", "inject KEY: body"},
		{form, "", "a=%24MSB_KEY", "a=" + escaped, "inject KEY: body, percent-encoded"},
		{form, "", `a=\u0024MSB_KEY`, "", "block KEY: body, JSON-escaped, framing"},
		{object, "", `{"k":"$MSB_KEY"}`, `{"k":` + string(quoted) + "}", "inject KEY: body"},
		{object, "", `{"k":"\u0024MSB\u005FKEY"}`, `{"k":` + string(quoted) + "}", "inject KEY: body, JSON-escaped"},
		{object, "", `{"k":"https://x/?k=%24MSB_KEY"}`, `{"k":"https://x/?k=` + escaped + `"}`, "inject KEY: body, percent-encoded"},
		{"application/vnd.api+json", "", `"$MSB_KEY"`, string(quoted), "inject KEY: body"},
		{"Application/JSON", "", `"$MSB_KEY"`, string(quoted), "inject KEY: body"},
		{"application/x-ndjson", "", `"$MSB_KEY"`, string(quoted), "inject KEY: body"},
		{text, "", "k: $MSB_KEY", "k: " + canary, "inject KEY: body"},
		{text, "", "k: %24MSB_KEY", "k: " + escaped, "inject KEY: body, percent-encoded"},
		{text, "identity", "k: $MSB_KEY", "k: " + canary, "inject KEY: body"},
		{"application/xml", "", "<k>$MSB_KEY</k>", "<k>" + canary + "</k>", "inject KEY: body"},
		{multi, "", "--x\r\n\r\n$MSB_KEY\r\n", "", "block KEY: body, framing"},
		{"application/grpc", "", "\x00\x00\x00\x00\x08$MSB_KEY", "", "block KEY: body, framing"},
		{"application/octet-stream", "", "$MSB_KEY", "", "block KEY: body, framing"},
		{"", "", "$MSB_KEY", "", "block KEY: body, framing"},
		{multi, "", "--x\r\n\r\nnothing\r\n", "--x\r\n\r\nnothing\r\n", ""},
		{"", "", "nothing", "nothing", ""},
	} {
		header := map[string][]string{}
		if row.kind != "" {
			header["Content-Type"] = []string{row.kind}
		}
		if row.encoding != "" {
			header["Content-Encoding"] = []string{row.encoding}
		}
		got, reframe, r, err := sendBody(t, newSet(t, key(everywhere)), listed, header, row.in)
		blocked := strings.Contains(row.found, "block")
		if found := kinds(r.Findings()); found != row.found || errors.As(err, new(*Violation)) != blocked || !blocked && err != nil {
			t.Errorf("%s %q: %s, %v, want %s", row.kind, row.in, found, err, row.found)
		}
		if !blocked && got != row.want {
			t.Errorf("%s %q: sent %q, want %q", row.kind, row.in, got, row.want)
		}
		if len(got) != len(row.in) && !blocked && !reframe {
			t.Errorf("%s %q: not re-framed", row.kind, row.in)
		}
		// Where the place isn't permitted, and elsewhere.
		got, reframe, r, err = sendBody(t, newSet(t, key()), listed, header, row.in)
		if found := kinds(r.Findings()); got != row.in || err != nil || reframe || (row.found != "") != strings.HasPrefix(found, "skip KEY: body") {
			t.Errorf("%s %q, body not permitted: %q, %t, %s, %v", row.kind, row.in, got, reframe, found, err)
		}
		got, reframe, r, err = sendBody(t, newSet(t, key(everywhere)), elsewhere, header, row.in)
		if found := kinds(r.Findings()); strings.Contains(got, "MSB_KEY") || (row.found != "") != errors.As(err, new(*Violation)) || reframe || (row.found != "") != strings.HasPrefix(found, "block KEY: body") {
			t.Errorf("%s %q, elsewhere: %q, %t, %s, %v", row.kind, row.in, got, reframe, found, err)
		}
	}
}

// sendBody sends a body, and returns what would arrive.
func sendBody(t *testing.T, set *Set, to Destination, header map[string][]string, in string) (sent string, reframe bool, r *Request, err error) {
	t.Helper()
	r = set.Request(to)
	if err := r.Head(&Head{Method: "POST", Header: copyHead(Head{Header: header}).Header, HasBody: true}); err != nil {
		return "", false, r, err
	}
	body, reframe := r.Body(strings.NewReader(in))
	got, err := io.ReadAll(body)
	return string(got), reframe, r, err
}

// TestBodyEncoded: a body that can't be read can't be searched for placeholders, and
// so isn't sent to a host for which one might stand in it.
func TestBodyEncoded(t *testing.T) {
	t.Parallel()
	header := func(encoding string) map[string][]string {
		return map[string][]string{"Content-Type": {"application/json"}, "Content-Encoding": {encoding}}
	}
	for _, row := range []struct {
		encoding string
		to       Destination
		secret   func(*Secret)
		hasBody  bool
		blocked  bool
	}{
		{"gzip", listed, everywhere, true, true},
		{"br", listed, everywhere, true, true},
		{"identity, gzip", listed, everywhere, true, true},
		{"identity", listed, everywhere, true, false},
		{"gzip", listed, everywhere, false, false},
		{"gzip", listed, nil, true, false},
		{"gzip", unverified, everywhere, true, false},
		{"gzip", elsewhere, everywhere, true, false},
	} {
		r := newSet(t, key(orNothing(row.secret))).Request(row.to)
		err := r.Head(&Head{Header: header(row.encoding), HasBody: row.hasBody})
		if found := kinds(r.Findings()); (err != nil) != row.blocked || row.blocked && found != "block KEY: body, encoded" {
			t.Errorf("%s to %v: %s, %v", row.encoding, row.to, found, err)
		}
	}
}

func TestTrailer(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		trailer       map[string][]string
		found, blocks string
	}{
		{nil, "", ""},
		{map[string][]string{"X-Sum": {"1"}}, "", ""},
		{map[string][]string{"X-Sum": {"$MSB_KEY"}}, `skip KEY: trailer "X-Sum"`, `block KEY: trailer "X-Sum", unlisted`},
		{map[string][]string{"X-Sum": {"1", "%24MSB_KEY"}}, `skip KEY: trailer "X-Sum", percent-encoded`, `block KEY: trailer "X-Sum", percent-encoded, unlisted`},
		{map[string][]string{"X-Sum": {basic("u:$MSB_KEY")}}, `skip KEY: trailer "X-Sum"`, `block KEY: trailer "X-Sum", unlisted`},
		{map[string][]string{"$msb_key": {"1"}}, `skip KEY: header-name "$msb_key"`, `block KEY: header-name "$msb_key", unlisted`},
	} {
		for to, want := range map[Destination]string{listed: row.found, elsewhere: row.blocks} {
			r := newSet(t, key(everywhere)).Request(to)
			err := r.Trailer(row.trailer)
			if got := kinds(r.Findings()); got != want || errors.As(err, new(*Violation)) != strings.HasPrefix(want, "block") {
				t.Errorf("%v at %s: %s, %v, want %s", row.trailer, to.Host, got, err, want)
			}
		}
	}
}

// TestFindingsAreBounded: neither many placeholders nor many places make many
// findings, and a violation behind them isn't lost.
func TestFindingsAreBounded(t *testing.T) {
	t.Parallel()
	header := make(map[string][]string)
	for i := range 500 {
		header[strings.Repeat("x", i+1)] = []string{strings.Repeat("$MSB_KEY", 3)}
	}
	r := newSet(t, key()).Request(listed)
	if err := r.Head(&Head{Header: header}); err != nil {
		t.Fatal(err)
	}
	found := r.Findings()
	if len(found) != maxFindings || found[0].Count != 3 {
		t.Errorf("%d findings, the first of %d", len(found), found[0].Count)
	}
	if len(r.Findings()) != 0 {
		t.Error("findings are reported twice")
	}
	header = map[string][]string{"Last": {"$MSB_OTHER"}}
	for i := range 100 {
		header[strings.Repeat("y", i+1)] = []string{"$MSB_KEY"}
	}
	other := Secret{EnvVar: "OTHER", Value: NewValue("other value"), AllowHosts: []string{"other.example"}}
	if err := newSet(t, key(), other).Request(listed).Head(&Head{Header: header}); !errors.As(err, new(*Violation)) {
		t.Errorf("a violation among many findings: %v", err)
	}
}

// TestNothingToDo: without secrets a request is what it was.
func TestNothingToDo(t *testing.T) {
	t.Parallel()
	var none *Set
	empty := newSet(t)
	if len(none.Names())+len(empty.Names()) != 0 {
		t.Error("names of nothing")
	}
	for _, set := range []*Set{none, empty} {
		r := set.Request(listed)
		header := map[string][]string{"Range": {"bytes=1-2"}, "X": {"$MSB_KEY"}}
		if err := errors.Join(r.Head(&Head{Header: header}), r.Trailer(header)); err != nil || len(header) != 2 {
			t.Errorf("%v: %v, %v", set, header, err)
		}
		src := strings.NewReader("$MSB_KEY")
		if body, reframe := r.Body(src); body != src || reframe {
			t.Errorf("%v: the request's body changed", set)
		}
		r.Redact(header)
		r.RedactTrailer(header)
		if p := r.Response(200, header); p.Reframe || p.Body(src) != src || len(header) != 2 || r.Findings() != nil {
			t.Errorf("%v: the response changed", set)
		}
	}
}

// FuzzRequest: whatever a guest writes, no value goes elsewhere, and where none is
// permitted everything goes out as it came; what the oracle finds is a violation.
func FuzzRequest(f *testing.F) {
	f.Add("/a", "b=$MSB_KEY", "X", "Basic dTokTVNCX0tFWQ==", "text/plain", "%24MSB_KEY")
	f.Add("/%24MSB_KEY", "", "$msb_key", "$MSB_", "application/json", `\u0024MSB_KEY`)
	f.Fuzz(func(t *testing.T, path, query, name, value, kind, body string) {
		if len(path)+len(query)+len(name)+len(value)+len(body) > 2000 {
			return
		}
		set := newSet(t, key(everywhere))
		for _, to := range []Destination{listed, elsewhere, unverified} {
			head := Head{Method: "POST", Path: path, Query: query, Header: map[string][]string{name: {value}, "Content-Type": {kind}}, HasBody: true}
			r := set.Request(to)
			err := r.Head(&head)
			found := false
			for _, text := range []string{path, query, name, value, kind} {
				_, ok := oracle(r.view.placeholders, text)
				found = found || ok
			}
			if to != listed && found && err == nil {
				t.Fatalf("to %v: %q %q %q %q pass", to, path, query, name, value)
			}
			sent := ""
			if err == nil {
				src, _ := r.Body(strings.NewReader(body))
				got, err := io.ReadAll(src)
				if _, ok := oracle(r.view.placeholders, body); to != listed && ok != errors.As(err, new(*Violation)) {
					t.Fatalf("to %v: body %q: %v", to, body, err)
				} else if to != listed && !ok && string(got) != body {
					t.Fatalf("to %v: body %q became %q", to, body, got)
				}
				sent = string(got)
			}
			if head.Path != path || to != listed && holds(sent+head.Query+fmt.Sprint(head.Header), canary) && !holds(path+query+name+value+kind+body, canary) {
				t.Fatalf("to %v: sent %+v %q", to, head, sent)
			}
		}
	})
}
