package mitm

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"

	"github.com/sluicenet/sluice/internal/sniff"
	"github.com/sluicenet/sluice/policy"
)

// The protocols that we proxy, as ALPN names them. Others are relayed.
const (
	alpnHTTP1 = "http/1.1"
	alpnHTTP2 = "h2"
	alpnGRPC  = "grpc-exp" // HTTP/2, of a server that knows it is asked for gRPC; clients of gRPC's C core offer it first
)

// isHTTP2 reports whether ALPN has chosen HTTP/2.
func isHTTP2(alpn string) bool { return alpn == alpnHTTP2 || alpn == alpnGRPC }

// intercept answers a flow to an intercepted port.
func (p *Proxy) intercept(ctx context.Context, guest net.Conn, f Flow) {
	if p.cfg.AllowNonTLS && byAddress(f.Decide("", fromNowhere)) {
		p.interceptEither(ctx, guest, f)
		return
	}
	first, err := readFlight(guest, f.Asked().Addr(), p.limits.Idle, p.limits.Handshake, nil)
	if err != nil {
		return
	}
	if first.Kind != sniff.TLS || first.Name == "" {
		p.refuse(f, first)
		return
	}
	p.interceptTLS(ctx, &replayed{guest, first.bytes}, f, first)
}

// interceptEither answers a flow that may be TLS or not. Who is no TLS may wait
// for the server's first word, so the server is connected at once.
func (p *Proxy) interceptEither(ctx context.Context, guest net.Conn, f Flow) {
	cs := new(conns)
	defer cs.close()
	upstream, err := cs.dial(ctx, f)
	if err != nil {
		f.Reset()
		return
	}
	first, spoken, err := p.readFlightOrBanner(guest, upstream, f)
	if err != nil {
		return
	}
	if first.Kind == sniff.TLS && first.Name != "" && !spoken {
		_ = upstream.Close() // TLS is dialled under its own verdict
		p.interceptTLS(ctx, &replayed{guest, first.bytes}, f, first)
		return
	}
	relay(p.hold(guest, first, f, func(first flight) bool { return p.passesUnread(f, first) }), upstream, f.Reset)
}

// passesUnread reports whether a flight on an intercepted port may pass although it
// is no TLS with a name, or comes behind a banner. It refuses what may not.
func (p *Proxy) passesUnread(f Flow, first flight) bool {
	from := fromNowhere
	if first.Kind == sniff.Malformed || first.Kind == sniff.TLS && first.Name != "" {
		from = fromMalformed // a banner, and then a name
	}
	if v := f.Decide("", from); !byAddress(v) || isHTTP(first.Kind) && v.PerRequest {
		p.refuse(f, first)
		return false
	}
	return true
}

// refuse ends a flow that shows no name on an intercepted port.
func (p *Proxy) refuse(f Flow, first flight) {
	reason := "not TLS"
	switch {
	case first.Reason != "":
		reason = "malformed: " + first.Reason
	case first.Kind == sniff.TLS:
		reason = "no server name in the ClientHello"
	}
	p.fail(f, "", "guest", complaint{reason, "set AllowNonTLS, with a rule that allows the address"})
	f.Reset()
}

func isHTTP(k sniff.Kind) bool {
	return k == sniff.HTTP1 || k == sniff.HTTP2 || k == sniff.Connect
}

// interceptTLS answers a flow that begins with a ClientHello with a name. guest
// yields the hello again.
func (p *Proxy) interceptTLS(ctx context.Context, guest net.Conn, f Flow, hello flight) {
	if f.Decide(hello.Name, fromSNI).Action != policy.Allow {
		f.Reset()
		return
	}
	if matchAny(p.cfg.Bypass, hello.Name) {
		p.bypass(ctx, guest, f, hello.Name)
		return
	}
	if hello.Version < tls.VersionTLS12 {
		p.handshake(ctx, guest, f, hello.Name, nil) // for the alert
		return
	}
	s := &session{p: p, flow: f, name: hello.Name, secure: true, verified: p.trust.verifies(hello.Name)}
	s.upstream = &upstream{p: p, flow: f, name: hello.Name, alpn: hello.ALPN(), conns: &s.conns}
	defer s.end()
	far, err := s.upstream.dial(ctx)
	var refused *handshakeError
	switch {
	case errors.As(err, &refused):
		p.fail(f, hello.Name, "upstream", refused.complaint)
		p.explain(ctx, guest, s, hello.ALPN(), refused.complaint)
		return
	case err != nil:
		f.Reset()
		return
	}
	chosen := far.ConnectionState().NegotiatedProtocol
	near, err := p.handshake(ctx, guest, f, hello.Name, protocols(chosen))
	if err != nil {
		return
	}
	s.upstream.spare, s.upstream.alpn = far, protocols(chosen)
	p.tell(f, Event{Type: EventIntercept, Name: hello.Name, Version: tls.VersionName(near.ConnectionState().Version), ALPN: chosen, Verified: s.verified})
	p.serveDecrypted(ctx, near, far, s, chosen)
}

// protocols returns the ALPN list of one protocol, or of none.
func protocols(one string) []string {
	if one == "" {
		return nil
	}
	return []string{one}
}

// bypass passes a flow on as it is.
func (p *Proxy) bypass(ctx context.Context, guest net.Conn, f Flow, name string) {
	upstream, err := f.Dial(ctx)
	if err != nil {
		f.Reset()
		return
	}
	defer context.AfterFunc(ctx, func() { _ = upstream.Close() })()
	p.tell(f, Event{Type: EventBypass, Name: name})
	relay(guest, upstream, f.Reset)
}

// handshake makes TLS with the guest, as the server of a name that speaks one of
// some protocols. It reports a failure. The connection is closed by closing guest.
func (p *Proxy) handshake(ctx context.Context, guest net.Conn, f Flow, name string, alpn []string) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, p.limits.Handshake)
	defer cancel()
	c, err := p.shakeHands(ctx, guest, name, alpn)
	if err != nil {
		if errors.Is(err, errTooManyLeaves) {
			p.tell(f, Event{Type: EventLimit, Limit: "Leaves"})
		}
		p.fail(f, name, "guest", guestComplaint(name, err))
		return nil, err
	}
	return c, nil
}

func (p *Proxy) shakeHands(ctx context.Context, guest net.Conn, name string, alpn []string) (*tls.Conn, error) {
	l, err := p.mint.leaf(ctx, name, p.now())
	if err != nil {
		return nil, err
	}
	cfg := &tls.Config{
		Certificates: []tls.Certificate{l.cert},
		NextProtos:   alpn,
		MinVersion:   tls.VersionTLS12,
		Time:         p.now,
	}
	cfg.SetSessionTicketKeys([][32]byte{l.ticketKey})
	c := tls.Server(guest, cfg)
	if err := c.HandshakeContext(ctx); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("shake hands: %w", err)
	}
	return c, nil
}

// explain makes the guest a connection on which every request is answered with
// what is wrong with the upstream: a page says more than an alert. Who offers only
// other protocols gets an alert.
func (p *Proxy) explain(ctx context.Context, guest net.Conn, s *session, offer []string, c complaint) {
	s.complaint = &c
	var chosen []string
	if len(offer) > 0 {
		chosen = []string{alpnHTTP1}
		if i := slices.IndexFunc(offer, func(proto string) bool { return proto == alpnHTTP1 || isHTTP2(proto) }); i >= 0 {
			chosen = offer[i : i+1]
		}
	}
	near, err := p.handshake(ctx, guest, s.flow, s.name, chosen)
	if err != nil {
		return
	}
	p.serveDecrypted(ctx, near, nil, s, near.ConnectionState().NegotiatedProtocol)
}

// serveDecrypted answers what a guest says inside its TLS, in the protocol that
// both legs chose. far is nil if there is no upstream.
func (p *Proxy) serveDecrypted(ctx context.Context, near, far *tls.Conn, s *session, chosen string) {
	ofHTTP := chosen == alpnHTTP1 || isHTTP2(chosen)
	// What the protocol is called doesn't matter: there are servers of HTTP/1 that
	// accept other names than these.
	var first flight
	var spoken bool
	var err error
	if !ofHTTP && far != nil {
		first, spoken, err = p.readFlightOrBanner(near, far, s.flow)
	} else {
		first, err = readFlight(near, s.flow.Asked().Addr(), p.limits.Idle, p.limits.Head, nil)
	}
	if err == nil && len(first.bytes) == 0 && !spoken {
		err = io.EOF
	}
	if hungUp(err) && !spoken && s.complaint == nil {
		p.fail(s.flow, s.name, "guest", guestComplaint(s.name, err))
	}
	switch {
	case err != nil && (ofHTTP || err != io.EOF): // who ends its half may still listen
	case spoken:
		p.relayDecrypted(p.hold(near, first, s.flow, func(first flight) bool {
			if isReadable(first.Kind) {
				s.flow.Reset()
				return false
			}
			return true
		}), far, s)
	case isHTTP2(chosen) && first.Kind == sniff.HTTP2:
		p.serveGuest(ctx, newHTTP2Guest(&replayed{near, first.bytes}, s))
	case isHTTP2(chosen) || first.Kind == sniff.HTTP2:
		// HTTP/2 over TLS is chosen by ALPN, and by nothing else (RFC 9113, section 3.2).
	case isReadable(first.Kind):
		p.serveGuest(ctx, newHTTP1Guest(near, s, first))
	case far != nil:
		p.relayDecrypted(&replayed{near, first.bytes}, far, s)
	}
}

// relayDecrypted passes on what isn't HTTP, inside the TLS of both legs. Since
// nobody reads it, the name itself must be what the policy allows and the resolver
// gave.
func (p *Proxy) relayDecrypted(near, far net.Conn, s *session) {
	if far == nil || !s.flow.Resolved(s.name) || s.flow.Decide(s.name, fromSNI).Action != policy.Allow {
		s.flow.Reset()
		return
	}
	relay(near, far, s.flow.Reset)
}
