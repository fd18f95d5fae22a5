package sandbox

import (
	"cmp"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/sluicenet/sluice/dns"
	"github.com/sluicenet/sluice/internal/control"
	"github.com/sluicenet/sluice/mitm/secret"
	"github.com/sluicenet/sluice/policy"
	"github.com/sluicenet/sluice/vnet"
)

// typeUpdate is the event of a replaced policy.
const typeUpdate = "policy.update"

// errNoNetwork is the failure of a question about a network that isn't there.
var errNoNetwork = &control.Failure{Kind: control.KindUnsupported, Message: "the sandbox has no network"}

// Flows implements control.Sandbox.
func (s *Sandbox) Flows() []control.Flow {
	flows := []control.Flow{}
	if s.network == nil {
		return flows
	}
	for _, f := range s.network.Flows() {
		flow := control.Flow{
			ID:        f.ID,
			Direction: f.Direction.String(),
			Protocol:  f.Protocol.String(),
			Src:       f.Src,
			Dst:       f.Dst,
			Name:      f.Name,
			NameFrom:  f.NameFrom,
			Stage:     f.Stage.String(),
			BytesOut:  f.BytesOut,
			BytesIn:   f.BytesIn,
			Seconds:   f.Duration.Seconds(),
		}
		if f.Dialed != f.Dst {
			flow.Dialed = f.Dialed
		}
		flows = append(flows, flow)
	}
	return flows
}

// Stats implements control.Sandbox.
func (s *Sandbox) Stats() control.Stats {
	out := control.Stats{Drops: map[string]uint64{}, DNS: map[string]uint64{}}
	out.Allowed, out.Denied = s.events.allowed.Load(), s.events.denied.Load()
	if s.network == nil {
		return out
	}
	n := s.network.Stats()
	out.FramesFromGuest, out.BytesFromGuest = n.FramesFromGuest, n.BytesFromGuest
	out.FramesToGuest, out.BytesToGuest = n.FramesToGuest, n.BytesToGuest
	out.TCPFlows, out.HeldFlows, out.Drops = n.TCPFlows, n.HeldFlows, n.Drops
	out.DNS = dnsCounts(s.resolver.Stats())
	return out
}

// dnsCounts returns the resolver's counters by their names.
func dnsCounts(st dns.Stats) map[string]uint64 {
	return map[string]uint64{
		"queries":   st.Queries,
		"malformed": st.Malformed,
		"local":     st.Local,
		"denied":    st.Denied,
		"cached":    st.Cached,
		"answered":  st.Answered,
		"failed":    st.Failed,
		"limited":   st.Limited,
		"upstream":  st.Upstream,
		"evicted":   st.Evicted,
	}
}

// Update implements control.Sandbox. The configuration is compiled as at
// creation, and refused whole if anything but the policy differs. Updates come
// one after the other.
func (s *Sandbox) Update(config json.RawMessage) (control.Updated, error) {
	next, err := s.compile(config)
	if err != nil {
		return control.Updated{}, err
	}
	s.updating.Lock()
	defer s.updating.Unlock()
	if fields := fixedDifferences(s.current, next); len(fields) > 0 {
		return control.Updated{}, &control.Failure{
			Kind:    control.KindArgument,
			Message: strings.Join(fields, ", ") + ": can't be changed while the sandbox runs",
			Hint:    "only Policy, Rules, defaults, deny lists and DenyResponse can; create another sandbox for the rest",
		}
	}
	s.current = next
	s.mu.Lock()
	s.policy = next.Network.Policy
	s.mu.Unlock()
	generation := s.setRules(func() {
		s.resolver.SetPolicy(next.Network.Policy)
		s.network.SetRules(next.Network.Policy, next.Network.Reject)
	})
	s.events.emit(record{Type: typeUpdate, Time: time.Now(), Policy: &recordPolicy{generation}})
	for _, w := range next.Warnings {
		s.warn(w)
	}
	if err := s.note(func(st *Found) { st.Config = next.ConfigJSON }); err != nil {
		s.log.Warn("write state", "error", err)
	}
	return control.Updated{Generation: generation, Warnings: next.Warnings}, nil
}

// setRules makes a change to the rules of network and resolver, which both count
// as a generation, and returns its number. So the two agree, whoever calls.
func (s *Sandbox) setRules(change func()) uint64 {
	s.ruling.Lock()
	defer s.ruling.Unlock()
	change()
	return s.generation.Add(1)
}

// rules returns the policy of this moment and what it is about.
func (s *Sandbox) rules() (*policy.Policy, *policy.Host) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.policy, s.told
}

// fixedDifferences names the fields in which two configurations differ and which
// can't change while the sandbox runs, in the user's words.
func fixedDifferences(old, next Config) []string {
	var fields []string
	differ := func(field string, a, b any) {
		if !reflect.DeepEqual(a, b) {
			fields = append(fields, field)
		}
	}
	differ("WithBackend", old.Backend, next.Backend)
	differ("WithImage", old.Image, next.Image)
	differ("WithBindRootfs", old.Root, next.Root)
	differ("WithCPUs", old.CPUs, next.CPUs)
	differ("WithMemory", old.MemoryMiB, next.MemoryMiB)
	differ("WithHostname", old.Hostname, next.Hostname)
	differ("WithEnv", orNil(old.Env), orNil(next.Env))
	differ("WithLabels", orNil(old.Labels), orNil(next.Labels))
	differ("WithPatches and WithScripts", old.Patches, next.Patches)
	differ("WithMounts", old.Mounts, next.Mounts)
	differ("WithEphemeral", old.Keep, next.Keep)
	differ("WithDetached", old.Detached, next.Detached)
	differ("WithMaxDuration", old.MaxDuration, next.MaxDuration)
	differ("WithIdleTimeout", old.IdleTimeout, next.IdleTimeout)
	differ("WithLogLevel", old.LogLevel, next.LogLevel)
	a, b := old.Network, next.Network
	if a == nil || b == nil {
		differ("Policy (to or from none)", a == nil, b == nil)
		if a == nil && b == nil {
			fields = append(fields, "Policy (none)")
		}
		return fields
	}
	differ("IPv4Pool and IPv6Pool", a.Pool, b.Pool)
	differ("MTU", a.MTU, b.MTU)
	differ("DNS.Nameservers", a.Nameservers, b.Nameservers)
	differ("DNS.QueryTimeoutMs", a.QueryTimeout, b.QueryTimeout)
	differ("DNS.RebindProtection", a.AllowRebind, b.AllowRebind)
	differ("Limits.DNSQueriesPerSecond", a.DNSQueriesPerSecond, b.DNSQueriesPerSecond)
	differ("MaxConnections and Limits", writtenOut(a.Limits), writtenOut(b.Limits))
	differ("RateLimiter", a.RateLimit, b.RateLimit)
	differ("Ports and PortBindings", sorted(a.Ports), sorted(b.Ports))
	differ("WithAddHost", a.Hosts, b.Hosts)
	differ("TLS", a.Intercept, b.Intercept)
	differ("TLS.BlockQUIC", a.QUIC, b.QUIC)
	differ("TrustHostCAs", a.TrustHostCAs, b.TrustHostCAs)
	differ("WithSecrets and OnSecretViolation", valueless(a.Secrets), valueless(b.Secrets))
	return fields
}

// writtenOut returns limits with the defaults of fitFiles.
func writtenOut(l vnet.Limits) vnet.Limits {
	l.TCPFlows = cmp.Or(l.TCPFlows, DefaultTCPFlows)
	l.UDPSessions = cmp.Or(l.UDPSessions, DefaultUDPSessions)
	return l
}

// orNil returns nil for a map without entries, which means the same.
func orNil(m map[string]string) map[string]string {
	if len(m) == 0 {
		return nil
	}
	return m
}

// valueless returns the secrets without their values, which whoever has only
// found the sandbox doesn't know, and with the default action written out.
func valueless(c secret.Config) secret.Config {
	c.OnViolation = cmp.Or(c.OnViolation, secret.ActionBlockAndLog)
	c.Secrets = slices.Clone(c.Secrets)
	for i := range c.Secrets {
		c.Secrets[i].Value = secret.Value{}
	}
	return c
}

// sorted returns bindings in an order that doesn't depend on how they were
// given.
func sorted[T any](list []T) []T {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b T) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
	return list
}
