package sniff

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// The oracles are two servers that many guests will meet, and that are more
// forgiving than we are. What must hold:
//
//   - the name that we tell is the name they find, if they find any;
//   - bytes in which they find a ClientHello or a request are never opaque.

// tlsServer returns what crypto/tls reads in a ClientHello; nil if it reads
// none.
func tlsServer(b []byte) *tls.ClientHelloInfo {
	var found *tls.ClientHelloInfo
	stop := errors.New("seen enough")
	server := tls.Server(&recorder{input: bytes.NewReader(b)}, &tls.Config{
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			found = h
			return nil, stop
		},
	})
	server.Handshake()
	return found
}

// httpServer returns what net/http reads in a request's head; nil if it reads
// none.
func httpServer(b []byte) *http.Request {
	req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(b)))
	if err != nil {
		return nil
	}
	return req
}

// canonicalHost returns the host of a Host field in lower case, without port
// and trailing dot, by means that share nothing with ours.
func canonicalHost(hostport string) string {
	host := strings.ToLower(hostport)
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.Contains(host[i:], "]") {
		host = host[:i]
	}
	return strings.TrimSuffix(host, ".")
}

// checkOracles compares the verdict on b with the oracles'.
func checkOracles(t *testing.T, b []byte, dst netip.Addr) {
	t.Helper()
	got := Classify(b, true, dst)
	if h := tlsServer(b); h != nil {
		switch {
		case got.Kind == Malformed:
		case got.Kind != TLS:
			t.Errorf("crypto/tls reads a ClientHello for %q, we read %v in %q", h.ServerName, got.Kind, b)
		case got.Name != strings.ToLower(h.ServerName):
			t.Errorf("crypto/tls reads the name %q, we %q in %q", h.ServerName, got.Name, b)
		case !slices.Equal(got.ALPN(), h.SupportedProtos):
			t.Errorf("crypto/tls reads the protocols %q, we %q in %q", h.SupportedProtos, got.ALPN(), b)
		}
	}
	if req := httpServer(b); req != nil {
		want := canonicalHost(req.Host)
		switch got.Kind {
		case Malformed:
		case HTTP2:
			if req.Method != "PRI" {
				t.Errorf("net/http reads %s, we HTTP/2 in %q", req.Method, b)
			}
		case HTTP1:
			if got.Name != want && want != dst.String() && want != "["+dst.String()+"]" {
				t.Errorf("net/http reads the host %q, we %q in %q", req.Host, got.Name, b)
			}
		case Connect:
			if got.Name != want && strings.Trim(want, "[]") != got.Addr.String() && netip.MustParseAddr(strings.Trim(want, "[]")) != got.Addr {
				t.Errorf("net/http reads the target %q, we %q, %v in %q", req.Host, got.Name, got.Addr, b)
			}
		default:
			t.Errorf("net/http reads a request to %q, we read %v in %q", req.Host, got.Kind, b)
		}
	}
}

// A request is what a stream of requests is about: where each head begins and
// what host it names.
type request struct {
	at   int
	host string
}

// httpRequests returns the requests that net/http reads in a stream until it
// ends or fails.
func httpRequests(stream []byte) (found []request) {
	source := bytes.NewReader(stream)
	r := bufio.NewReader(source)
	for {
		at := len(stream) - source.Len() - r.Buffered()
		req, err := http.ReadRequest(r)
		if err != nil {
			return found
		}
		found = append(found, request{at, canonicalHost(req.Host)})
		if _, err := io.Copy(io.Discard, req.Body); err != nil {
			return found
		}
	}
}
