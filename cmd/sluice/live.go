package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	m "github.com/sluicenet/sluice/sdk"
)

func newPolicySet(c *console) *cobra.Command {
	var f networkFlags
	cmd := &cobra.Command{
		Use:   "set SANDBOX [flags]",
		Short: "Replace the policy of a running sandbox",
		Long: `Replace the policy of a running sandbox, at once: connections that the new one
denies are cut. Only the policy can be replaced; resolver, ports and limits stay
what they were.`,
		Example: `  sluice policy set worker --policy stricter.yaml`,
		Args:    takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.implicit() && len(f.denials) == 0 && f.denyResponse == "" {
				return errors.New("which policy? write --policy FILE, --network PRESET, --allow or --deny")
			}
			n, err := f.config()
			if err != nil {
				return err
			}
			return updatePolicy(cmd.Context(), c, args[0], func(old *m.NetworkConfig) (*m.NetworkConfig, error) {
				next := *old
				next.Policy, next.Rules = n.Policy, n.Rules
				next.DefaultEgress, next.DefaultIngress = n.DefaultEgress, n.DefaultIngress
				next.DenyDomains, next.DenyDomainSuffixes = n.DenyDomains, n.DenyDomainSuffixes
				next.DenyResponse = n.DenyResponse
				return &next, nil
			})
		},
		ValidArgsFunction: completeNames(true, 1),
	}
	f.registerPolicy(cmd.Flags())
	return cmd
}

func newPolicyAllow(c *console) *cobra.Command {
	return newPolicyAdd(c, m.PolicyActionAllow, "allow", "Let a running sandbox reach more")
}

func newPolicyDeny(c *console) *cobra.Command {
	return newPolicyAdd(c, m.PolicyActionDeny, "deny", "Let a running sandbox reach less")
}

// newPolicyAdd returns policy allow or policy deny.
func newPolicyAdd(c *console, action m.PolicyAction, verb, short string) *cobra.Command {
	return &cobra.Command{
		Use:   verb + " SANDBOX HOST[:PORT]…",
		Short: short,
		Long: short + `, at once.

What is said last counts: its rules come before all others. HOST is a name,
.suffix, address, CIDR or group.`,
		Example: "  sluice policy " + verb + " worker api.example.com:443",
		Args:    takes(2, many),
		RunE: func(cmd *cobra.Command, args []string) error {
			var rules []m.PolicyRule
			for _, target := range args[1:] {
				if err := (&targets{&rules, action}).Set(target); err != nil {
					return fmt.Errorf("%q: %w", target, err)
				}
			}
			return updatePolicy(cmd.Context(), c, args[0], func(old *m.NetworkConfig) (*m.NetworkConfig, error) {
				return withRulesFirst(old, rules)
			})
		},
		ValidArgsFunction: completeNames(true, 1),
	}
}

// withRulesFirst returns n with rules before its own. Those that say something
// else about the same targets go: they would never decide.
func withRulesFirst(n *m.NetworkConfig, rules []m.PolicyRule) (*m.NetworkConfig, error) {
	n, err := n.WrittenOut()
	if err != nil {
		return nil, err
	}
	rest := slices.DeleteFunc(slices.Clone(n.Rules), func(old m.PolicyRule) bool {
		return slices.ContainsFunc(rules, func(r m.PolicyRule) bool { return sameTarget(old, r) })
	})
	n.Rules = append(slices.Clone(rules), rest...)
	return n, nil
}

// sameTarget reports whether two rules differ in their action at most.
func sameTarget(a, b m.PolicyRule) bool {
	a.Action = b.Action
	return a.String() == b.String()
}

// updatePolicy replaces the policy of a sandbox by what change makes of it.
func updatePolicy(ctx context.Context, c *console, name string, change func(*m.NetworkConfig) (*m.NetworkConfig, error)) error {
	old, err := networkOf(ctx, name)
	if err != nil {
		return err
	}
	next, err := change(old)
	if err != nil {
		return err
	}
	return withSandbox(ctx, name, func(sb *m.Sandbox) error {
		updated, err := sb.UpdateNetwork(ctx, next)
		if err != nil {
			return err
		}
		for _, w := range updated.Warnings {
			c.notef("warning: %s", w)
		}
		c.notef("sandbox %q has policy %d", name, updated.Generation)
		return nil
	})
}
