package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/sluicenet/sluice/policy"
	m "github.com/sluicenet/sluice/sdk"
)

func newPolicyExplain(c *console) *cobra.Command {
	var f networkFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "explain [flags] TARGET",
		Short: "Say rule by rule how a policy comes to its verdict",
		Long: `Say rule by rule how a policy comes to its verdict about a target, stage by
stage: the query for its name, the first packet to its address, and the name in
its first bytes. A rule is marked > where it decides. The last line of a stage
is the smallest rule that would turn its verdict round.

Targets and exit codes are those of policy check.`,
		Example: `  sluice policy explain --network public-only https://10.0.0.5/`,
		Args:    takes(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			p, err := f.compile(c)
			if err != nil {
				return err
			}
			target, err := parseTarget(args[0])
			if err != nil {
				return err
			}
			return explain(c, target.explain(p), asJSON)
		},
	}
	f.register(cmd.Flags())
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// An explainedStage is one stage of a decision, as policy explain prints it.
type explainedStage struct {
	Stage   string          `json:"stage"` // dns, address or name
	Verdict string          `json:"verdict"`
	Reason  string          `json:"reason"`
	Rules   []explainedRule `json:"rules"`
	// Change is the smallest rule that turns the verdict round, and Place where
	// it is to stand; "" if none does.
	Change string `json:"change,omitempty"`
	Place  string `json:"place,omitempty"`
}

// An explainedRule is a rule that a stage has, or has not, come to.
type explainedRule struct {
	Rule    string `json:"rule"` // "" for the default
	Source  string `json:"source"`
	Action  string `json:"action"`
	Matched bool   `json:"matched"`
	Decides bool   `json:"decides"`
	Why     string `json:"why"`
	Missing string `json:"missing,omitempty"` // evidence that would make it match
}

// explain runs the stages that the target goes through, up to the one that
// denies it for good.
func (f checkedFlow) explain(p *policy.Policy) []explainedStage {
	var stages []explainedStage
	if f.name != "" {
		e := p.ExplainDNS(policy.Query{Name: f.name, Transport: policy.UDP})
		stages = append(stages, explained("dns", e))
		if f.query || e.Verdict.Action == policy.Deny {
			return stages
		}
	}
	host := &policy.Host{Gateways: []netip.Addr{someGateway}}
	ev := policy.Evidence{}
	if f.name != "" {
		ev.Names = []string{f.name}
	}
	e := p.Explain(host, f.flow, ev)
	stages = append(stages, explained("address", e))
	if !e.Verdict.NeedsName {
		return stages
	}
	ev.Stage = policy.StageNoName
	if f.name != "" && !f.plain {
		ev.Stage, ev.Name = policy.StageName, f.name
	}
	return append(stages, explained("name", p.Explain(host, f.flow, ev)))
}

// explained puts an explanation into the words of the command.
func explained(stage string, e policy.Explanation) explainedStage {
	s := explainedStage{Stage: stage, Verdict: verdictText(e.Verdict), Reason: reasonText(e.Verdict), Rules: []explainedRule{}}
	for _, st := range e.Steps {
		s.Rules = append(s.Rules, explainedRule{
			Rule: st.Text, Source: st.Source, Action: st.Action.String(),
			Matched: st.Matched, Decides: st.Decides(), Why: st.Why, Missing: st.Missing,
		})
	}
	if e.Change != nil {
		s.Change, s.Place = e.Change.Rule.String(), e.Change.Place
	}
	return s
}

// verdictText says what a verdict is, and what is still to come.
func verdictText(v policy.Verdict) string {
	switch {
	case v.NeedsName && v.Dial:
		return "allow, if the first bytes don't name another host"
	case v.NeedsName:
		return "wait for a name in the first bytes"
	}
	return v.Action.String()
}

// reasonText says what a verdict comes from.
func reasonText(v policy.Verdict) string {
	switch {
	case v.Text != "" && v.Reason != "":
		return fmt.Sprintf("%s (%s): %s", v.Text, v.Source, v.Reason)
	case v.Text != "":
		return fmt.Sprintf("%s (%s)", v.Text, v.Source)
	case v.Reason != "":
		return fmt.Sprintf("%s: %s", v.Source, v.Reason)
	}
	return v.Source
}

// explain prints the stages, and exits by the last one's verdict.
func explain(c *console, stages []explainedStage, asJSON bool) error {
	denied := stages[len(stages)-1].Verdict == policy.Deny.String()
	if asJSON {
		if err := json.NewEncoder(c.out).Encode(stages); err != nil {
			return err
		}
	} else {
		for _, s := range stages {
			if err := s.print(c); err != nil {
				return err
			}
		}
	}
	if denied {
		return &exitError{code: codeFailure}
	}
	return nil
}

// print prints one stage: its verdict, its rules, and what would change it.
func (s explainedStage) print(c *console) error {
	fmt.Fprintf(c.out, "%s: %s\n", s.Stage, s.Verdict)
	if len(s.Rules) == 0 {
		fmt.Fprintf(c.out, "  no rule was asked: %s\n", s.Reason)
	}
	t := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	for _, r := range s.Rules {
		mark, rule := " ", r.Rule
		if r.Decides {
			mark = ">"
		}
		if rule == "" {
			rule = r.Action + " everything else"
		}
		why := r.Why
		if r.Missing != "" {
			why += "; it would match with " + r.Missing
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", mark, r.Source, rule, why)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if s.Change != "" {
		fmt.Fprintf(c.out, "  to change it: %s, %s\n", s.Change, s.Place)
	}
	return nil
}

func newPolicyLint(c *console) *cobra.Command {
	var f networkFlags
	cmd := &cobra.Command{
		Use:   "lint [flags]",
		Short: "Find rules that never decide anything, and openings that surprise",
		Long: `Find rules that never decide anything, and openings that surprise. The exit code
is 0 if there is nothing to say, 1 if there are warnings, 2 if the policy can't
be used.`,
		Example: `  sluice policy lint --policy ci.yaml`,
		Args:    takes(0, 0),
		RunE: func(*cobra.Command, []string) error {
			n, err := f.config()
			if err != nil {
				return err
			}
			_, warnings, err := n.Compile()
			if err != nil {
				return err
			}
			for _, w := range warnings {
				fmt.Fprintln(c.out, w)
			}
			if len(warnings) > 0 {
				return &exitError{code: codeFailure}
			}
			return nil
		},
	}
	f.register(cmd.Flags())
	return cmd
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
