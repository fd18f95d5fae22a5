package mitm

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"

	"github.com/sluicenet/sluice/policy"
)

// connect answers an HTTP CONNECT. The proxy that the guest wrote to isn't asked:
// the target is decided as if the guest had gone there itself, dialled, and what
// is said inside the tunnel is read as on any flow to that port.
func (s *session) connect(w *recorder, r *http.Request) {
	// One in a tunnel would be a connection that nobody counts, and so any number.
	_, inTunnel := s.flow.(*tunnel)
	if s.secure || inTunnel || r.ProtoMajor != 1 || s.p.cfg.Connect == nil {
		refuse(w, http.StatusMisdirectedRequest, "no CONNECT here", "")
		return
	}
	host, portText, _ := splitAuthority(r.RequestURI)
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil || port == 0 {
		refuse(w, http.StatusBadRequest, "the target of CONNECT isn't host and port", "")
		return
	}
	t := &tunnel{outer: s.flow, connect: s.p.cfg.Connect, port: uint16(port)}
	if addr, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		t.host = addr.String()
	} else if name, ok := policy.CanonicalName(host); ok {
		t.host, t.name = name, name
	} else {
		refuse(w, http.StatusBadRequest, "the target of CONNECT isn't host and port", "")
		return
	}
	upstream, err := t.open(r.Context())
	switch {
	case t.verdict.Action != policy.Allow:
		refuse(w, http.StatusMisdirectedRequest, "the policy denies this host", "")
		return
	case err != nil:
		refuse(w, http.StatusBadGateway, "no connection to the target: "+err.Error(), "")
		return
	}
	defer upstream.Close()
	guest, _, err := w.Hijack()
	if err != nil {
		return
	}
	defer guest.Close()
	if _, err := guest.Write([]byte("HTTP/1.1 200 Connection established\r\n\r\n")); err != nil {
		return
	}
	w.status = http.StatusOK
	ctx, cancel := context.WithCancel(s.p.ctx)
	defer cancel()
	s.p.dispatch(ctx, guest, t)
}

// errDenied is the error of a dial that the policy denies.
var errDenied = errors.New("denied by the policy")

// A tunnel is the flow inside a CONNECT. What was decided about it is a name, or an
// address: no other name may be shown inside.
type tunnel struct {
	outer   Flow
	connect func(ctx context.Context, host string, port uint16) (net.Conn, policy.Verdict, error)
	host    string // as connect takes it
	name    string // "" if the target is an address
	port    uint16

	mu      sync.Mutex
	verdict policy.Verdict
	dialled netip.AddrPort
	spare   net.Conn // connected, not handed out yet
}

// open decides and connects.
func (t *tunnel) open(ctx context.Context) (net.Conn, error) {
	c, v, err := t.connect(ctx, t.host, t.port)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.verdict = v
	if v.Action != policy.Allow || err != nil {
		return nil, err
	}
	if a, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		t.dialled = netip.AddrPortFrom(a.AddrPort().Addr().Unmap(), t.port)
	}
	t.spare = c
	return c, nil
}

// Asked returns the target.
func (t *tunnel) Asked() netip.AddrPort {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.dialled
}

// Source returns the guest's end.
func (t *tunnel) Source() netip.AddrPort { return t.outer.Source() }

// Decide returns the target's verdict for its own name and denies any other.
func (t *tunnel) Decide(name, from string) policy.Verdict {
	t.mu.Lock()
	defer t.mu.Unlock()
	if from == fromMalformed || name != "" && name != t.name {
		return policy.Verdict{Reason: "the tunnel was opened for another name"}
	}
	return t.verdict
}

// Resolved reports whether the target was resolved by this name.
func (t *tunnel) Resolved(name string) bool { return name != "" && name == t.name }

// Dial connects to the target, decided anew but for the first time.
func (t *tunnel) Dial(ctx context.Context) (net.Conn, error) {
	t.mu.Lock()
	c := t.spare
	t.spare = nil
	t.mu.Unlock()
	if c != nil {
		return c, nil
	}
	c, err := t.open(ctx)
	if err != nil {
		return nil, err
	}
	if c == nil {
		return nil, errDenied
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.spare = nil
	return c, nil
}

// Reset resets the connection that the tunnel is in.
func (t *tunnel) Reset() { t.outer.Reset() }
