package mitm

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// eachWay runs a test for every way a request can go: both versions of HTTP, with
// and without TLS.
func eachWay(t *testing.T, test func(t *testing.T, w *world, serve func(http.Handler), client *http.Client, origin string, http2 bool)) {
	t.Helper()
	for _, http2 := range []bool{false, true} {
		for _, scheme := range []string{"https", "http"} {
			t.Run(fmt.Sprintf("%s, HTTP/2 %t", scheme, http2), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, Config{})
				serve := func(h http.Handler) { w.serveTLS(h, nil) }
				if scheme == "http" {
					serve = w.servePlain
				}
				test(t, w, serve, w.client(http2), scheme+"://"+site, http2)
			})
		}
	}
}

// TestResponses shows that responses come through as the server sent them.
func TestResponses(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, w *world, serve func(http.Handler), client *http.Client, origin string, _ bool) {
		serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h := w.Header()
			h.Set("Alt-Svc", `h3=":443"`)
			h["Content-Type"], h["Date"] = nil, nil
			status, _ := strconv.Atoi(r.URL.Query().Get("status"))
			h.Set("X-Path", r.URL.Path)
			h["Set-Cookie"] = []string{"a=1", "b=2"}
			if r.Method == http.MethodHead {
				h.Set("Content-Length", "12345")
			}
			w.WriteHeader(status)
			if r.Method != http.MethodHead && status != 204 && status != 304 {
				_, _ = io.WriteString(w, "<html>")
			}
		}))
		for _, row := range []struct {
			method string
			status int
			length int64
		}{{"GET", 200, 6}, {"GET", 204, 0}, {"GET", 304, 0}, {"GET", 404, 6}, {"GET", 500, 6}, {"GET", 301, 6}, {"GET", 599, 6}, {"HEAD", 200, 12345}, {"DELETE", 200, 6}, {"PURGE", 200, 6}} {
			req, _ := http.NewRequestWithContext(t.Context(), row.method, fmt.Sprintf("%s/x?status=%d", origin, row.status), nil)
			res, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(res.Body)
			_ = res.Body.Close()
			if err != nil || res.StatusCode != row.status || row.method != "HEAD" && int64(len(body)) != row.length || row.method == "HEAD" && res.ContentLength != row.length {
				t.Errorf("%s %d: got %d, %q, length %d, %v", row.method, row.status, res.StatusCode, body, res.ContentLength, err)
			}
			if got := res.Header; got.Get("Alt-Svc") != "" || len(got["Set-Cookie"]) != 2 || got.Get("X-Path") != "/x" {
				t.Errorf("%s %d: got %v", row.method, row.status, got)
			}
			for _, added := range []string{"Date", "Content-Type", "Via", "Server"} {
				if v, ok := res.Header[added]; ok {
					t.Errorf("%s %d: %s: %q was added", row.method, row.status, added, v)
				}
			}
		}
	})
}

// TestRequestFields shows which fields of a request reach the server.
func TestRequestFields(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	var got http.Header
	w.serveTLS(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.Header.Clone() }), nil)
	talk(t, w.mustHandshake("http/1.1"), strings.Join([]string{
		"GET / HTTP/1.1", "Host: " + site, "Accept-Encoding: br", "X-Forwarded-For: 10.1.2.3", "Forwarded: for=10.1.2.3", "Te: trailers, gzip",
		"Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__", "Connection: close, Upgrade, HTTP2-Settings, X-Hop", "X-Hop: 1", "Keep-Alive: 5",
		"Proxy-Connection: x", "X-Other: \xff\xfe", "x-odd-Case: 1", "Cookie: a=b", "", "",
	}, "\r\n"))
	want := map[string]string{"Accept-Encoding": "br", "X-Forwarded-For": "10.1.2.3", "Forwarded": "for=10.1.2.3", "Te": "trailers", "X-Other": "\xff\xfe", "X-Odd-Case": "1", "Cookie": "a=b"}
	for k, v := range want {
		if got.Get(k) != v {
			t.Errorf("%s: got %q, want %q", k, got[k], v)
		}
		got.Del(k)
	}
	if len(got) != 0 {
		t.Errorf("besides: %v", got)
	}
}

// TestTrailers shows that trailers pass both ways, as gRPC needs them.
func TestTrailers(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, w *world, serve func(http.Handler), client *http.Client, origin string, _ bool) {
		serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			w.Header().Set("Trailer", "Grpc-Status")
			_, _ = w.Write(body)
			w.Header().Set("Grpc-Status", "0")
			w.Header().Set(http.TrailerPrefix+"X-Late", r.Trailer.Get("X-Sum"))
		}))
		req, _ := http.NewRequestWithContext(t.Context(), "POST", origin, io.MultiReader(strings.NewReader("body")))
		req.Header.Set("Te", "trailers")
		req.Trailer = http.Header{"X-Sum": {"sum"}}
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err != nil || string(body) != "body" || res.Trailer.Get("Grpc-Status") != "0" || res.Trailer.Get("X-Late") != "sum" {
			t.Errorf("got %q, %v, %v", body, res.Trailer, err)
		}
	})
}

// TestTrailersOnly shows a response that has nothing but a head: gRPC's way to say
// an error.
func TestTrailersOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	w.serveTLS(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Grpc-Status", "5")
	}), nil)
	res, err := w.client(true).Post("https://"+site, "application/grpc", strings.NewReader("\x00\x00\x00\x00\x00"))
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.Header.Get("Grpc-Status") != "5" {
		t.Errorf("got %v", res.Header)
	}
}

// TestInterim shows that 1xx responses pass, and that a body waits for 100.
func TestInterim(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, w *world, serve func(http.Handler), client *http.Client, origin string, http2 bool) {
		serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/refuse" {
				w.WriteHeader(http.StatusExpectationFailed)
				return
			}
			w.Header().Set("Link", "</a.css>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
			_, _ = io.Copy(w, r.Body)
		}))
		for _, path := range []string{"/", "/refuse"} {
			var interim []int
			var mu sync.Mutex
			body := &counted{ReadCloser: io.NopCloser(strings.NewReader("body"))}
			req, _ := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
				Got1xxResponse: func(code int, _ textproto.MIMEHeader) error {
					mu.Lock()
					defer mu.Unlock()
					interim = append(interim, code)
					return nil
				},
			}), "POST", origin+path, body)
			req.ContentLength = 4
			req.Header.Set("Expect", "100-continue")
			transport := client.Transport.(*http.Transport)
			transport.ExpectContinueTimeout = patience
			res, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			got, _ := io.ReadAll(res.Body)
			_ = res.Body.Close()
			mu.Lock()
			switch {
			case path == "/" && (string(got) != "body" || !strings.Contains(fmt.Sprint(interim), "103") || !strings.Contains(fmt.Sprint(interim), "100")):
				t.Errorf("got %q, interim %v", got, interim)
			case path == "/refuse" && (res.StatusCode != 417 || !http2 && body.n.Load() != 0): // Go's client of HTTP/2 sends it all the same
				t.Errorf("got %d, %d bytes were sent", res.StatusCode, body.n.Load())
			}
			mu.Unlock()
		}
	})
}

// TestHTTP10 shows that a guest of HTTP/1.0 gets what it knows: one response, whole
// or up to the end, whatever it seems to ask for.
func TestHTTP10(t *testing.T) {
	t.Parallel()
	const interim = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"
	const chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"
	for _, row := range []struct{ name, fields, answer, want string }{
		{"chunked", "", chunked, "\r\n\r\nbody"},
		{"interim responses", "", interim + chunked, "\r\n\r\nbody"},
		{"Expect", "Expect: 100-continue\r\n", interim + chunked, "\r\n\r\nbody"},
		{"Upgrade", "Upgrade: websocket\r\nConnection: Upgrade\r\n", chunked, "\r\n\r\nbody"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, Config{})
			asked := make(chan http.Header, 1)
			w.serveTLSConns(protocolConfig("http/1.1"), func(c net.Conn) {
				if r, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
					asked <- r.Header
					_, _ = io.WriteString(c, row.answer)
				}
			})
			got := talk(t, w.mustHandshake("http/1.1"), "POST / HTTP/1.0\r\nHost: "+site+"\r\nContent-Length: 4\r\n"+row.fields+"\r\nsent")
			if !strings.HasPrefix(got, "HTTP/1.0 200 ") || !strings.HasSuffix(got, row.want) || strings.Contains(got, " 10") {
				t.Errorf("got %q", got)
			}
			if h := <-asked; h.Get("Expect") != "" || h.Get("Upgrade") != "" {
				t.Errorf("the server was asked with %v", h)
			}
		})
	}
}

// TestStreaming shows that bodies flow both ways at once, each byte as it comes.
func TestStreaming(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, w *world, serve func(http.Handler), client *http.Client, origin string, _ bool) {
		serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			rc := http.NewResponseController(w)
			_ = rc.EnableFullDuplex()
			w.WriteHeader(200)
			_ = rc.Flush()
			buf := make([]byte, 1)
			for {
				if _, err := r.Body.Read(buf); err != nil {
					return
				}
				_, _ = w.Write(buf)
				_ = rc.Flush()
			}
		}))
		out, in := io.Pipe()
		req, _ := http.NewRequestWithContext(t.Context(), "POST", origin, out)
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		for i := range 100 {
			if _, err := in.Write([]byte{byte(i)}); err != nil {
				t.Fatal(err)
			}
			var got [1]byte
			if _, err := io.ReadFull(res.Body, got[:]); err != nil || got[0] != byte(i) {
				t.Fatalf("byte %d: got %d, %v", i, got[0], err)
			}
		}
		_ = in.Close()
		if rest, err := io.ReadAll(res.Body); err != nil || len(rest) != 0 {
			t.Errorf("got %q, %v", rest, err)
		}
	})
}

// TestLarge shows that large bodies come through whole, both ways at once.
// SLUICE_LARGE=1 makes it 5 GiB.
func TestLarge(t *testing.T) {
	size := int64(64 << 20)
	if os.Getenv("SLUICE_LARGE") == "1" {
		size = 5 << 30
	}
	for _, http2 := range []bool{false, true} {
		w := newWorld(t, Config{})
		w.serveTLS(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).EnableFullDuplex()
			if r.ProtoMajor == 1 {
				w.Header().Set("Content-Length", strconv.FormatInt(r.ContentLength, 10))
			}
			_, _ = io.Copy(w, r.Body)
		}), nil)
		sent, got := sha256.New(), sha256.New()
		client := w.client(http2)
		client.Timeout = 10 * time.Minute
		req, _ := http.NewRequestWithContext(t.Context(), "POST", "https://"+site, io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{}), size), sent))
		req.ContentLength = size
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(got, res.Body)
		_ = res.Body.Close()
		if err != nil || n != size || !bytes.Equal(got.Sum(nil), sent.Sum(nil)) {
			t.Errorf("HTTP/2 %t: got %d of %d bytes, the same %t, %v", http2, n, size, bytes.Equal(got.Sum(nil), sent.Sum(nil)), err)
		}
	}
}

// TestBackPressure shows that a guest that doesn't read makes the server wait, and
// not us hold what it sends.
func TestBackPressure(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, w *world, serve func(http.Handler), client *http.Client, origin string, _ bool) {
		var sent atomic.Int64
		stopped := make(chan struct{})
		serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer close(stopped)
			chunk := make([]byte, 64<<10)
			for r.Context().Err() == nil {
				n, err := w.Write(chunk)
				if sent.Add(int64(n)); err != nil {
					return
				}
			}
		}))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		req, _ := http.NewRequestWithContext(ctx, "GET", origin, nil)
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		var before int64
		for before = -1; before != sent.Load(); time.Sleep(300 * time.Millisecond) {
			before = sent.Load()
		}
		if before > 48<<20 {
			t.Errorf("the server sent %d bytes that nobody read", before)
		}
		cancel()
		_ = res.Body.Close()
		<-stopped // a guest that has gone stops the server
	})
}

// TestMany shows a thousand requests at once, and a hundred on one connection.
func TestMany(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, w *world, serve func(http.Handler), client *http.Client, origin string, http2 bool) {
		serve(http.HandlerFunc(hello))
		get := func(client *http.Client, i int) error {
			res, err := client.Get(fmt.Sprintf("%s/%d", origin, i))
			if err != nil {
				return err
			}
			defer res.Body.Close()
			body, err := io.ReadAll(res.Body)
			if err != nil || !strings.Contains(string(body), fmt.Sprintf(" /%d ", i)) {
				return fmt.Errorf("got %q, %w", body, err)
			}
			return nil
		}
		for i := range 100 {
			if err := get(client, i); err != nil {
				t.Fatal(err)
			}
		}
		w.mu.Lock()
		dials := w.dials
		w.mu.Unlock()
		if dials != 1 {
			t.Errorf("a hundred requests took %d connections", dials)
		}
		// Go's client of HTTP/2 opens a new connection for each request above 250, and
		// for each while it has none.
		var clients []*http.Client
		for range 5 {
			c := w.client(http2)
			if err := get(c, 0); err != nil {
				t.Fatal(err)
			}
			clients = append(clients, c)
		}
		failed := make(chan error, 1000)
		for i := range cap(failed) {
			go func() { failed <- get(clients[i%len(clients)], i) }()
		}
		for range cap(failed) {
			if err := <-failed; err != nil {
				t.Error(err)
			}
		}
	})
}

// TestFewStreams shows that requests wait for a server that takes only a few at
// once.
func TestFewStreams(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	w.serverLimits = &http.HTTP2Config{MaxConcurrentStreams: 3}
	w.serveTLS(http.HandlerFunc(hello), nil)
	client := w.client(true)
	if _, err := client.Head("https://" + site); err != nil {
		t.Fatal(err)
	}
	failed := make(chan error, 100)
	for range cap(failed) {
		go func() {
			res, err := client.Get("https://" + site)
			if err == nil {
				_, err = io.Copy(io.Discard, res.Body)
				_ = res.Body.Close()
			}
			failed <- err
		}()
	}
	for range cap(failed) {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
}

// TestWebSocket shows an upgrade, which is the one that passes, and what is spliced
// behind it.
func TestWebSocket(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ name, request, answer, want string }{
		{"WebSocket", "Upgrade: websocket\r\nConnection: Upgrade\r\n", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", "101"},
		{"refused", "Upgrade: websocket\r\nConnection: Upgrade\r\n", "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", "403"},
		{"unasked", "", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", ""},
		{"another protocol", "Upgrade: h2c\r\nConnection: Upgrade\r\n", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n", ""},
		{"another than asked", "Upgrade: websocket\r\nConnection: Upgrade\r\n", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n", ""},
		{"one of two", "Upgrade: websocket, h2c\r\nConnection: Upgrade\r\n", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, Config{})
			w.serveTLSConns(protocolConfig("http/1.1"), func(c net.Conn) {
				br := bufio.NewReader(c)
				if _, err := http.ReadRequest(br); err != nil {
					return
				}
				_, _ = io.WriteString(c, row.answer)
				_, _ = io.Copy(c, br)
			})
			c := w.mustHandshake("http/1.1")
			_, _ = io.WriteString(c, "GET /chat HTTP/1.1\r\nHost: "+site+"\r\nSec-WebSocket-Key: x\r\n"+row.request+"\r\n\x81\x85frame")
			br := bufio.NewReader(c)
			res, err := http.ReadResponse(br, nil)
			switch {
			case row.want == "":
				if err == nil || w.resetCount() == 0 {
					t.Errorf("got %v, %d resets", res, w.resetCount())
				}
			case err != nil || strconv.Itoa(res.StatusCode) != row.want:
				t.Errorf("got %v, %v", res, err)
			case row.want == "101":
				_, _ = io.WriteString(c, "more, and GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n")
				_ = c.CloseWrite()
				if rest, err := io.ReadAll(br); err != nil || !strings.HasPrefix(string(rest), "\x81\x85framemore, and GET") {
					t.Errorf("got %q, %v", rest, err)
				}
			}
		})
	}
}

// TestServerCloses shows that a kept-alive connection that the server has closed is
// made anew, and one that ends in the middle of a response ends the guest's.
func TestServerCloses(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	w.serveTLSConns(protocolConfig("http/1.1"), func(c net.Conn) {
		if r, err := http.ReadRequest(bufio.NewReader(c)); err == nil && r.URL.Path == "/short" {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
		} else if err == nil {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody")
		}
	})
	client := w.client(false)
	for i := range 3 {
		res, err := client.Get("https://" + site + "/")
		if err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
		if body, err := io.ReadAll(res.Body); err != nil || string(body) != "body" {
			t.Errorf("request %d: got %q, %v", i, body, err)
		}
		_ = res.Body.Close()
	}
	res, err := client.Get("https://" + site + "/short")
	if err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(res.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %q, %v; want an unexpected end", body, err)
	}
	_ = res.Body.Close()
}

// TestLiveDenial shows that the next request meets the policy of its own moment.
func TestLiveDenial(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, w *world, serve func(http.Handler), client *http.Client, origin string, _ bool) {
		served := 0
		serve(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served++ }))
		res, err := client.Get(origin)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		w.deny(site)
		if res, err = client.Get(origin); err == nil {
			if _ = res.Body.Close(); res.StatusCode != http.StatusMisdirectedRequest {
				t.Errorf("got %d", res.StatusCode)
			}
		}
		if served != 1 {
			t.Errorf("the server saw %d requests", served)
		}
	})
}

// TestIdle shows that a guest that asks nothing more is left, and one that begins a
// head and doesn't end it.
func TestIdle(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{Limits: Limits{Idle: 300 * time.Millisecond, Head: 300 * time.Millisecond}})
	w.serveTLS(http.HandlerFunc(hello), nil)
	for _, row := range []struct{ name, sent string }{
		{"nothing", ""},
		{"half a head", "GET / HTTP/1.1\r\nHost:"},
		{"a request, and then nothing", "GET / HTTP/1.1\r\nHost: " + site + "\r\n\r\n"},
		{"a request, and half of another", "GET / HTTP/1.1\r\nHost: " + site + "\r\n\r\nGET / HTTP/1.1\r\n"},
	} {
		c := w.mustHandshake("http/1.1")
		_, _ = io.WriteString(c, row.sent)
		if _, err := io.ReadAll(c); isTimeout(err) {
			t.Errorf("%s: still there: %v", row.name, err)
		}
	}
}

// TestSlowRequest shows that a head has to be finished in time, behind other requests
// too; a body has not.
func TestSlowRequest(t *testing.T) {
	t.Parallel()
	const head = "POST / HTTP/1.1\r\nHost: " + site + "\r\n"
	for _, row := range []struct {
		name, sent, rest string
		kept             bool
	}{
		{"first head", "GET / HT", "TP/1.1\r\nHost: " + site + "\r\n\r\n", false},
		{"second head", head + "Content-Length: 0\r\n\r\nGET / HT", "TP/1.1\r\nHost: " + site + "\r\n\r\n", false},
		{"size of a chunk", head + "Transfer-Encoding: chunked\r\n\r\n1", "\r\nx\r\n0\r\n\r\n", true},
		{"trailer", head + "Transfer-Encoding: chunked\r\n\r\n0\r\nX", ": y\r\n\r\n", true},
		{"chunk", head + "Transfer-Encoding: chunked\r\n\r\n2\r\nx", "y\r\n0\r\n\r\n", true},
		{"body", head + "Content-Length: 2\r\n\r\nx", "y", true},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, Config{Limits: Limits{Head: 300 * time.Millisecond}})
			w.serveTLS(http.HandlerFunc(hello), nil)
			c := w.mustHandshake("http/1.1")
			_, _ = io.WriteString(c, row.sent)
			if row.kept {
				_ = c.SetReadDeadline(time.Now().Add(time.Second))
			}
			got, err := io.ReadAll(c)
			if isTimeout(err) != row.kept {
				t.Fatalf("after a while: %q, %v", got, err)
			}
			if !row.kept {
				return
			}
			_ = c.SetReadDeadline(time.Now().Add(patience))
			_, _ = io.WriteString(c, row.rest)
			if res, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || res.StatusCode != 200 {
				t.Errorf("got %v, %v", res, err)
			}
		})
	}
}
