package dns

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	mdns "github.com/miekg/dns"
	"golang.org/x/time/rate"

	"github.com/sluicenet/sluice/policy"
)

// Config describes one sandbox's DNS proxy. Its zero value follows the host's
// resolvers and denies every name but the host aliases.
type Config struct {
	// Nameservers are the upstreams, in the order to be asked; none means the
	// host's own, followed when they change.
	Nameservers []Nameserver
	// LookupHost resolves a Nameserver that is given by name; nil means this
	// host's resolver.
	LookupHost func(ctx context.Context, host string) ([]netip.Addr, error)
	// Timeout bounds a query, all upstreams together; 0 means 4 s.
	Timeout time.Duration
	// Gateways are what the host aliases resolve to, at most one per family.
	Gateways []netip.Addr
	// Policy permits names and admits addresses; nil denies. Replace it by
	// Server.SetPolicy.
	Policy *policy.Policy
	// Host is what the classifier knows of this machine; nil admits no address.
	// Replace it by Server.SetHost.
	Host *policy.Host
	// Usable reports whether this host has a way to addr; addresses that it
	// has none to are left out of answers. It must not block. nil means all.
	Usable func(addr netip.Addr) bool
	// Events is told what happens. It must not block; nil tells nobody.
	Events func(Event)
	// Limits bounds what the guest may use; its zero value means the defaults.
	Limits Limits
}

// Limits bounds what one guest may use. Zero fields mean the defaults.
type Limits struct {
	QueriesPerSecond int // that go upstream; 0 means 200, negative is no limit
	Burst            int // that go upstream at once after a pause; 0 means 5 seconds' worth
	Waiting          int // queries that wait for upstreams; 0 means 2048
	Sockets          int // to upstreams at once, beyond it queries wait; 0 means 256
	Pipelined        int // unanswered queries of one TCP connection; 0 means 64
	CacheEntries     int // answers kept; 0 means 8192, negative keeps none
	CacheBytes       int // bytes of answers kept; 0 means 8 MiB
	Names            int // names in the table of names; 0 means 4096
	Pairs            int // pairs of name and address in it; 0 means 16384
	AddrsPerName     int // addresses of one name in it; 0 means 64
	NamesPerAddr     int // names of one address in it; 0 means 256
}

// withDefaults returns l with the defaults in place of zeros.
func (l Limits) withDefaults() Limits {
	def := func(v *int, value int) {
		if *v == 0 {
			*v = value
		}
	}
	def(&l.QueriesPerSecond, 200)
	def(&l.Burst, 5*max(l.QueriesPerSecond, 1)) // 1000: what a large npm install asks at once
	def(&l.Waiting, 2048)                       // a burst, and the steady rate for the time-out
	def(&l.Sockets, 256)                        // descriptors are shared with the flows
	def(&l.Pipelined, 64)
	def(&l.CacheEntries, 8192)
	def(&l.CacheBytes, 8<<20)
	def(&l.Names, 4096)
	def(&l.Pairs, 16384)
	def(&l.AddrsPerName, 64)
	def(&l.NamesPerAddr, 256) // the sites of a shared host; each flow to it costs some microseconds then
	return l
}

// newLimiter returns the bucket of the queries that go upstream.
func newLimiter(l Limits) *rate.Limiter {
	if l.QueriesPerSecond < 0 {
		return rate.NewLimiter(rate.Inf, 0)
	}
	return rate.NewLimiter(rate.Limit(l.QueriesPerSecond), max(l.Burst, 1))
}

// defaultTimeout bounds a query that the configuration doesn't: less than the
// 5 s after which glibc and musl ask again.
const defaultTimeout = 4 * time.Second

// A Server is one sandbox's DNS proxy. Make one with New. Its methods may be
// called concurrently.
type Server struct {
	cfg      Config // with defaults
	aliases  map[string]bool
	rules    atomic.Pointer[rules]
	upstream *follower
	sockets  chan struct{} // holds a token per socket to an upstream
	stats    counters

	ctx    context.Context // ends at Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // goroutines of queries and connections

	// exchange asks one upstream; tests replace the network here.
	exchange func(context.Context, netip.AddrPort, *query, upstreamState) (*mdns.Msg, upstreamState, error)

	mu      sync.Mutex // guards the following
	closed  bool
	cache   *cache
	names   *nameTable
	targets *targetTable
	limiter *rate.Limiter
	hits    limitHits
	roster  roster
	calls   map[cacheKey]*call    // questions on their way upstream
	waiting int                   // guests' queries in calls
	epoch   uint64                // counts changes of the upstreams
	conns   map[net.Conn]struct{} // guests' TCP connections
}

// New returns a Server that works until Close. It asks nobody yet.
func New(cfg Config) (*Server, error) {
	if cfg.Timeout < 0 {
		return nil, fmt.Errorf("start DNS proxy: timeout %v is negative", cfg.Timeout)
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.LookupHost == nil {
		cfg.LookupHost = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	cfg.Limits = cfg.Limits.withDefaults()
	l := cfg.Limits
	if least := min(l.Burst, l.Waiting, l.Sockets, l.Pipelined, l.CacheBytes, l.Names, l.Pairs, l.AddrsPerName, l.NamesPerAddr); least < 0 {
		return nil, fmt.Errorf("start DNS proxy: a limit is %d, which is negative", least)
	}
	s := &Server{
		cfg:      cfg,
		aliases:  make(map[string]bool),
		upstream: newFollower(cfg),
		sockets:  make(chan struct{}, l.Sockets),
		exchange: exchange,
		cache:    newCache(l.CacheEntries, l.CacheBytes),
		names:    newNameTable(l),
		targets:  newTargetTable(l.Names),
		limiter:  newLimiter(l),
		calls:    make(map[cacheKey]*call),
		conns:    make(map[net.Conn]struct{}),
	}
	for _, alias := range policy.HostAliases() {
		s.aliases[alias] = true
	}
	s.rules.Store(&rules{policy: cfg.Policy, host: cfg.Host, generation: 1})
	s.ctx, s.cancel = context.WithCancel(context.Background()) // the root of what the Server does
	return s, nil
}

// newFollower returns the follower of the upstreams that cfg wants.
func newFollower(cfg Config) *follower {
	if len(cfg.Nameservers) == 0 {
		load, every := hostLoader()
		return &follower{load: load, every: every}
	}
	every := 365 * 24 * time.Hour // literal addresses don't move
	if hasHost(cfg.Nameservers) {
		every = time.Minute
	}
	return &follower{load: loadNameservers(cfg.Nameservers, cfg.LookupHost), every: every}
}

// SetPolicy replaces the policy: every answer from now on is judged by it, those
// from the cache and those on their way included. The table of names stays.
func (s *Server) SetPolicy(p *policy.Policy) {
	s.setRules(func(r *rules) { r.policy = p })
}

// SetHost replaces what is known of the host's addresses.
func (s *Server) SetHost(h *policy.Host) {
	s.setRules(func(r *rules) { r.host = h })
}

// setRules makes the next generation of the rules. Generations count as those of
// a vnet.Network do, so that they agree when both are told the same.
func (s *Server) setRules(change func(*rules)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := *s.rules.Load()
	change(&next)
	next.generation++
	s.rules.Store(&next)
}

// Flush forgets all cached answers and what is known of the upstreams, and looks
// for upstreams anew: the host's routes changed, so names may mean others now.
func (s *Server) Flush() {
	s.upstream.expire()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flushLocked()
}

// flushLocked does what Flush says, but for the upstreams. s.mu is held.
func (s *Server) flushLocked() {
	s.epoch++ // answers on their way are of the old world, and not kept
	s.cache.flush()
	s.roster.reset()
}

// AppendNames appends to dst the names for which upstreams answered addr, and
// which are still live at now: P(A) of the contract. The host aliases aren't
// among them.
func (s *Server) AppendNames(dst []string, addr netip.Addr, now time.Time) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.names.appendNames(dst, addr.Unmap(), now)
}

// Hold keeps the entries of addr for names as long as a flow that they decided
// is open. The flow calls release once, at its end; the grace of the entries
// begins then. names is what AppendNames gave, or the one of them that decided.
func (s *Server) Hold(addr netip.Addr, names []string, now time.Time) (release func(now time.Time)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	pairs := s.names.hold(addr.Unmap(), names, now)
	if len(pairs) == 0 {
		return func(time.Time) {}
	}
	return func(now time.Time) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.names.release(pairs, now)
	}
}

// Close ends all queries, unanswered, and all connections. It returns when no
// goroutine of the Server is left: none will call a reply any more. Calling it
// again does nothing. The table of names can be read after it.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	conns := slices.Collect(maps.Keys(s.conns))
	s.mu.Unlock()
	s.cancel()
	for _, c := range conns {
		c.Close() // wakes who serves it
	}
	s.wg.Wait()
	return nil
}

// errClosed is the error of calls after Close.
var errClosed = fmt.Errorf("DNS proxy: %w", net.ErrClosed)
