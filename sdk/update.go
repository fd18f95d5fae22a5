package sdk

import (
	"context"
	"reflect"
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
