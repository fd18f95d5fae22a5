package mitm

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/sluicenet/sluice/mitm/secret"
)

// Config describes one sandbox's interception. Its zero value intercepts port 443
// with a CA of its own and checks every upstream by the host's trust store.
type Config struct {
	// CACert and CAKey are a CA in PEM, both or neither; without them the Proxy
	// makes one, whose key never leaves memory.
	CACert, CAKey []byte
	// Ports are intercepted. None means 443; 0, 53 and 853 are errors.
	Ports []uint16
	// Bypass lists whom nobody intercepts: TLS to them is passed on as it is.
	Bypass []Pattern
	// AllowNonTLS lets what is no TLS, or names nobody, through intercepted ports
	// if an address rule allows it.
	AllowNonTLS bool

	// SkipVerify believes every upstream's certificate: VerifyUpstream is false.
	SkipVerify bool
	// ScopedVerify says so, or the contrary, for the names of a pattern; the first
	// that matches wins.
	ScopedVerify []ScopedVerify
	// Roots are trusted as issuers of upstreams' certificates; nil means the host's
	// trust store.
	Roots *x509.CertPool
	// ExtraRoots are trusted besides, certificates in PEM.
	ExtraRoots []byte
	// ScopedRoots are trusted besides, for the names of their patterns.
	ScopedRoots []ScopedRoots

	// Secrets are put into requests where the guest wrote their placeholders; nil
	// if there are none. The set may change while the Proxy works.
	Secrets *secret.Set
	// Terminate ends the sandbox: what a secret asks for whose placeholder was on
	// its way elsewhere. It must not block; nil only blocks the request.
	Terminate func(reason string)

	// Lookup returns the addresses of the target of an HTTP CONNECT: a canonical
	// name, to be resolved as the guest would. nil refuses CONNECT.
	Lookup func(ctx context.Context, name string) ([]netip.Addr, error)
	// DNS answers DNS over one stream until it ends, and closes it: DNS over TLS
	// comes here decrypted. nil leaves port 853 alone.
	DNS func(net.Conn)
	// Events is told what happens. It must not block; nil tells nobody.
	Events func(Event)
	// Limits bounds what the guest may use; its zero value means the defaults.
	Limits Limits
	// Logger gets our own remarks, never the guest's bytes; nil is silent.
	Logger *slog.Logger
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// ScopedVerify says for the names of a pattern whether their certificates are
// checked.
type ScopedVerify struct {
	Pattern Pattern
	Verify  bool
}

// ScopedRoots are issuers, in PEM, that only the names of a pattern may have.
type ScopedRoots struct {
	Pattern Pattern
	PEM     []byte
}

// Limits bounds what one guest may use of a Proxy. Zero fields mean the defaults.
// How many flows there are is bounded by who calls Serve.
type Limits struct {
	// Leaves are the certificates kept; 0 means 1000: more sites than a build
	// visits, at 2 KiB each.
	Leaves int
	// LeavesPerSecond bounds how fast certificates are made, after a first burst of
	// as many as are kept; 0 means 100, which takes a hundredth of a core.
	LeavesPerSecond int
	// Streams are the requests at once of one HTTP/2 connection; 0 means 250, as
	// many as net/http allows.
	Streams int
	// HeadBytes bounds the head of a response, and of a request over HTTP/2; 0
	// means 256 KiB. Browsers take as much. Heads of HTTP/1 requests are bounded by
	// sniff.MaxFlight.
	HeadBytes int
	// ConnBytes bounds what one HTTP/2 connection holds of bodies that their
	// readers don't take, on either leg; 0 means 1 MiB, at least 64 KiB, less than
	// 4 MiB. It also bounds the speed over a long way: 1 MiB in 50 ms are 160
	// Mbit/s. Where there are more than 64 such connections the new ones hold 64 KiB.
	ConnBytes int
	// RequestBytes bounds the memory of all requests under way on all connections,
	// heads of responses included; 0 means 128 MiB: five thousand ordinary ones. What
	// doesn't fit is refused.
	RequestBytes int
	// Handshake bounds a TLS handshake, on either leg, and the first flight from
	// its first byte on; 0 means 10 s.
	Handshake time.Duration
	// Head bounds a request's head from its first byte on; 0 means 10 s.
	Head time.Duration
	// Idle bounds how long a guest's connection waits for the next request; 0 means
	// 5 minutes, longer than the keep-alive of common servers.
	Idle time.Duration
}

// withDefaults returns the limits with every zero field filled in.
func (l Limits) withDefaults() Limits {
	l.Leaves = defaultTo(l.Leaves, 1000)
	l.LeavesPerSecond = defaultTo(l.LeavesPerSecond, 100)
	l.Streams = defaultTo(l.Streams, 250)
	l.HeadBytes = defaultTo(l.HeadBytes, 256<<10)
	l.ConnBytes = defaultTo(l.ConnBytes, 1<<20)
	l.RequestBytes = defaultTo(l.RequestBytes, 128<<20)
	l.Handshake = defaultTo(l.Handshake, 10*time.Second)
	l.Head = defaultTo(l.Head, 10*time.Second)
	l.Idle = defaultTo(l.Idle, 5*time.Minute)
	return l
}

// check returns what is wrong with limits that have their defaults filled in.
func (l Limits) check() error {
	for name, v := range map[string]int64{
		"Leaves": int64(l.Leaves), "LeavesPerSecond": int64(l.LeavesPerSecond), "Streams": int64(l.Streams), "HeadBytes": int64(l.HeadBytes),
		"RequestBytes": int64(l.RequestBytes),
		"Handshake":    int64(l.Handshake), "Head": int64(l.Head), "Idle": int64(l.Idle),
	} {
		if v < 0 {
			return fmt.Errorf("read Limits.%s: %d is negative", name, v)
		}
	}
	if l.ConnBytes < 64<<10 || l.ConnBytes >= 4<<20 {
		return fmt.Errorf("read Limits.ConnBytes: %d isn't from 64 KiB to less than 4 MiB", l.ConnBytes)
	}
	return nil
}

func defaultTo[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}
