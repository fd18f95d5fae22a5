package policy

import (
	"cmp"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// A Target is what people ask a policy about: a flow, or the query for a name.
type Target struct {
	Flow  Flow
	Name  string // canonical; "" where the target is an address
	query bool   // only the query for Name is meant
	shown bool   // the flow's first bytes show Name
}

// targetForms is what is said to who writes no target.
const targetForms = "write one such as https://example.com/, tcp://HOST:PORT, udp://HOST:PORT, icmp://HOST, dns://NAME or in://:PORT"

// Stand-ins for what only a sandbox that runs can know.
var (
	somePublic   = netip.AddrFrom4([4]byte{1, 1, 1, 1})   // that a name may have
	someLoopback = netip.AddrFrom4([4]byte{127, 0, 0, 1}) // that a peer on this host has
)

// somePort is a peer's own, which no rule is about.
const somePort = 1024

// schemes are the schemes of targets, with the port where none is written.
var schemes = map[string]struct {
	protocol Protocol
	port     string
}{
	"http":  {TCP, "80"},
	"https": {TCP, "443"},
	"tcp":   {TCP, ""},
	"udp":   {UDP, ""},
	"icmp":  {ICMPv4, "0"},
	"dns":   {UDP, "53"},
	"in":    {TCP, ""},
}

// ParseTarget reads a target. It is a URL, of which scheme, host and port count:
//
//	https://example.com/   a flow that shows the name; http:// too
//	tcp://example.com:22   a flow that doesn't; udp:// too
//	icmp://192.0.2.1       an echo request
//	dns://example.com      the query for the name
//	in://192.0.2.1:8080    a flow from there to the guest's port 8080, in://:8080
//	                       from this host; /udp behind it makes it UDP
//
// The name host, as every one of HostAliases, stands for the address gateway,
// and any other name for a public one. The error is a [Problem].
func ParseTarget(text string, gateway netip.Addr) (Target, error) {
	wrong := func(message, fix string) (Target, error) {
		return Target{}, Problem{Field: "target", Value: text, Message: message, Fix: fix}
	}
	u, err := url.Parse(text)
	if err != nil {
		return wrong("no URL", targetForms)
	}
	scheme, ok := schemes[u.Scheme]
	if !ok || u.Opaque != "" {
		return wrong("no target", targetForms)
	}
	// [url.Parse] takes what is behind the last colon for the port.
	if strings.Count(u.Host, ":") > 1 && !strings.HasPrefix(u.Host, "[") {
		return wrong("no host and port", "write an IPv6 address in brackets")
	}
	port, err := strconv.ParseUint(cmp.Or(u.Port(), scheme.port), 10, 16)
	if err != nil || port == 0 && scheme.protocol.HasPorts() {
		return wrong("no port", "write one from 1 to 65535 behind the host")
	}
	t := Target{
		Flow:  Flow{Direction: Egress, Protocol: scheme.protocol},
		query: u.Scheme == "dns",
		// A Host header or an SNI; of tcp:// nobody knows what it speaks.
		shown: u.Scheme == "http" || u.Scheme == "https",
	}
	host := u.Hostname()
	addr, err := netip.ParseAddr(host)
	switch {
	case u.Scheme == "in":
		if host == "" {
			addr, err = someLoopback, nil
		}
		if err != nil {
			return wrong("a peer has no name", "write its address, or none for this host")
		}
		if u.Path == "/udp" {
			t.Flow.Protocol = UDP
		}
		t.Flow.Direction, t.Flow.GuestPort, port = Ingress, uint16(port), somePort
	case err == nil && t.query:
		return wrong("only names are looked up", "write dns://NAME")
	case err == nil:
	case host == "host", IsHostAlias(strings.ToLower(host)):
		addr = gateway
	default:
		if t.Name, err = ParseName(host); err != nil {
			return wrong(err.Error(), "")
		}
		addr = somePublic
	}
	addr = addr.Unmap().WithZone("") // as flows have them
	if scheme.protocol == ICMPv4 {
		port = 0 // it has none, whatever was written
		if addr.Is6() {
			t.Flow.Protocol = ICMPv6
		}
	}
	t.Flow.Peer = netip.AddrPortFrom(addr, uint16(port))
	return t, nil
}

// A Decision is one of those that a target meets.
type Decision struct {
	// Stage is dns for the query, address for the first packet, then name for the
	// name in the first bytes or opaque where there is none.
	Stage string
	About string   // the flow, or the name that is asked for, in words
	Names []string // that the resolver gave for the address
	Explanation
}

// ExplainTarget returns the decisions that a target meets, in order, up to the
// one that settles it. names are those that the resolver gave for the target's
// address; a target with a name has that one only.
func (p *Policy) ExplainTarget(h *Host, t Target, names []string) []Decision {
	var met []Decision
	about := fmt.Sprintf("%v %v", t.Flow.Protocol, t.Flow.Peer)
	if t.Name != "" {
		e := p.ExplainDNS(Query{Name: t.Name, Transport: UDP})
		met = append(met, Decision{Stage: "dns", About: t.Name, Explanation: e})
		// Who isn't told an address connects to none.
		if t.query || e.Verdict.Action == Deny {
			return met
		}
		names = []string{t.Name}
		about = fmt.Sprintf("%v port %d of a public address of %s", t.Flow.Protocol, t.Flow.Peer.Port(), t.Name)
	}
	ev := Evidence{Names: names}
	d := Decision{"address", about, names, p.Explain(h, t.Flow, ev)}
	met = append(met, d)
	if !d.Verdict.NeedsName { // the first packet has settled it
		return met
	}
	d.Stage, ev.Stage = "opaque", StageNoName
	if t.shown && t.Name != "" {
		d.Stage, ev.Stage, ev.Name = "name", StageName, t.Name
	}
	d.Explanation = p.Explain(h, t.Flow, ev)
	return append(met, d)
}
