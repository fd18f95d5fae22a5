package mitm

import (
	"context"
	"crypto/tls"
	"net"

	"github.com/sluicenet/sluice/internal/sniff"
	"github.com/sluicenet/sluice/policy"
)

// readPlain answers a flow that isn't intercepted, but read: plain HTTP whose every
// request is decided by its authority. What turns out to be something else is
// decided once, by what its first bytes show, and passed on as it is.
func (p *Proxy) readPlain(ctx context.Context, guest net.Conn, f Flow) {
	var first flight
	var err error
	if t, ok := f.(*tunnel); ok && t.connected() {
		var over bool
		if first, over, err = p.readTunnel(guest, t); over {
			return
		}
	} else {
		first, err = readFlight(guest, f.Asked().Addr(), p.limits.Idle, p.limits.Head, nil)
	}
	if err != nil {
		return
	}
	s := &session{p: p, flow: f}
	defer s.end()
	switch first.Kind {
	case sniff.HTTP1, sniff.Connect:
		p.serveGuest(ctx, newHTTP1Guest(guest, s, first))
	case sniff.HTTP2:
		p.serveGuest(ctx, newHTTP2Guest(&replayed{guest, first.bytes}, s))
	case sniff.Malformed:
		if isText(first.bytes) {
			p.serveGuest(ctx, newHTTP1Guest(guest, s, first)) // for the 400
			return
		}
		f.Reset()
	default:
		p.passOn(ctx, &replayed{guest, first.bytes}, f, first)
	}
}

// isText reports whether a malformed flight was meant to be HTTP, and not TLS.
func isText(b []byte) bool {
	return len(b) > 0 && (b[0] >= ' ' && b[0] < 0x7f || b[0] == '\r' || b[0] == '\n' || b[0] == '\t')
}

// passOn passes on a flow that is neither HTTP nor intercepted, if the policy
// allows what its first bytes show.
func (p *Proxy) passOn(ctx context.Context, guest net.Conn, f Flow, first flight) {
	if !mayPass(f, first) {
		return
	}
	upstream, err := f.Dial(ctx)
	if err != nil {
		f.Reset()
		return
	}
	defer context.AfterFunc(ctx, func() { _ = upstream.Close() })()
	relay(guest, upstream, f.Reset)
}

// mayPass reports whether the policy allows what the first bytes of a flow show that
// isn't HTTP. It resets the flow if not.
func mayPass(f Flow, first flight) bool {
	from := fromNowhere
	if first.Name != "" {
		from = fromSNI
	}
	if isReadable(first.Kind) || f.Decide(first.Name, from).Action != policy.Allow {
		f.Reset()
		return false
	}
	return true
}

// serveDoT answers DNS over TLS: whatever server the guest wanted to ask, our
// resolver answers (RFC 7858). No upstream is involved.
func (p *Proxy) serveDoT(ctx context.Context, guest net.Conn, f Flow) {
	first, err := readFlight(guest, f.Asked().Addr(), p.limits.Idle, p.limits.Handshake, nil)
	if err != nil {
		return
	}
	if first.Kind != sniff.TLS {
		p.fail(f, "", "guest", complaint{"not TLS on the port of DNS over TLS", ""})
		f.Reset()
		return
	}
	name := first.Name
	if name == "" {
		name = f.Asked().Addr().String() // stubs that know their server by address check that
	}
	var alpn []string
	if len(first.ALPN()) > 0 {
		alpn = []string{"dot"}
	}
	near, err := p.handshake(ctx, &replayed{guest, first.bytes}, f, name, alpn)
	if err != nil {
		return
	}
	c := near.ConnectionState()
	p.tell(f, Event{Type: EventIntercept, Name: first.Name, Version: tls.VersionName(c.Version), ALPN: c.NegotiatedProtocol})
	p.cfg.DNS(near)
}
