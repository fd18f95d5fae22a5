//nolint:staticcheck // see below
package mitm

//lint:file-ignore SA1019 x/net calls its client deprecated in favour of net/http's
// ClientConn, which can't say whether a connection without a free stream is busy or
// about to end: requests would wait for a server that takes no more of them.

import (
	"fmt"
	"net/http"
	"sync"

	"golang.org/x/net/http2"
)

// An http2Client sends the requests of one guest's connection to its server over
// HTTP/2, on one connection at a time: another is made when the server has ended
// the last. The server is heard through smallFrames. Its methods may be called concurrently.
type http2Client struct {
	session   *session
	transport *http2Transport

	mu   sync.Mutex
	conn *http2.ClientConn // nil before the first request
}

// An http2Transport speaks HTTP/2 on connections that a pool of ours makes.
type http2Transport = http2.Transport

// newHTTP2Transport returns what speaks HTTP/2 for the sessions of a tier: each request goes
// over its own session's connection.
func (p *Proxy) newHTTP2Transport(connBytes int) (*http2Transport, error) {
	t, err := http2.ConfigureTransports(&http.Transport{HTTP2: p.http2Limits(connBytes)})
	if err != nil {
		return nil, fmt.Errorf("configure HTTP/2: %w", err)
	}
	t.ConnPool = sessionConns{}
	t.AllowHTTP = true
	t.DisableCompression = true // an Accept-Encoding is the guest's to send
	t.StrictMaxConcurrentStreams = true
	t.MaxHeaderListSize = uint32(p.limits.HeadBytes)
	return t, nil
}

// RoundTrip implements [http.RoundTripper].
func (c *http2Client) RoundTrip(r *http.Request) (*http.Response, error) {
	return c.transport.RoundTrip(r)
}

// sessionConns finds a request's connection.
type sessionConns struct{}

// GetClientConn implements [http2.ClientConnPool].
func (sessionConns) GetClientConn(r *http.Request, _ string) (*http2.ClientConn, error) {
	c := exchangeOf(r).session.client.(*http2Client)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil && c.conn.CanTakeNewRequest() {
		return c.conn, nil
	}
	raw, err := c.session.dial(r.Context())
	if err != nil {
		return nil, err
	}
	conn, err := c.transport.NewClientConn(&smallFrames{Conn: raw})
	if err != nil {
		_ = raw.Close()
		return nil, &dialError{err}
	}
	c.conn = conn
	return conn, nil
}

// MarkDead implements [http2.ClientConnPool]: a connection says itself whether it
// can be used.
func (sessionConns) MarkDead(*http2.ClientConn) {}
