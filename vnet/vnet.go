package vnet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/sluicenet/sluice/policy"
	"github.com/sluicenet/sluice/vnet/link"
)

// Config describes one sandbox's network. Link, Block and Policy are needed.
type Config struct {
	// Link is the other end of the guest's card. The Network closes it.
	Link link.Link
	// Block holds the addresses of gateway and guest, and the guest's MAC.
	Block Block
	// MTU is the guest's, in bytes of IP packet, 1280 to 65520; 0 means 1500.
	MTU int
	// Policy decides. Replace it by Network.SetPolicy, or SetRules.
	Policy *policy.Policy
	// Host is what the classifier knows of this machine. Replace it by
	// Network.SetHost.
	Host *policy.Host
	// Unusable are the families that the host has no route for: the guest gets
	// no default route for them. Replace it by Network.SetUnusable.
	Unusable Families
	// Reject answers a denied flow (RST, ICMP prohibited) instead of silence.
	// Replace it by Network.SetRules.
	Reject bool
	// Dialer opens the host's side of flows; nil means this host's sockets.
	Dialer Dialer
	// DNS answers port 53, whatever address was asked; nil refuses it.
	DNS DNS
	// Names tells which names gave an address; nil knows none.
	Names Names
	// Inspector serves flows instead of the relay; nil serves none.
	Inspector Inspector
	// Events is told what happens. It must not block; nil tells nobody.
	Events func(Event)
	// Limits bounds what the guest may use; its zero value means the defaults.
	Limits Limits
	// RateLimit bounds the card's bytes and frames per second; its zero value
	// bounds nothing.
	RateLimit RateLimit
	// Logger gets our own remarks, never the guest's bytes; nil is silent.
	Logger *slog.Logger

	holdTimeout time.Duration // 0 means holdTimeout; tests have less time
}

// A Dialer opens the host's side of flows. addr is where to go: the gateway is
// already translated to the host's loopback.
type Dialer interface {
	// DialTCP connects; the error keeps the system's errno.
	DialTCP(ctx context.Context, addr netip.AddrPort) (net.Conn, error)
	// ListenUDP opens an unconnected socket for one guest source; ipv6 says
	// which family.
	ListenUDP(ipv6 bool) (*net.UDPConn, error)
	// ListenICMP opens a socket for echo requests, unprivileged.
	ListenICMP(ipv6 bool) (*net.UDPConn, error)
}

// DNS answers a guest's queries. Its methods may be called concurrently.
type DNS interface {
	// ServeDatagram answers one query over UDP. It must not block and must not
	// keep query; reply may be called once, now or later, from any goroutine.
	ServeDatagram(query []byte, reply func(answer []byte))
	// ServeConn answers queries over one TCP connection until it ends, and
	// closes it.
	ServeConn(c net.Conn)
}

// Names tells which names the configured resolver gave for an address (P(A) of
// the contract). Its methods may be called concurrently.
type Names interface {
	// AppendNames appends the live names of addr to dst.
	AppendNames(dst []string, addr netip.Addr, now time.Time) []string
	// Hold keeps names as names of addr while a flow that they decided is open.
	// The flow's end calls release, once.
	Hold(addr netip.Addr, names []string, now time.Time) (release func(now time.Time))
}

// Limits bounds what one guest may use. Zero fields mean the defaults.
type Limits struct {
	TCPFlows    int // guest-initiated TCP flows at once; 0 means 4096, negative refuses all
	HeldFlows   int // half-open or held TCP flows; 0 means 512
	UDPSessions int // UDP sockets; 0 means 1024
	UDPPeers    int // peers per UDP socket; 0 means 1024
	Inbound     int // inbound flows per published port; 0 means 1024
	// FlowsPerSecond bounds the guest's new TCP flows, and new peers of its UDP
	// sockets, denied ones included; 0 means 50 000, negative refuses all. That is
	// twice what one processor opens for a program that does nothing else: more is a
	// scan or a runaway loop.
	FlowsPerSecond int
	BufferBytes    int // bytes of memory that all TCP flows' queues may take; 0 means 64 MiB
	ICMPPerSecond  int // echo requests and errors; 0 means 100
}

// An Event is something that happened on the network, for the record. Type is
// one of the contract's: flow.open, flow.deny, flow.close, limit.hit, warning.
type Event struct {
	Type       string
	Time       time.Time
	Generation uint64 // of the policy
	Flow       FlowInfo
	Verdict    policy.Verdict
	// Limit names the bound that was hit; valid iff Type is limit.hit.
	Limit string
	// Count is how often it was hit since the last event that said so, this one
	// included, where hits are gathered; 0 where each is told.
	Count uint64
	// Text is what the user should know; valid iff Type is warning.
	Text string
}

// FlowInfo describes a flow, in an event or at this moment.
type FlowInfo struct {
	ID        uint64
	Direction policy.Direction
	Protocol  policy.Protocol
	Src, Dst  netip.AddrPort
	Dialed    netip.AddrPort // where the host's socket went; differs from Dst for the gateway
	Name      string         // what the guest called it, "" if unknown
	NameFrom  string         // dns, sni, http
	Stage     policy.Stage   // how much of the flow had been seen when it was decided
	Response  string         // what the guest got on deny: drop, rst, icmp
	// Valid in flow.close, and so far in Network.Flows:
	BytesOut, BytesIn uint64 // from and to the guest
	Duration          time.Duration
	End               string // in flow.close: fin, rst, timeout, refused, unreachable, denied, closed
}

// A Network serves one guest's card. Its methods may be called by several
// goroutines.
type Network struct {
	cfg       Config
	counters  counters
	guard     *guard
	endpoint  *endpoint
	stack     *stack.Stack
	forwarder *tcp.Forwarder
	tight     *tcp.Forwarder // for flows with tight buffers
	budget    *budget
	newFlows  *rate.Limiter // a second's worth at once
	hits      limitHits
	tcp       *tcpTable
	direct    *direct  // nil where every flow goes through the stack
	admitted  *tcpFlow // whose SYN the stack is to answer; owned by the reader's goroutine
	builder   *builder // immutable
	neighbour *neighbour
	autoconf  *autoconf
	unusable  atomic.Uint32 // Families
	fragments *reassembler  // owned by the reader's goroutine
	reporter  *reporter
	udp       *udpNAT
	icmp      *icmpNAT
	inbound   *inboundUDP
	seen      lastSeen

	nextID  atomic.Uint64
	rules   atomic.Pointer[rules]
	rulesMu sync.Mutex // held while rules are replaced

	publishedMu sync.Mutex // guards the following field
	published   []*published

	ctx     context.Context // done when the network closes
	cancel  context.CancelCauseFunc
	flows   sync.WaitGroup // TCP flows
	workers *workers       // that serve them
	reader  sync.WaitGroup // the goroutines at the link
	failed  chan struct{}  // closed by the reader when the link has ended
	err     error          // why, set before failed is closed
	close   sync.Once
}

// New starts a network over cfg.Link, which it closes, also when it fails.
func New(cfg Config) (*Network, error) {
	n, err := newNetwork(cfg)
	if err != nil {
		return nil, errors.Join(err, cfg.Link.Close())
	}
	n.reader.Go(n.read)
	n.reader.Go(func() { n.endpoint.writeSynAcks(n.ctx.Done()) })
	n.reader.Go(n.sweep)
	n.reader.Go(n.reclaim)
	n.reader.Go(func() { n.advertise(time.Tick(advertiseInterval)) })
	return n, nil
}

func newNetwork(cfg Config) (*Network, error) {
	if cfg.MTU == 0 {
		cfg.MTU = 1500
	}
	if cfg.MTU < 1280 || cfg.MTU > 65520 {
		return nil, fmt.Errorf("MTU %d: want 1280 to 65520", cfg.MTU)
	}
	if cfg.Dialer == nil {
		cfg.Dialer = NewDialer()
	}
	if cfg.Host == nil {
		cfg.Host = &policy.Host{Gateways: []netip.Addr{cfg.Block.Gateway4, cfg.Block.Gateway6}}
	}
	cfg.holdTimeout = cmp.Or(cfg.holdTimeout, holdTimeout)
	cfg.Link = newShaper(cfg.Link, cfg.RateLimit, time.Now())
	n := &Network{cfg: cfg, tcp: newTCPTable(), workers: newWorkers(), newFlows: newFlowLimiter(cfg.Limits), guard: newGuard(cfg.Block, cfg.MTU), failed: make(chan struct{})}
	n.budget = newBudget(cfg.Limits.bufferBytes(), n.slowed)
	n.builder = newBuilder(cfg.Block, cfg.MTU)
	n.neighbour = &neighbour{guard: n.guard, builder: n.builder}
	n.unusable.Store(uint32(cfg.Unusable))
	n.autoconf = newAutoconf(cfg.Block, cfg.MTU, n.guard, n.builder, func() Families { return Families(n.unusable.Load()) })
	n.ctx, n.cancel = context.WithCancelCause(context.Background())
	n.rules.Store(&rules{policy: cfg.Policy, host: cfg.Host, reject: cfg.Reject, generation: 1, proxied: cfg.DNS != nil})
	n.endpoint = newEndpoint(cfg.Link, cfg.MTU, tcpip.LinkAddress(cfg.Block.GatewayMAC), tcpip.LinkAddress(cfg.Block.GuestMAC), &n.counters)
	n.endpoint.synAcks = make(chan *stack.PacketBuffer, maxSynAcks)
	s, err := newStack(n.endpoint)
	if err != nil {
		return nil, fmt.Errorf("start TCP stack: %w", err)
	}
	n.stack = s
	if n.direct, err = newDirect(n); err != nil {
		s.Destroy()
		return nil, fmt.Errorf("watch sockets: %w", err)
	}
	n.startNATs()
	n.forwarder = tcp.NewForwarder(s, firstBuffer, forwarderInFlight, n.answerSYN)
	n.tight = tcp.NewForwarder(s, tightBuffer, forwarderInFlight, n.answerSYN)
	s.SetTransportProtocolHandler(tcp.ProtocolNumber, n.onTCP)
	return n, nil
}

// newFlowLimiter returns a bucket that holds what one second brings.
func newFlowLimiter(l Limits) *rate.Limiter {
	n := limit(l.FlowsPerSecond, 50_000)
	return rate.NewLimiter(rate.Limit(n), n)
}

// startNATs makes what forwards datagrams. From here on close must be called.
func (n *Network) startNATs() {
	n.fragments = newReassembler(n.counters.drop)
	n.reporter = &reporter{builder: n.builder, limiter: newICMPLimiter(n.cfg.Limits), send: n.send, drop: n.counters.drop}
	cfg := &natConfig{
		dialer: n.cfg.Dialer, builder: n.builder, reporter: n.reporter, limits: n.cfg.Limits, dns: n.cfg.DNS,
		newFlow: n.newDatagrams, admit: n.admitDatagram, ended: n.endDatagrams, refused: n.refusedQUIC,
		generation: func() uint64 { return n.rules.Load().generation },
		target:     n.target, limitHit: n.natLimitHit, warn: n.warn, send: n.send, drop: n.counters.drop,
	}
	n.udp, n.icmp = newUDPNAT(cfg), newICMPNAT(cfg)
	n.inbound = newInboundUDP(n)
}

// read is the reader's goroutine.
func (n *Network) read() {
	if r := newReader(n); n.direct != nil {
		n.err = n.direct.run(r)
	} else {
		n.err = r.run()
	}
	close(n.failed)
}

// sweep is a goroutine that ends what has been idle for too long, and tells of
// what was hit since it was told last.
func (n *Network) sweep() {
	t := time.NewTicker(sweepInterval)
	defer t.Stop()
	for {
		select {
		case now := <-t.C:
			n.inbound.expire(now)
			n.direct.keepAlive(now)
			n.tellHits(now)
		case <-n.ctx.Done():
			n.tellHits(time.Now().Add(hitInterval)) // all there is
			return
		}
	}
}

// Done is closed when the guest's card is gone or has broken its format; Err
// says why.
func (n *Network) Done() <-chan struct{} { return n.failed }

// Err returns what ended the link, or nil if the guest's end was closed. It is
// valid once Done is closed.
func (n *Network) Err() error { return n.err }

// Close ends every flow with a reset towards the host, closes the link and
// returns when all goroutines have ended. It is idempotent.
func (n *Network) Close() error {
	var err error
	n.close.Do(func() {
		n.cancel(cutError(endClosed))
		n.direct.close()
		err = n.cfg.Link.Close()
		n.reader.Wait()
		err = errors.Join(err, n.retireAll())
		n.flows.Wait()
		n.workers.stop()
		n.udp.close()
		n.icmp.close()
		n.stack.Destroy()
		n.endpoint.release()
	})
	return err
}

// send writes frames of ours to the guest. What the link does not take is lost,
// and counted.
func (n *Network) send(out *batch) { _ = n.write(out.frames) }

// write is send for who wants to know why the link takes no more.
func (n *Network) write(frames []link.Frame) error {
	n.counters.sent(frames)
	k, err := n.cfg.Link.WriteFrames(frames)
	if err != nil {
		n.counters.add(dropLinkClosed, uint64(len(frames)-k))
	}
	return err
}

// isLocal reports whether p ends here: at the gateway, or at the DNS proxy.
func (n *Network) isLocal(p *packet) bool {
	return p.dst == n.cfg.Block.Gateway4 || p.dst == n.cfg.Block.Gateway6 || p.dstPort == dnsPort
}

func (l Limits) tcpFlows() int    { return limit(l.TCPFlows, 4096) }
func (l Limits) heldFlows() int   { return limit(l.HeldFlows, 512) }
func (l Limits) inbound() int     { return limit(l.Inbound, 1024) }
func (l Limits) bufferBytes() int { return limit(l.BufferBytes, 64<<20) }

// limit returns v, its default if v is zero, or zero if v is negative.
func limit(v, def int) int {
	if v == 0 {
		return def
	}
	return max(v, 0)
}
