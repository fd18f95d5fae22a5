package main

import (
	"context"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sluicenet/sluice/policy"
	m "github.com/sluicenet/sluice/sdk"
)

func newPolicy(c *console) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Look at a policy, or change that of a running sandbox",
	}
	return family(cmd, newPolicyShow(c), newPolicyCheck(c), newPolicyExplain(c), newPolicyLint(c), newPolicySchema(c),
		newPolicySet(c), newPolicyAllow(c), newPolicyDeny(c))
}

// A policySource is the policy that show, check, explain and lint are about: the
// one that flags describe, or that of a sandbox.
type policySource struct {
	networkFlags
	sandbox string
}

func (f *policySource) register(cmd *cobra.Command) {
	f.networkFlags.register(cmd.Flags())
	cmd.Flags().StringVarP(&f.sandbox, "sandbox", "s", "", "the policy of `SANDBOX`, instead of the flags'")
	_ = cmd.RegisterFlagCompletionFunc("sandbox", completeNames(false, many)) // the flag is there
}

// config returns the configuration that is meant.
func (f *policySource) config(cmd *cobra.Command) (*m.NetworkConfig, error) {
	if f.sandbox == "" {
		return f.networkFlags.config()
	}
	var other string
	cmd.Flags().VisitAll(func(flag *pflag.Flag) {
		if flag.Changed && describesNetwork(flag) {
			other = flag.Name
		}
	})
	if other != "" {
		return nil, fmt.Errorf("a sandbox has a policy, and --%s says another; drop one of the two", other)
	}
	return networkOf(cmd.Context(), f.sandbox)
}

// networkOf returns the configuration of a sandbox's network as it is now.
func networkOf(ctx context.Context, name string) (*m.NetworkConfig, error) {
	h, err := m.GetSandbox(ctx, name)
	if err != nil {
		return nil, err
	}
	cfg, err := h.Config()
	if err != nil {
		return nil, err
	}
	if cfg.Network == nil {
		return m.NetworkPolicy.PublicOnly(), nil
	}
	return cfg.Network, nil
}

// compile returns the policy that is meant, and prints its warnings.
func (f *policySource) compile(cmd *cobra.Command, c *console) (*policy.Policy, error) {
	n, err := f.config(cmd)
	if err != nil {
		return nil, err
	}
	cfg, warnings, err := n.Compile()
	if err != nil {
		return nil, err
	}
	for _, w := range warnings {
		c.notef("warning: %s", w)
	}
	return policy.New(cfg)
}

// shownRule is a rule as policy show prints it.
type shownRule struct {
	Index  int    `json:"index"`
	Rule   string `json:"rule"`
	Source string `json:"source"`
}

// shownPolicy is a policy as policy show prints it.
type shownPolicy struct {
	Rules          []shownRule `json:"rules"`
	DefaultEgress  string      `json:"default_egress"`
	DefaultIngress string      `json:"default_ingress"`
}

func newPolicyShow(c *console) *cobra.Command {
	var f policySource
	var o output
	cmd := &cobra.Command{
		Use:   "show [flags] [SANDBOX]",
		Short: "Print the rules in the order in which they are evaluated",
		Example: `  sluice policy show --network non-local --deny ads.example
  sluice policy show --sandbox worker`,
		Args: takes(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 { // as set, allow and deny take it
				f.sandbox = args[0]
			}
			p, err := f.compile(cmd, c)
			if err != nil {
				return err
			}
			return showPolicy(c, p, &o)
		},
		ValidArgsFunction: completeNames(false, 1),
	}
	f.register(cmd)
	o.register(cmd.Flags())
	return cmd
}

func showPolicy(c *console, p *policy.Policy, o *output) error {
	shown := shownPolicy{
		Rules:          []shownRule{},
		DefaultEgress:  p.Default(policy.Egress).String(),
		DefaultIngress: p.Default(policy.Ingress).String(),
	}
	for i, r := range p.Rules() {
		shown.Rules = append(shown.Rules, shownRule{i, r.String(), r.Source})
	}
	return o.print(c, shown, func() error {
		t := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
		for _, r := range shown.Rules {
			fmt.Fprintf(t, "%d\t%s\t%s\n", r.Index, r.Rule, r.Source)
		}
		fmt.Fprintf(t, "\t%s egress *\tdefault\n\t%s ingress *\tdefault\n", shown.DefaultEgress, shown.DefaultIngress)
		return t.Flush()
	})
}

func newPolicyLint(c *console) *cobra.Command {
	var f policySource
	var o output
	cmd := &cobra.Command{
		Use:   "lint [flags]",
		Short: "Find rules that never decide anything, and openings that surprise",
		Long: `Find rules that never decide anything, and openings that surprise. The exit code
is 0 if there is nothing to say, 1 if there are warnings, 2 if the policy can't
be used.`,
		Example: `  sluice policy lint --policy ci.yaml`,
		Args:    takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			n, err := f.config(cmd)
			if err != nil {
				return err
			}
			_, warnings, err := n.Compile()
			if err != nil {
				return err
			}
			return lint(c, warnings, &o)
		},
	}
	f.register(cmd)
	o.register(cmd.Flags())
	return cmd
}

// lint prints warnings, and exits by whether there are any.
func lint(c *console, warnings []string, o *output) error {
	if warnings == nil {
		warnings = []string{}
	}
	err := o.print(c, warnings, func() error {
		for _, w := range warnings {
			if _, err := fmt.Fprintln(c.out, w); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil && len(warnings) > 0 {
		return &exitError{code: codeFailure}
	}
	return err
}

func newPolicySchema(c *console) *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of policy files, for editors",
		Args:  takes(0, 0),
		RunE: func(*cobra.Command, []string) error {
			_, err := c.out.Write(m.NetworkConfigSchema())
			return err
		},
	}
}
