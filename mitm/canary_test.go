package mitm

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
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
