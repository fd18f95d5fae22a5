package mitm

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"time"
)

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
	_ = conn.SetDeadline(time.Now().Add(patience))
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
