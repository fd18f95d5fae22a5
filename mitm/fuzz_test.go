package mitm

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sluicenet/sluice/internal/sniff"
)

// A script is a connection whose peer has said all that it will say.
type script struct {
	in  *bytes.Reader
	out bytes.Buffer
}

func (s *script) Read(p []byte) (int, error)       { return s.in.Read(p) }
func (s *script) Write(p []byte) (int, error)      { return s.out.Write(p) }
func (s *script) Close() error                     { return nil }
func (s *script) LocalAddr() net.Addr              { return new(net.TCPAddr) }
func (s *script) RemoteAddr() net.Addr             { return new(net.TCPAddr) }
func (s *script) SetDeadline(time.Time) error      { return nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }
func newScript(in []byte) *script                  { return &script{in: bytes.NewReader(in)} }
func guestOf(in []byte, first int) (*guestConn, bool) {
	f := flight{bytes: bytes.Clone(in[:min(first, len(in))])}
	sniffer := sniff.Flight{}
	for rest := in[len(f.bytes):]; ; {
		if f.Result = sniffer.Next(f.bytes, len(rest) == 0); f.Kind != sniff.More {
			s := &session{secure: true}
			return newHTTP1Guest(newScript(rest), s, f), f.Kind == sniff.HTTP1
		}
		f.bytes, rest = append(f.bytes, rest[0]), rest[1:]
	}
}

// A request as net/http reads it.
type parsed struct {
	method, host, uri, body string
	header                  http.Header
}

// parseAll reads requests until one isn't whole.
func parseAll(r io.Reader) (all []parsed) {
	br := bufio.NewReader(r)
	for {
		req, err := http.ReadRequest(br)
		if err != nil {
			return all
		}
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return all
		}
		all = append(all, parsed{req.Method, req.Host, req.RequestURI, string(body), req.Header})
	}
}

// seeds are what fuzzing begins with.
func seeds(f *testing.F) {
	for _, row := range smuggled {
		if len(row.request) < 4096 {
			f.Add([]byte(strings.ReplaceAll(row.request, "{site}", site)), uint16(0))
		}
	}
	f.Add([]byte("GET / HTTP/1.1\r\nHost: "+site+"\r\n\r\nPOST /x HTTP/1.1\r\nHost: "+site+"\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nX: y\r\n\r\nGET /y HTTP/1.1\r\nHost: "+site+"\r\n\r\n"), uint16(20))
	f.Add([]byte("POST / HTTP/1.1\r\nHost: "+site+"\r\nContent-Length: 4\r\n\r\nbodyGET / HTTP/1.0\r\n\r\n"), uint16(7))
}

// FuzzRequest checks the strict reader in front of net/http: however a guest's
// bytes are cut, what passes is a prefix of them, is the same, and net/http reads
// in it the very requests that it reads in the whole. Whatever net/http refuses
// thus gets no further than to net/http.
func FuzzRequest(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, in []byte, cut uint16) {
		if len(in) == 0 {
			return
		}
		g, http1 := guestOf(in, int(cut))
		if !http1 {
			return
		}
		passed, _ := io.ReadAll(&untilPoison{g})
		if !bytes.HasPrefix(in, passed) {
			t.Fatalf("passed %q, which isn't the beginning of %q", passed, in)
		}
		whole, _ := guestOf(in, len(in))
		if other, _ := io.ReadAll(&untilPoison{whole}); !bytes.Equal(other, passed) {
			t.Fatalf("cut at %d %q passes, else %q", cut, passed, other)
		}
		ours, theirs := parseAll(bytes.NewReader(passed)), parseAll(bytes.NewReader(in))
		if len(ours) > len(theirs) {
			t.Fatalf("%q: net/http reads %d requests in what passes, %d in all", in, len(ours), len(theirs))
		}
		for i := range ours {
			if ours[i].method != theirs[i].method || ours[i].host != theirs[i].host || ours[i].uri != theirs[i].uri || ours[i].body != theirs[i].body {
				t.Fatalf("%q: request %d is %+v of what passes, %+v of all", in, i, ours[i], theirs[i])
			}
		}
	})
}

// untilPoison reads what passed, without what stands in for the rest.
type untilPoison struct{ g *guestConn }

func (u *untilPoison) Read(p []byte) (int, error) {
	if u.g.allowed == 0 && u.g.refused != nil {
		return 0, io.EOF
	}
	n, err := u.g.Read(p)
	if n == len(poison) && u.g.poisoned > 0 {
		return 0, io.EOF
	}
	return n, err
}

// FuzzForward sends bytes through a whole Proxy to a server that records what
// comes, as raw bytes: what arrives are well-formed requests for the site, each of
// which net/http reads in the guest's bytes too.
func FuzzForward(f *testing.F) {
	seeds(f)
	arrived := make(chan []byte)
	w := newWorld(f, Config{})
	w.serveConns(80, func(c net.Conn) {
		var got bytes.Buffer
		br := bufio.NewReader(io.TeeReader(c, &got))
		for {
			r, err := http.ReadRequest(br)
			if err != nil {
				break
			}
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				break
			}
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		}
		arrived <- got.Bytes()
	})
	w.deny("evil.example")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = l.Close() })
	f.Fuzz(func(t *testing.T, in []byte, cut uint16) {
		if len(in) == 0 || len(in) > 4096 {
			return
		}
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Skip(err)
		}
		far, err := l.Accept()
		if err != nil {
			t.Skip(err)
		}
		w.mu.Lock()
		w.dials = 0
		w.mu.Unlock()
		served := make(chan struct{})
		go func() {
			defer close(served)
			w.proxy.Serve(t.Context(), far, w.flow(far, 80))
		}()
		k := min(int(cut), len(in))
		_, _ = c.Write(in[:k])
		_, _ = c.Write(in[k:])
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		_, _ = io.Copy(io.Discard, c)
		_ = c.Close()
		<-served
		var got []byte
		for range w.dials {
			got = append(got, <-arrived...)
		}
		theirs := parseAll(bytes.NewReader(in))
		ours := parseAll(bytes.NewReader(got))
		for i, r := range ours {
			if i >= len(theirs) || theirs[i].method != r.method || theirs[i].body != r.body {
				t.Fatalf("%q: request %d arrived as %+v", in, i, r)
			}
			for k := range r.header {
				if strings.ContainsAny(k, "\r\n \x00") {
					t.Fatalf("%q: field %q arrived", in, k)
				}
			}
		}
	})
}

// FuzzResponse checks what a server's bytes become: the guest reads a response
// only where net/http reads the same in the server's bytes, or a page of ours.
func FuzzResponse(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
		"HTTP/1.0 200 OK\r\n\r\nbody", "HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 4, 5\r\n\r\nbody", "SSH-2.0-x\r\n",
		"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\nx", "HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	answer := make(chan []byte, 1)
	w := newWorld(f, Config{Limits: Limits{Idle: time.Second}})
	w.serveConns(80, func(c net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
			_, _ = c.Write(<-answer)
		}
	})
	door := w.door(80)
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) > 4096 {
			return
		}
		req, _ := http.NewRequest("GET", "http://"+site, nil)
		theirs, theirBody, theirErr := readFinal(bufio.NewReader(bytes.NewReader(in)), req)
		c, err := net.Dial("tcp", door)
		if err != nil {
			t.Skip(err)
		}
		defer c.Close()
		answer <- in
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: "+site+"\r\nConnection: close\r\n\r\n")
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		ours, ourBody, ourErr := readFinal(bufio.NewReader(c), req)
		switch {
		case ourErr != nil || ours.StatusCode == 502:
			// The server's response wasn't whole, or asked for what we didn't.
		case theirErr != nil:
			t.Fatalf("%q: the guest got %d %q, net/http %v", in, ours.StatusCode, ourBody, theirErr)
		case ours.StatusCode != theirs.StatusCode || ourBody != theirBody:
			t.Fatalf("%q: the guest got %d %q, net/http %d %q", in, ours.StatusCode, ourBody, theirs.StatusCode, theirBody)
		}
	})
}

// readFinal reads the first response that isn't interim, with its body.
func readFinal(br *bufio.Reader, req *http.Request) (*http.Response, string, error) {
	for {
		res, err := http.ReadResponse(br, req)
		if err != nil {
			return nil, "", err
		}
		if res.StatusCode >= 200 || res.StatusCode == 101 {
			body, err := io.ReadAll(res.Body)
			return res, string(body), err
		}
	}
}
