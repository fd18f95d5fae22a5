package sdk

import (
	"context"
	"net/netip"
	"reflect"
	"time"

	"github.com/sluicenet/sluice/internal/control"
)

// A NetworkUpdate says how a new policy was taken.
type NetworkUpdate struct {
	Generation uint64   // of the policy, which events name; 1 was the first
	Warnings   []string // what its user should think about
}

// UpdateNetwork replaces the policy while the sandbox runs: at once, and for the
// flows that are open, which are decided again. Only Policy, Rules, the defaults,
// the deny lists and DenyResponse of n may differ from what the sandbox has, and
// there is no way to or from the preset none. Everything that is wrong is one
// error, as CreateSandbox's.
func (s *Sandbox) UpdateNetwork(ctx context.Context, n *NetworkConfig) (*NetworkUpdate, error) {
	const verb = "update network of"
	if err := s.usable(verb); err != nil {
		return nil, err
	}
	if n == nil {
		n = NetworkPolicy.PublicOnly()
	}
	next := s.cfg
	next.Network = n
	var c checker
	c.checkUnchanged(s.cfg.Network, n)
	c.compilePolicy(n, len(next.Secrets) > 0)
	if err := c.err(); err != nil {
		return nil, s.failure(verb, err)
	}
	raw, err := keptOf(&next) // secrets' values have no part in it
	if err != nil {
		return nil, s.failure(verb, err)
	}
	updated, err := s.client.Update(ctx, raw)
	if err != nil {
		return nil, s.failure(verb, err)
	}
	return &NetworkUpdate{Generation: updated.Generation, Warnings: updated.Warnings}, nil
}

// policyFields are the fields of a NetworkConfig that UpdateNetwork may change.
var policyFields = map[string]bool{
	"Policy": true, "Rules": true, "DefaultEgress": true, "DefaultIngress": true,
	"DenyDomains": true, "DenyDomainSuffixes": true, "DenyResponse": true,
}

// checkUnchanged reports fields that can't change while a sandbox runs.
func (c *checker) checkUnchanged(old, next *NetworkConfig) {
	if old == nil {
		old = NetworkPolicy.PublicOnly()
	}
	if none := NetworkPolicyPresetNone; (old.Policy == none) != (next.Policy == none) {
		c.fail(ErrInvalidArgument, "Policy", string(next.Policy), "a network card can't come or go while the sandbox runs", "create another sandbox")
	}
	was, is := reflect.ValueOf(*old), reflect.ValueOf(*next)
	for i := range was.NumField() {
		name := was.Type().Field(i).Name
		if !policyFields[name] && !reflect.DeepEqual(was.Field(i).Interface(), is.Field(i).Interface()) {
			c.fail(ErrInvalidArgument, name, "", "can't change while the sandbox runs", "keep what it was created with")
		}
	}
}

// A Flow is a flow of the guest that is open.
type Flow struct {
	ID        uint64 // as events name it
	Direction PolicyDirection
	Protocol  PolicyProtocol
	Src, Dst  netip.AddrPort // ports are 0 for ICMP
	Dialed    netip.AddrPort // where the host's socket went, if not to Dst; else invalid
	Name      string         // what the guest called the peer; "" if it isn't known
	NameFrom  string         // dns, sni or http
	BytesOut  uint64         // from the guest so far
	BytesIn   uint64         // to the guest so far
	Age       time.Duration
}

// Flows returns the flows that are open.
func (s *Sandbox) Flows(ctx context.Context) ([]Flow, error) {
	open, err := ask(ctx, s, "list flows of", s.client.Flows)
	if err != nil {
		return nil, err
	}
	flows := make([]Flow, len(open))
	for i, f := range open {
		flows[i] = Flow{
			ID:        f.ID,
			Direction: PolicyDirection(f.Direction),
			Protocol:  PolicyProtocol(f.Protocol),
			Src:       f.Src,
			Dst:       f.Dst,
			Dialed:    f.Dialed,
			Name:      f.Name,
			NameFrom:  f.NameFrom,
			BytesOut:  f.BytesOut,
			BytesIn:   f.BytesIn,
			Age:       time.Duration(f.Seconds * float64(time.Second)),
		}
	}
	return flows, nil
}

// NetworkStats is what a sandbox's network has counted since its start.
type NetworkStats struct {
	FramesFromGuest, BytesFromGuest uint64            // of Ethernet
	FramesToGuest, BytesToGuest     uint64            // of Ethernet
	Drops                           map[string]uint64 // frames that went no further, by reason
	DNS                             map[string]uint64 // the resolver's counters, by name
	TCPFlows                        int               // open now
	HeldFlows                       int               // of these, without an answer of the host yet
	Denied                          uint64            // flows and queries
}

// NetworkStats returns what the network has counted.
func (s *Sandbox) NetworkStats(ctx context.Context) (*NetworkStats, error) {
	st, err := ask(ctx, s, "count network of", s.client.Stats)
	if err != nil {
		return nil, err
	}
	return &NetworkStats{
		FramesFromGuest: st.FramesFromGuest,
		BytesFromGuest:  st.BytesFromGuest,
		FramesToGuest:   st.FramesToGuest,
		BytesToGuest:    st.BytesToGuest,
		Drops:           st.Drops,
		DNS:             st.DNS,
		TCPFlows:        st.TCPFlows,
		HeldFlows:       st.HeldFlows,
		Denied:          st.Denied,
	}, nil
}

// An Explanation says what would become of a flow, decision by decision.
type Explanation struct {
	Target string             // as it was asked
	Stages []ExplanationStage // in the order in which a flow meets them
}

// Allowed reports whether the flow would get through every stage.
func (e *Explanation) Allowed() bool {
	for _, st := range e.Stages {
		if st.Action != PolicyActionAllow {
			return false
		}
	}
	return len(e.Stages) > 0
}

// An ExplanationStage is one decision, and the way to it.
type ExplanationStage struct {
	Stage  string            // dns, address, opaque or name
	Flow   string            // what was decided about
	Names  []string          // that the resolver gave for the address, now
	Action PolicyAction      // of the rule, or default, that decided
	Rule   int               // its index into the flattened list; -1 without a rule
	Source string            // where it comes from: Rules[2], preset public-only, default egress
	Text   string            // of the rule
	Reason string            // where the rule doesn't say it all
	Group  string            // of the address
	Steps  []ExplanationStep // every rule in order, then the default
	// Change is the smallest rule that would turn the verdict round, and
	// ChangeAt where it is to stand; "" if none would.
	Change, ChangeAt string
}

// An ExplanationStep is a rule and how it compared.
type ExplanationStep struct {
	Rule    int
	Source  string
	Text    string
	Action  PolicyAction
	Matched bool
	Reached bool   // no rule before it decided
	Why     string // it matched, or not
	Missing string // the evidence that would make it match
}

// Explain says what would become of a flow to a target, with what the sandbox's
// resolver knows now: https://example.com, udp://1.1.1.1:53, icmp://10.0.0.1, or
// in://:8080 for one that comes in.
func (s *Sandbox) Explain(ctx context.Context, target string) (*Explanation, error) {
	e, err := ask(ctx, s, "explain policy of", func(ctx context.Context) (control.Explanation, error) {
		return s.client.Explain(ctx, target)
	})
	if err != nil {
		return nil, err
	}
	out := &Explanation{Target: e.Target}
	for _, st := range e.Stages {
		stage := ExplanationStage{
			Stage: st.Stage, Flow: st.Flow, Names: st.Names, Action: PolicyAction(st.Action), Rule: st.Rule, Source: st.Source,
			Text: st.Text, Reason: st.Reason, Group: st.Group, Change: st.Change, ChangeAt: st.ChangeAt,
		}
		for _, step := range st.Steps {
			stage.Steps = append(stage.Steps, ExplanationStep{
				Rule: step.Rule, Source: step.Source, Text: step.Text, Action: PolicyAction(step.Action),
				Matched: step.Matched, Reached: step.Reached, Why: step.Why, Missing: step.Missing,
			})
		}
		out.Stages = append(out.Stages, stage)
	}
	return out, nil
}

// SandboxSecrets is a sandbox's secrets, which can be changed while it runs. Its
// methods may be called by several goroutines.
type SandboxSecrets struct{ s *Sandbox }

// Secrets returns the sandbox's secrets.
func (s *Sandbox) Secrets() *SandboxSecrets { return &SandboxSecrets{s} }

// List returns the names of the secrets' environment variables.
func (k *SandboxSecrets) List(ctx context.Context) ([]string, error) {
	return ask(ctx, k.s, "list secrets of", k.s.client.Secrets)
}

// Set gives a secret that the sandbox was created with another value, for
// requests from now on.
func (k *SandboxSecrets) Set(ctx context.Context, envVar, value string) error {
	if !isSecretValue(value) {
		return k.s.failure("set secret of", &Error{Kind: ErrInvalidConfig, Message: "value: is empty or holds a line break or NUL", Hint: "give the value as it stands in a header"})
	}
	return tell(ctx, k.s, "set secret of", func(ctx context.Context) error { return k.s.client.SetSecret(ctx, envVar, value) })
}

// Remove takes a secret away: its placeholder is replaced for nobody any more.
func (k *SandboxSecrets) Remove(ctx context.Context, envVar string) error {
	return tell(ctx, k.s, "remove secret of", func(ctx context.Context) error { return k.s.client.RemoveSecret(ctx, envVar) })
}
