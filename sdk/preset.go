package sdk

import (
	"cmp"
	"fmt"

	"github.com/sluicenet/sluice/policy"
)

// A NetworkPolicyPreset names rules and defaults for a common case.
type NetworkPolicyPreset string

const (
	// NetworkPolicyPresetNone gives the guest no network card at all.
	NetworkPolicyPresetNone NetworkPolicyPreset = "none"
	// NetworkPolicyPresetPublicOnly allows the public internet and its names.
	NetworkPolicyPresetPublicOnly NetworkPolicyPreset = "public-only"
	// NetworkPolicyPresetAllowAll allows everything that can be reached at all.
	NetworkPolicyPresetAllowAll NetworkPolicyPreset = "allow-all"
	// NetworkPolicyPresetNonLocal allows public and private addresses, not the
	// host, link-local addresses or metadata services.
	NetworkPolicyPresetNonLocal NetworkPolicyPreset = "non-local"
)

// NetworkPolicy makes configurations for common cases. Each call returns a
// fresh value that may be changed.
var NetworkPolicy networkPolicyFactory

type networkPolicyFactory struct{}

// None returns the configuration without a network: the guest has only its
// loopback interface.
func (networkPolicyFactory) None() *NetworkConfig {
	return &NetworkConfig{Policy: NetworkPolicyPresetNone}
}

// PublicOnly returns the configuration that allows the public internet and
// nothing else. It is the default.
func (networkPolicyFactory) PublicOnly() *NetworkConfig {
	return &NetworkConfig{Policy: NetworkPolicyPresetPublicOnly}
}

// AllowAll returns the configuration that allows private addresses and the host
// too.
func (networkPolicyFactory) AllowAll() *NetworkConfig {
	return &NetworkConfig{Policy: NetworkPolicyPresetAllowAll}
}

// NonLocal returns the configuration that allows public and private addresses,
// but not the host, link-local addresses or metadata services.
func (networkPolicyFactory) NonLocal() *NetworkConfig {
	return &NetworkConfig{Policy: NetworkPolicyPresetNonLocal}
}

// WrittenOut returns n with its preset, or what stands for none, replaced by the
// preset's rules and defaults, so that rules can be put in front of them. What n
// points to is shared with the result. A nil n is the preset public-only.
func (n *NetworkConfig) WrittenOut() (*NetworkConfig, error) {
	if n == nil {
		n = NetworkPolicy.PublicOnly()
	}
	out := *n
	custom := len(n.Rules) > 0 || n.DefaultEgress != "" || n.DefaultIngress != ""
	if n.Policy == "" && custom {
		return &out, nil
	}
	preset, err := policy.Preset(cmp.Or(string(n.Policy), policy.PresetPublicOnly))
	if err != nil {
		return nil, &Error{Kind: ErrInvalidArgument, Op: "write out preset", Cause: err}
	}
	if preset.Preset == policy.PresetNone {
		return nil, &Error{Kind: ErrInvalidArgument, Op: "write out preset", Message: "with Policy none there is no network to rule", Hint: "choose another policy"}
	}
	out.Policy, out.Rules = "", nil
	for _, r := range preset.Rules {
		out.Rules = append(out.Rules, ruleOf(r))
	}
	out.Rules = append(out.Rules, n.Rules...)
	out.DefaultEgress = cmp.Or(n.DefaultEgress, PolicyAction(preset.DefaultEgress.String()))
	out.DefaultIngress = cmp.Or(n.DefaultIngress, PolicyAction(preset.DefaultIngress.String()))
	return &out, nil
}

// A NetworkProfile is a part of the world that FromProfiles opens.
type NetworkProfile string

const (
	NetworkProfilePublic  NetworkProfile = "public"  // public addresses
	NetworkProfilePrivate NetworkProfile = "private" // private addresses
	NetworkProfileHost    NetworkProfile = "host"    // the host's loopback and own addresses
)

// profiles are all profiles, in the order of their rules.
var profiles = [...]NetworkProfile{NetworkProfilePublic, NetworkProfilePrivate, NetworkProfileHost}

// FromProfiles returns a custom policy that opens the given parts of the world,
// and every name if there is any. Without profiles nothing may leave. An
// unknown profile becomes a rule that CreateSandbox refuses; use
// [networkPolicyFactory.FromProfilesChecked] to learn of it at once.
func (networkPolicyFactory) FromProfiles(open ...NetworkProfile) *NetworkConfig {
	n := &NetworkConfig{DefaultEgress: PolicyActionDeny, DefaultIngress: PolicyActionAllow}
	if len(open) == 0 {
		return n
	}
	n.Rules = append(n.Rules, Rule.AllowDNS())
	given := make(map[NetworkProfile]bool)
	for _, p := range open {
		given[p] = true
	}
	allow := func(p NetworkProfile) {
		n.Rules = append(n.Rules, PolicyRule{
			Action:      PolicyActionAllow,
			Direction:   PolicyDirectionEgress,
			Destination: string(p),
		})
	}
	for _, p := range profiles {
		if given[p] {
			allow(p)
			delete(given, p)
		}
	}
	for _, p := range open {
		if given[p] {
			allow("unknown profile " + p)
			delete(given, p)
		}
	}
	return n
}

// FromProfilesChecked is FromProfiles, with an error of kind
// ErrInvalidArgument for an unknown profile.
func (f networkPolicyFactory) FromProfilesChecked(open ...NetworkProfile) (*NetworkConfig, error) {
	for i, p := range open {
		known := false
		for _, q := range profiles {
			known = known || p == q
		}
		if !known {
			return nil, &Error{
				Kind:    ErrInvalidArgument,
				Message: fmt.Sprintf("profiles[%d]: %q: want public, private or host", i, p),
			}
		}
	}
	return f.FromProfiles(open...), nil
}
