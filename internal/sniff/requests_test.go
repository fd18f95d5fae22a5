package sniff

import (
	"fmt"
	"strings"
	"testing"
)

// post returns a request with a body, framed by these field lines.
func post(body string, fields ...string) string {
	return "POST / HTTP/1.1\r\n" + strings.Join(append(fields, "\r\n"), "\r\n") + body
}

// An event is something in a stream of requests: a head, by kind and name, an
// error, or the end.
type event struct {
	what string
	at   int
}

// follow runs a stream through a Flight and Requests as a relay does, which has
// received n bytes more at each turn, and returns what came of it.
func follow(stream string, n int) (events []event) {
	b := []byte(stream)
	at, have := 0, 0
	say := func(what string) { events = append(events, event{what, at}) }

	head := Classify(b, true, dst)
	say(head.Kind.String() + " " + head.Name)
	if head.Kind != HTTP1 && head.Kind != Connect && head.Kind != HTTP2 {
		return events
	}
	r := Follow(dst, head)
	for at, have = head.Len, head.Len; ; {
		pass, head := r.Next(b[at:have:have], have == len(b))
		switch {
		case pass > 0:
			at += pass
		case head.Kind == Malformed:
			say("malformed: " + head.Reason)
			return events
		case head.Kind != More:
			say(head.Kind.String() + " " + head.Name)
			at += head.Len
		case have == len(b):
			say("end")
			return events
		default:
			have = min(have+n, len(b))
		}
	}
}

// tell returns the events in words.
func tell(events []event) string {
	var story []string
	for _, e := range events {
		what, reason, _ := strings.Cut(e.what, ": ")
		if reason != "" {
			reason = ": " + reason
		}
		story = append(story, fmt.Sprintf("%s at %d%s", what, e.at, reason))
	}
	return strings.Join(story, ", ")
}

var requestStreams = []struct {
	name, in string
	want     string // the story, with commas
}{
	{"one request", get("Host: a"), "http1 a at 0, end at 27"},
	{"two requests", get("Host: a") + get("Host: b"), "http1 a at 0, http1 b at 27, end at 54"},
	{"second without Host", get("Host: a") + get("X: y"), "http1 a at 0, http1  at 27, end at 51"},
	{"body of 5", post("hello", "Host: a", "Content-Length: 5") + get("Host: b"), "http1 a at 0, http1 b at 52, end at 79"},
	{"body of 0", post("", "Host: a", "Content-Length: 0") + get("Host: b"), "http1 a at 0, http1 b at 47, end at 74"},
	{"request in a body", post(get("Host: x"), "Host: a", "Content-Length: 27") + get("Host: b"), "http1 a at 0, http1 b at 75, end at 102"},
	{"chunks", post("5\r\nhello\r\nA\r\n0123456789\r\n0\r\n\r\n", "Host: a", "Transfer-Encoding: chunked") + get("Host: b"), "http1 a at 0, http1 b at 86, end at 113"},
	{"trailers", post("0\r\nX-Sum: 1\r\nY:\r\n\r\n", "Host: a", "Transfer-Encoding: chunked") + get("Host: b"), "http1 a at 0, http1 b at 75, end at 102"},
	{"proxy", "GET http://a/ HTTP/1.1\r\n\r\nGET http://b/ HTTP/1.1\r\n\r\n", "http1 a at 0, http1 b at 26, end at 52"},

	{"empty line in between", get("Host: a") + "\r\n" + get("Host: b"), "http1 a at 0, malformed at 27: method isn't a token"},
	{"two Hosts in the second", get("Host: a") + get("Host: b", "Host: a"), "http1 a at 0, malformed at 27: more than one Host field"},
	{"second ends early", get("Host: a") + "GET / HTTP/1.1\r\n", "http1 a at 0, malformed at 27: ended within the request head"},
	{"second is opaque", get("Host: a") + "\x00\x01", "http1 a at 0, malformed at 27: something else than a request behind a request"},
	{"second is TLS", get("Host: a") + hello(sni("b")), "http1 a at 0, malformed at 27: something else than a request behind a request"},
	{"second is HTTP/2", get("Host: a") + preface, "http1 a at 0, malformed at 27: something else than a request behind a request"},
	{"upgrade to HTTP/2", get("Host: a", "Upgrade: h2c") + preface, "http1 a at 0, malformed at 41: something else than a request behind a request"},
	{"body shorter than said", post("hello", "Host: a", "Content-Length: 6"), "http1 a at 0, end at 52"},

	{"chunk out of frame", post("5;x=y\r\nhello\r\n0\r\n\r\n", "Host: a", "Transfer-Encoding: chunked"), "http1 a at 0, malformed at 57: chunked body isn't strictly framed"},

	{"WebSocket", get("Host: a", "Upgrade: websocket") + "\x81\x85abcdefghi" + get("Host: b"), "http1 a at 0, end at 85"},
	{"WebSocket, compressed, its first frame a letter", get("Host: a", "Upgrade: WebSocket") + "A\x85abcdefghi", "http1 a at 0, end at 58"},
	{"WebSocket that is pinged", get("Host: a", "Upgrade: websocket") + "\x89\x80abcd", "http1 a at 0, end at 53"},
	{"WebSocket without mask", get("Host: a", "Upgrade: websocket") + "\x81\x05hello", "http1 a at 0, malformed at 47: something else than a request behind a request"},
	{"WebSocket that begins in the middle", get("Host: a", "Upgrade: websocket") + "\x80\x85abcdefghi", "http1 a at 0, malformed at 47: something else than a request behind a request"},
	{"WebSocket of one byte", get("Host: a", "Upgrade: websocket") + "\x81", "http1 a at 0, malformed at 47: something else than a request behind a request"},
	{"WebSocket, then a line", get("Host: a", "Upgrade: websocket") + "GET /\r\n", "http1 a at 0, malformed at 47: something else than a request behind a request"},
	{"WebSocket that was refused", get("Host: a", "Upgrade: websocket") + get("Host: b"), "http1 a at 0, http1 b at 47, end at 74"},
	{"WebSocket and a choice", get("Host: a", "Upgrade: websocket, x") + "\x81\x85", "http1 a at 0, malformed at 50: something else than a request behind a request"},
	{"WebSocket twice", get("Host: a", "Upgrade: websocket", "Upgrade: websocket") + "\x81\x85", "http1 a at 0, malformed at 67: something else than a request behind a request"},
	{"WebSocket, then TLS", get("Host: a", "Upgrade: websocket") + hello(sni("b")), "http1 a at 0, malformed at 47: something else than a request behind a request"},

	{"tunnel of TLS", "CONNECT a:443 HTTP/1.1\r\n\r\n" + hello(sni("b")) + "\x17\x03\x03", "connect a at 0, tls b at 26, end at 93"},
	{"tunnel of SSH", "CONNECT a:22 HTTP/1.1\r\n\r\nSSH-2.0-x\r\n" + get("Host: b"), "connect a at 0, opaque  at 25, end at 63"},
	{"tunnel of HTTP", "CONNECT a:80 HTTP/1.1\r\n\r\n" + get("Host: b") + get("Host: c"), "connect a at 0, http1 b at 25, http1 c at 52, end at 79"},
	{"tunnel of HTTP/2", "CONNECT a:80 HTTP/1.1\r\n\r\n" + preface + "\x00\x00\x00\x04", "connect a at 0, http2  at 25, malformed at 49: ended within a frame"},
	{"tunnel of HTTP/2 and a request", "CONNECT a:80 HTTP/1.1\r\n\r\n" + preface + headers(1, to("b")), "connect a at 0, http2  at 25, http2 b at 49, end at 74"},
	{"tunnel after a refused one", "CONNECT a:1 HTTP/1.1\r\n\r\nCONNECT b:2 HTTP/1.1\r\n\r\n", "connect a at 0, connect b at 24, end at 48"},
	{"tunnel of nonsense", "CONNECT a:80 HTTP/1.1\r\n\r\n\x15\x03", "connect a at 0, malformed at 25: like TLS, but no ClientHello"},
}

func TestRequests(t *testing.T) {
	t.Parallel()
	for _, row := range requestStreams {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			for n := 1; n <= len(row.in); n++ {
				if got := tell(follow(row.in, n)); got != row.want {
					t.Fatalf("%d bytes at a time:\n%q\n got %s\nwant %s", n, row.in, got, row.want)
				}
			}
			checkRequests(t, []byte(row.in))
		})
	}
}

// checkRequests checks that net/http and x/net/http2, where they read a request,
// read it where we do, and to the same host.
func checkRequests(t *testing.T, stream []byte) {
	t.Helper()
	ours := follow(string(stream), 1+len(stream)/7)
	kind, theirs := "http1", httpRequests
	if ours[0].what == "http2 " {
		kind, theirs, ours = "http2", http2Requests, ours[1:]
	}
	found := theirs(stream)
	for i, got := range ours {
		if !strings.HasPrefix(got.what, kind+" ") {
			return // an end, or a switch that they know nothing of
		}
		if i == len(found) {
			return // they refuse what we read
		}
		want := event{kind + " " + found[i].host, found[i].at}
		if got != want && strings.Trim(found[i].host, "[]") != dst.String() {
			t.Fatalf("%q: we read %v, they %v", stream, got, want)
		}
	}
}

func TestRequestsFailForGood(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ first, bad, good string }{
		{get("Host: a"), "\x00", get("Host: a")},
		{preface, headers(2, to("a")), headers(1, to("a"))},
	} {
		r := Follow(dst, Classify([]byte(row.first), false, dst))
		_, first := r.Next([]byte(row.bad), false)
		pass, again := r.Next([]byte(row.good), false)
		if first.Kind != Malformed || pass != 0 || again != first {
			t.Errorf("%q: got %+v, then %d, %+v", row.first, first, pass, again)
		}
	}
}

func TestRequestsAllocs(t *testing.T) {
	head := post("", "Host: a", "Transfer-Encoding: chunked")
	body := []byte("5\r\nhello\r\n")
	r := Follow(dst, Classify([]byte(head), false, dst))
	if got := testing.AllocsPerRun(100, func() { r.Next(body, false) }); got != 0 {
		t.Errorf("got %v allocations for a part of a body, want 0", got)
	}
}
