package sandbox

import (
	"cmp"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/sluicenet/sluice/internal/control"
	"github.com/sluicenet/sluice/policy"
)

// Explain implements control.Sandbox. An address is explained with the names
// that the resolver has given for it; a name with a public address that the
// resolver would give, unless it is one of the gateway's.
func (s *Sandbox) Explain(target string) (control.Explanation, error) {
	if s.network == nil {
		return control.Explanation{}, errNoNetwork
	}
	t, err := parseTarget(target, s.block.block.Gateway4)
	if err != nil {
		return control.Explanation{}, &control.Failure{Kind: control.KindArgument, Message: err.Error()}
	}
	p, host := s.rules()
	names := []string{t.name}
	if t.name == "" {
		names = s.resolver.AppendNames(nil, t.flow.Peer.Addr(), time.Now())
	}
	return control.Explanation{Target: target, Stages: t.explain(p, host, names)}, nil
}

// A target is what Explain is asked about.
type target struct {
	flow   policy.Flow
	name   string // "" for an address
	query  bool   // only the query is meant
	opaque bool   // no name shows in the first bytes
}

// schemes are the schemes of targets: protocol and default port.
var schemes = map[string]struct {
	protocol policy.Protocol
	port     string
}{
	"http":  {policy.TCP, "80"},
	"https": {policy.TCP, "443"},
	"tcp":   {policy.TCP, ""},
	"udp":   {policy.UDP, ""},
	"icmp":  {policy.ICMPv4, "0"},
	"dns":   {policy.UDP, "53"},
	"in":    {policy.TCP, ""},
}

// somePublic stands in for the address that a name will have.
var somePublic = netip.MustParseAddr("1.1.1.1")

// somePort stands in for a peer's own, which no rule is about.
const somePort = 1024

// parseTarget reads a target: http, https, tcp, udp, icmp, dns or in, then ://,
// a host and, where the scheme has no own, a port.
func parseTarget(text string, gateway netip.Addr) (target, error) {
	u, err := url.Parse(text)
	if err != nil {
		return target{}, fmt.Errorf("target: %w", err)
	}
	scheme, ok := schemes[u.Scheme]
	if !ok {
		return target{}, fmt.Errorf("target %q: want http, https, tcp, udp, icmp, dns or in, then ://", text)
	}
	port, err := strconv.ParseUint(cmp.Or(u.Port(), scheme.port), 10, 16)
	if err != nil || port == 0 && scheme.protocol.HasPorts() {
		return target{}, fmt.Errorf("target %q: want a port from 1 to 65535", text)
	}
	t := target{
		flow:   policy.Flow{Direction: policy.Egress, Protocol: scheme.protocol},
		query:  u.Scheme == "dns",
		opaque: u.Scheme != "http" && u.Scheme != "https",
	}
	addr, err := netip.ParseAddr(u.Hostname())
	switch {
	case u.Scheme == "in":
		t.flow.Direction, t.flow.GuestPort = policy.Ingress, uint16(port)
		if u.Hostname() == "" {
			addr, err = netip.AddrFrom4([4]byte{127, 0, 0, 1}), nil
		}
		if err != nil {
			return target{}, fmt.Errorf("target %q: peers have no names: want an address", text)
		}
		port = somePort
	case policy.IsHostAlias(strings.ToLower(u.Hostname())):
		addr = gateway
	case err != nil:
		if t.name, err = policy.ParseName(u.Hostname()); err != nil {
			return target{}, fmt.Errorf("target %q: %w", text, err)
		}
		addr = somePublic
	case t.query:
		return target{}, fmt.Errorf("target %q: want a name to look up", text)
	}
	addr = addr.Unmap().WithZone("")
	if t.flow.Protocol == policy.ICMPv4 && addr.Is6() {
		t.flow.Protocol = policy.ICMPv6
	}
	t.flow.Peer = netip.AddrPortFrom(addr, uint16(port))
	return t, nil
}

// explain runs the stages that a flow goes through, up to the one that decides it
// for good.
func (t target) explain(p *policy.Policy, host *policy.Host, names []string) []control.ExplanationStage {
	var stages []control.ExplanationStage
	if t.name != "" {
		e := p.ExplainDNS(policy.Query{Name: t.name, Transport: policy.UDP})
		stages = append(stages, stageOf("dns", t.name, nil, e))
		if t.query || e.Verdict.Action == policy.Deny {
			return stages
		}
	}
	what := fmt.Sprintf("%v %v", t.flow.Protocol, t.flow.Peer)
	if t.name != "" {
		what = fmt.Sprintf("%v port %d of a public address of %s", t.flow.Protocol, t.flow.Peer.Port(), t.name)
	}
	ev := policy.Evidence{Names: names}
	e := p.Explain(host, t.flow, ev)
	stages = append(stages, stageOf("address", what, names, e))
	if !e.Verdict.NeedsName {
		return stages
	}
	ev.Stage = policy.StageNoName
	if t.name != "" && !t.opaque {
		ev.Stage, ev.Name = policy.StageName, t.name
		return append(stages, stageOf("name", what, names, p.Explain(host, t.flow, ev)))
	}
	return append(stages, stageOf("opaque", what, names, p.Explain(host, t.flow, ev)))
}

// stageOf returns a stage of the API.
func stageOf(stage, flow string, names []string, e policy.Explanation) control.ExplanationStage {
	v := e.Verdict
	out := control.ExplanationStage{
		Stage:  stage,
		Flow:   flow,
		Names:  names,
		Action: v.Action.String(),
		Rule:   v.Rule,
		Source: v.Source,
		Text:   v.Text,
		Reason: v.Reason,
		Group:  groupName(v.Group),
	}
	for _, step := range e.Steps {
		out.Steps = append(out.Steps, control.ExplanationStep{
			Rule:    step.Rule,
			Source:  step.Source,
			Text:    step.Text,
			Action:  step.Action.String(),
			Matched: step.Matched,
			Reached: step.Reached,
			Why:     step.Why,
			Missing: step.Missing,
		})
	}
	if e.Change != nil {
		out.Change, out.ChangeAt = e.Change.Rule.String(), e.Change.Place
	}
	return out
}
