package vnet

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"time"

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
	// Policy decides. Replace it by Network.SetPolicy.
	Policy *policy.Policy
	// Host is what the classifier knows of this machine. Replace it by
	// Network.SetHost.
	Host *policy.Host
	// Reject answers a denied flow (RST, ICMP prohibited) instead of silence.
	Reject bool
	// Dialer opens the host's side of flows; nil means this host's sockets.
	Dialer Dialer
	// DNS answers port 53, whatever address was asked; nil refuses it.
	DNS DNS
	// Names tells which names gave an address; nil knows none.
	Names Names
	// Events is told what happens. It must not block; nil tells nobody.
	Events func(Event)
	// Limits bounds what the guest may use; its zero value means the defaults.
	Limits Limits
	// Logger gets our own remarks, never the guest's bytes; nil is silent.
	Logger *slog.Logger
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
// the contract). Its method may be called concurrently.
type Names interface {
	// AppendNames appends the live names of addr to dst.
	AppendNames(dst []string, addr netip.Addr, now time.Time) []string
}

// Limits bounds what one guest may use. Zero fields mean the defaults.
type Limits struct {
	TCPFlows      int // guest-initiated TCP flows at once; 0 means 4096, negative refuses all
	HeldFlows     int // half-open or held TCP flows; 0 means 512
	UDPSessions   int // UDP sockets; 0 means 1024
	UDPPeers      int // peers per UDP socket; 0 means 1024
	Inbound       int // inbound flows per published port; 0 means 1024
	BufferBytes   int // bytes buffered for all flows; 0 means 64 MiB
	ICMPPerSecond int // echo requests and errors; 0 means 100
}

// An Event is something that happened on the network, for the record. Type is
// one of the contract's: flow.open, flow.deny, flow.close, limit.hit.
type Event struct {
	Type       string
	Time       time.Time
	Generation uint64 // of the policy
	Flow       FlowInfo
	Verdict    policy.Verdict
	// Limit names the bound that was hit; valid iff Type is limit.hit.
	Limit string
}

// FlowInfo describes a flow in an event.
type FlowInfo struct {
	ID        uint64
	Direction policy.Direction
	Protocol  policy.Protocol
	Src, Dst  netip.AddrPort
	Dialed    netip.AddrPort // where the host's socket went; differs from Dst for the gateway
	Name      string         // what the guest called it, "" if unknown
	NameFrom  string         // dns, sni, http
	Response  string         // what the guest got on deny: drop, rst, icmp
	// Valid in flow.close only:
	BytesOut, BytesIn uint64 // from and to the guest
	Duration          time.Duration
	End               string // fin, rst, timeout, refused, unreachable, denied, closed
}
