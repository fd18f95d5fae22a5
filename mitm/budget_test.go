package mitm

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestRequestBytes has a guest send heads that are small on the wire and large in
// memory, to a server that doesn't answer. What doesn't fit is refused at once,
// the rest is served, and then there is room again.
func TestRequestBytes(t *testing.T) {
	t.Parallel()
	const streams, fit = 100, 4
	cookie := "cookie: " + strings.Repeat("y", 3900)
	head := []string{":method: GET", ":scheme: https", ":path: /", ":authority: " + site}
	for range 12 {
		head = append(head, cookie)
	}
	w := newWorld(t, Config{Limits: Limits{RequestBytes: fit * (requestCost + headCopies*(12*3900+2000))}})
	var arrived atomic.Int64
	answer := make(chan struct{})
	w.serveTLS(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { arrived.Add(1); <-answer }), nil)
	f := newFramer(t, w)
	for i := range uint32(streams) {
		f.request(2*i+1, true, head...)
	}
	if got := f.outcome(2*streams - 1); got != "reset" {
		t.Errorf("the last request: %s, want a reset", got)
	}
	w.waitFor(EventLimit)
	if h1 := talk(t, w.mustHandshake("http/1.1"), "GET / HTTP/1.1\r\nHost: "+site+"\r\nCookie: "+strings.Repeat("y", 60_000)+"\r\n\r\n"); !strings.HasPrefix(h1, "HTTP/1.1 503") {
		t.Errorf("over HTTP/1: %.40q, want 503", h1)
	}
	if n := len(w.seen(EventLimit)); n > 10 {
		t.Errorf("%d events tell of it", n)
	}
	close(answer)
	if n := arrived.Load(); n > fit {
		t.Errorf("%d requests were forwarded, want %d at most", n, fit)
	}
	for range 100 {
		if w.proxy.requests.used.Load() == 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	f = newFramer(t, w)
	if f.request(1, true, head...); f.outcome(1) != "200" {
		t.Error("afterwards a request isn't served")
	}
}

// TestResponseBytes shows that heads of responses count too.
func TestResponseBytes(t *testing.T) {
	t.Parallel()
	for _, http2 := range []bool{false, true} {
		w := newWorld(t, Config{Limits: Limits{RequestBytes: 2 * requestCost}})
		w.serveTLS(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/large" {
				w.Header().Set("X", strings.Repeat("x", 50_000))
			}
		}), nil)
		client := w.client(http2)
		for path, want := range map[string]int{"/large": http.StatusBadGateway, "/": http.StatusOK} {
			res, err := client.Get("https://" + site + path)
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			if res.StatusCode != want {
				t.Errorf("HTTP/2 %v: %s got %d, want %d", http2, path, res.StatusCode, want)
			}
		}
		if used := w.proxy.requests.used.Load(); used != 0 {
			for range 100 {
				if used = w.proxy.requests.used.Load(); used == 0 {
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
			if used != 0 {
				t.Errorf("%d bytes are never given back", used)
			}
		}
	}
}
