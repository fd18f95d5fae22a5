package sdk

import (
	"context"
	"net"
	"net/http"
	"strings"
	"time"
)

// Dial connects to an address as the guest sees it. ":80" is a port of the
// guest's, reached over its network card as a published port would be, so the
// policy's ingress rules decide; any other address, of network tcp or unix, is
// dialled by the guest itself: its loopback, its sockets, and the world as far as
// the policy lets the guest go. ctx governs the dialling only.
//
// The connection has a method CloseWrite() error.
func (s *Sandbox) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return ask(ctx, s, "dial "+address+" in", func(ctx context.Context) (net.Conn, error) {
		return s.client.Dial(ctx, network, address)
	})
}

// HTTPClient returns a client whose connections begin inside the guest: that of
// http://localhost:8080 goes to a service on the guest's own loopback. It uses no
// proxy, and follows no redirect to somewhere else than the policy allows the
// guest. Its idle connections end with the sandbox, or with CloseIdleConnections.
func (s *Sandbox) HTTPClient() *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext:         s.dialHTTP,
		ForceAttemptHTTP2:   true,
		MaxIdleConnsPerHost: 4,
		IdleConnTimeout:     30 * time.Second,
		TLSHandshakeTimeout: 10 * time.Second,
	}}
}

// dialHTTP dials a host and port of a URL. localhost is the guest's loopback,
// which need not know its name.
func (s *Sandbox) dialHTTP(ctx context.Context, network, address string) (net.Conn, error) {
	if port, ok := strings.CutPrefix(address, "localhost:"); ok {
		address = "127.0.0.1:" + port
	}
	return s.Dial(ctx, network, address)
}
