package mitm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http/httputil"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Ports with a meaning of their own: none of them can be intercepted as HTTPS.
const (
	portHTTPS = 443
	portDNS   = 53
	portDoT   = 853
)

// A Proxy answers the intercepted flows of one sandbox. Make one with New. Its
// methods may be called concurrently.
type Proxy struct {
	cfg    Config
	limits Limits
	ports  []uint16
	ca     *authority
	mint   *mint
	trust  *trust
	now    func() time.Time
	log    *slog.Logger

	requests budget // of their memory

	roomy, crowded *tier
	http2Conns     atomic.Int64 // connections of HTTP/2 on both
	reverse        *httputil.ReverseProxy

	ctx    context.Context // of every flow; done once Close was called
	cancel context.CancelFunc
	mu     sync.Mutex
	closed bool
	flows  sync.WaitGroup // flows being served; added to under mu while not closed
}

// New returns a Proxy that works until Close. The error says which field of cfg
// is wrong.
func New(cfg Config) (*Proxy, error) {
	p := &Proxy{cfg: cfg, limits: cfg.Limits.withDefaults(), ports: slices.Clone(cfg.Ports), now: cfg.Now, log: cfg.Logger}
	if err := p.limits.check(); err != nil {
		return nil, err
	}
	if len(p.ports) == 0 {
		p.ports = []uint16{portHTTPS}
	}
	for i, port := range p.ports {
		if port == 0 || port == portDNS || port == portDoT {
			return nil, fmt.Errorf("InterceptedPorts[%d]: port %d can't be intercepted", i, port)
		}
	}
	if p.now == nil {
		p.now = time.Now
	}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	var err error
	if len(cfg.CACert)+len(cfg.CAKey) > 0 {
		p.ca, err = loadAuthority(cfg.CACert, cfg.CAKey, p.now())
	} else {
		p.ca, err = newAuthority(p.now())
	}
	if err != nil {
		return nil, err
	}
	if p.trust, err = newTrust(&cfg); err != nil {
		return nil, err
	}
	if p.mint, err = newMint(p.ca, p.limits); err != nil {
		return nil, err
	}
	if p.roomy, err = p.newTier(p.limits.ConnBytes); err != nil {
		return nil, err
	}
	if p.crowded, err = p.newTier(crowdedBytes); err != nil {
		return nil, err
	}
	p.requests.limit = int64(p.limits.RequestBytes)
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.reverse = p.newReverseProxy()
	go p.roomy.serve(p)
	go p.crowded.serve(p)
	return p, nil
}

// CA returns the certificate that the guest has to trust, in PEM.
func (p *Proxy) CA() []byte { return p.ca.pem() }

// Inspects reports whether TCP flows to a port are the Proxy's to answer.
func (p *Proxy) Inspects(port uint16) bool {
	return slices.Contains(p.ports, port) || port == portDoT && p.cfg.DNS != nil
}

// InspectsHTTP reports that plain HTTP under domain rules is the Proxy's to answer.
func (p *Proxy) InspectsHTTP() bool { return true }

// InspectsAllHTTP reports whether every flow of plain HTTP is the Proxy's to
// answer: where there are secrets, a placeholder may be in any.
func (p *Proxy) InspectsAllHTTP() bool { return p.cfg.Secrets != nil }

// Serve answers a flow until it ends, and closes guest. It returns when nothing of
// the flow is left: no goroutine, no connection to the upstream. The end of ctx
// ends the flow.
func (p *Proxy) Serve(ctx context.Context, guest net.Conn, f Flow) {
	defer guest.Close()
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	p.flows.Add(1)
	p.mu.Unlock()
	defer p.flows.Done()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(p.ctx, cancel)()
	defer context.AfterFunc(ctx, func() { _ = guest.Close() })()
	p.dispatch(ctx, guest, f)
}

// dispatch answers a flow by its port. It closes guest.
func (p *Proxy) dispatch(ctx context.Context, guest net.Conn, f Flow) {
	switch port := f.Asked().Port(); {
	case slices.Contains(p.ports, port):
		p.intercept(ctx, guest, f)
	case port == portDoT && p.cfg.DNS != nil:
		p.serveDoT(ctx, guest, f)
	default:
		p.readPlain(ctx, guest, f)
	}
}

// Close ends every flow and returns when nothing is left of them. It is
// idempotent.
func (p *Proxy) Close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.cancel()
	p.flows.Wait()
	return errors.Join(p.roomy.close(), p.crowded.close())
}
