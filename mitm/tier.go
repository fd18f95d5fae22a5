package mitm

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
)

// roomyConns is how many connections of HTTP/2 may hold Limits.ConnBytes on each leg at
// the same time: more than a browser has, and 128 MiB by default. Those beyond
// hold crowdedBytes, the least that HTTP/2 knows: some thousand fit.
const (
	roomyConns   = 64
	crowdedBytes = 64 << 10
)

// A tier is what serves guests' connections and speaks HTTP/2 with their servers,
// with windows of one size: net/http wants to know that before the first
// connection. Of HTTP/1 the size of windows is the system's.
type tier struct {
	server *http.Server
	guests *guestListener
	http2  *http2Transport
	served chan struct{} // closed when server has ended
}

// newTier returns a tier whose serve is to be called.
func (p *Proxy) newTier(connBytes int) (*tier, error) {
	t := &tier{server: p.newServer(connBytes), guests: newGuestListener(), served: make(chan struct{})}
	var err error
	if t.http2, err = p.newHTTP2Transport(connBytes); err != nil {
		return nil, err
	}
	return t, nil
}

// serve runs the server behind guests' connections until close.
func (t *tier) serve(p *Proxy) {
	defer close(t.served)
	if err := t.server.Serve(t.guests); !errors.Is(err, http.ErrServerClosed) {
		p.log.Error("serve guests", "err", err)
	}
}

// close ends the server.
func (t *tier) close() error {
	err := t.server.Close()
	<-t.served
	return err
}

// tierFor returns where a connection is to be served, and a function to be called
// when it has ended.
func (p *Proxy) tierFor(g *guestConn) (t *tier, ended func()) {
	if !g.http2 {
		return p.roomy, func() {}
	}
	t = p.roomy
	if p.http2Conns.Add(1) > roomyConns {
		t = p.crowded
	}
	return t, func() { p.http2Conns.Add(-1) }
}

// newServer returns a server of guests. It serves HTTP/1, and HTTP/2 to who begins
// with its preface: nobody is handed over who shouldn't.
func (p *Proxy) newServer(connBytes int) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler:                      http.HandlerFunc(p.serveRequest),
		Protocols:                    protocols,
		HTTP2:                        p.http2Limits(connBytes),
		ReadHeaderTimeout:            p.limits.Head,
		IdleTimeout:                  p.limits.Idle,
		MaxHeaderBytes:               p.limits.HeadBytes,
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     silent(),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, sessionKey{}, c.(*guestConn).session)
		},
	}
}

// http2Limits bounds what HTTP/2 holds in memory, on either leg.
func (p *Proxy) http2Limits(connBytes int) *http.HTTP2Config {
	return &http.HTTP2Config{
		MaxConcurrentStreams:          p.limits.Streams,
		StrictMaxConcurrentRequests:   true,          // requests wait instead of opening connections
		MaxReadFrameSize:              smallestFrame, // which each connection has a buffer for
		MaxReceiveBufferPerConnection: connBytes,
		MaxReceiveBufferPerStream:     connBytes,
	}
}

// silent is net/http's log: it quotes guests.
func silent() *log.Logger { return log.New(io.Discard, "", 0) }
