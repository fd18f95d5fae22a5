package mitm

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/sluicenet/sluice/internal/sniff"
	"github.com/sluicenet/sluice/policy"
)

// connectTimeout bounds how long the target of a CONNECT may take to be looked up
// and to answer, whatever the number of its addresses: as long as one dial.
const connectTimeout = 10 * time.Second

// connect answers an HTTP CONNECT. The proxy that the guest wrote to isn't asked:
// the target is decided as if the guest had gone there itself, dialled, and what
// is said inside the tunnel is read, and decided, as on any flow to that port.
func (s *session) connect(w *recorder, r *http.Request) {
	// One in a tunnel would be a connection that nobody counts, and so any number.
	_, inTunnel := s.flow.(*tunnel)
	if s.secure || inTunnel || r.ProtoMajor != 1 || s.p.cfg.Lookup == nil {
		refuse(w, http.StatusMisdirectedRequest, "no CONNECT here", "")
		return
	}
	t, port, ok := s.tunnelTo(r.RequestURI)
	switch {
	case !ok:
		refuse(w, http.StatusBadRequest, "the target of CONNECT isn't host and port", "")
		return
	case port == portDNS, port == portDoT:
		refuse(w, http.StatusMisdirectedRequest, "names are looked up outside of tunnels", "")
		return
	}
	defer t.close()
	ctx, cancel := context.WithTimeout(r.Context(), connectTimeout)
	defer cancel()
	switch err := t.open(ctx, port); {
	case errors.Is(err, errDenied):
		refuse(w, http.StatusMisdirectedRequest, "the policy denies this host", "")
		return
	case err != nil:
		refuse(w, http.StatusBadGateway, "no connection to the target: "+err.Error(), "")
		return
	}
	guest, _, err := w.Hijack()
	if err != nil {
		return
	}
	defer guest.Close()
	if _, err := guest.Write([]byte("HTTP/1.1 200 Connection established\r\n\r\n")); err != nil {
		return
	}
	w.status = http.StatusOK
	ctx, cancel = context.WithCancel(s.p.ctx)
	defer cancel()
	s.p.dispatch(ctx, guest, t)
}

// Errors of a target.
var (
	errDenied    = errors.New("denied by the policy")
	errNoAddress = errors.New("the name has no address")
)

// A tunnel is the flow inside a CONNECT: the guest's flow, which is about the
// target now.
type tunnel struct {
	Flow
	lookup func(ctx context.Context, name string) ([]netip.Addr, error)
	name   string     // of the target, canonical; "" if it is an address
	addr   netip.Addr // of the target; not valid if it has a name

	mu    sync.Mutex
	spare net.Conn // connected, not handed out yet
}

// tunnelTo reads the target of a CONNECT.
func (s *session) tunnelTo(target string) (t *tunnel, port uint16, ok bool) {
	name, addr, n, ok := sniff.ParseAuthority(target)
	if !ok || n <= 0 || name == "" && !addr.IsValid() {
		return nil, 0, false
	}
	return &tunnel{Flow: s.flow, lookup: s.p.cfg.Lookup, name: name, addr: addr.Unmap()}, uint16(n), true
}

// open decides the target's addresses one after the other, and connects to the
// first that the policy allows and that answers. Where it depends on a name that
// the guest is to show, that is awaited first.
func (t *tunnel) open(ctx context.Context, port uint16) error {
	addrs := []netip.Addr{t.addr}
	if t.name != "" {
		var err error
		if addrs, err = t.lookup(ctx, t.name); err != nil {
			return err
		}
		if len(addrs) == 0 {
			return errNoAddress
		}
	}
	err := errDenied // or that of the last dial
	for _, addr := range addrs {
		switch v := t.Connect(netip.AddrPortFrom(addr, port), t.name); {
		case v.Action == policy.Allow:
			var c net.Conn
			if c, err = t.Flow.Dial(ctx); err == nil {
				t.spare = c
				return nil
			}
		case v.NeedsName:
			return nil
		}
	}
	return err
}

// close closes what was connected for nobody.
func (t *tunnel) close() {
	if c := t.take(); c != nil {
		_ = c.Close()
	}
}

// readTunnel reads the first flight inside a CONNECT. Its target, which is connected
// already, may speak first: then the flow is relayed, and over.
func (p *Proxy) readTunnel(guest net.Conn, t *tunnel) (first flight, over bool, err error) {
	far := t.take()
	first, spoken, err := p.readFlightOrBanner(guest, far, t)
	if !spoken {
		t.give(far)
		return first, false, err
	}
	relay(p.hold(guest, first, t, func(first flight) bool { return mayPass(t, first) }), far, t.Reset)
	return first, true, nil
}

// connected reports whether there is a connection that was made in advance.
func (t *tunnel) connected() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.spare != nil
}

// give takes a connection back.
func (t *tunnel) give(c net.Conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.spare = c
}

// take returns the connection that was made in advance, once.
func (t *tunnel) take() net.Conn {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.spare
	t.spare = nil
	return c
}

// Decide decides the target by the name that is shown inside. Where none is, it is
// the one that the guest asked for.
func (t *tunnel) Decide(name, from string) policy.Verdict {
	if name == "" && from != fromMalformed {
		name, from = t.name, fromHTTP
	}
	return t.Flow.Decide(name, from)
}

// Dial connects to the target.
func (t *tunnel) Dial(ctx context.Context) (net.Conn, error) {
	if c := t.take(); c != nil {
		return c, nil
	}
	return t.Flow.Dial(ctx)
}
