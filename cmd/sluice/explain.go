package main

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/sluicenet/sluice/policy"
	m "github.com/sluicenet/sluice/sdk"
)

// targetsHelp says what check and explain take.
const targetsHelp = `A target is https://host/, http://host:8080/, tcp://HOST:PORT, udp://HOST:PORT,
icmp://HOST, dns://NAME, or in://ADDR:GUESTPORT for a flow that comes in. A name
is checked as its query is, and then as a flow to a public address that the
resolver gave for it. With --sandbox an address has the names that the resolver
gave for it there.

The exit code is 0 if everything is allowed, 1 if something is denied, 2 if a
target or the policy makes no sense.`

func newPolicyCheck(c *console) *cobra.Command {
	var f policySource
	var o output
	cmd := &cobra.Command{
		Use:   "check [flags] TARGET…",
		Short: "Say what a policy does with targets",
		Long: `Say what a policy does with targets.

` + targetsHelp,
		Example: `  sluice policy check --policy ci.yaml https://api.example.com/ udp://1.1.1.1:53`,
		Args:    takes(1, many),
		RunE: func(cmd *cobra.Command, args []string) error {
			stagesOf, err := f.explainer(cmd, c)
			if err != nil {
				return err
			}
			return checkTargets(c, stagesOf, args, &o)
		},
	}
	f.register(cmd)
	o.register(cmd.Flags())
	return cmd
}

func newPolicyExplain(c *console) *cobra.Command {
	var f policySource
	var o output
	cmd := &cobra.Command{
		Use:   "explain [flags] TARGET",
		Short: "Say rule by rule how a policy comes to its verdict",
		Long: `Say rule by rule how a policy comes to its verdict about a target, stage by
stage: the query for its name, the first packet to its address, and the name in
its first bytes, or that there is none. A rule is marked > where it decides. The
last line of a stage is the smallest rule that would turn its verdict round.

` + targetsHelp,
		Example: `  sluice policy explain --network public-only https://10.0.0.5/`,
		Args:    takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			stagesOf, err := f.explainer(cmd, c)
			if err != nil {
				return err
			}
			stages, err := stagesOf(args[0])
			if err != nil {
				return err
			}
			return explain(c, stages, &o)
		},
	}
	f.register(cmd)
	o.register(cmd.Flags())
	return cmd
}

// A lastWord is a verdict and where it comes from.
type lastWord struct {
	Stage   string `json:"stage"`            // dns, address, name or opaque
	Verdict string `json:"verdict"`          // allow, deny, or what is waited for
	Rule    string `json:"rule,omitempty"`   // "" without one
	Source  string `json:"source"`           // of the rule, or the default
	Reason  string `json:"reason,omitempty"` // where the rule doesn't say it all
}

// because says what the verdict comes from.
func (w *lastWord) because() string {
	text := w.Source
	if w.Rule != "" {
		text = fmt.Sprintf("%s (%s)", w.Rule, w.Source)
	}
	if w.Reason != "" {
		text += ": " + w.Reason
	}
	return text
}

// denies reports whether nothing may pass.
func (w *lastWord) denies() bool { return w.Verdict == policy.Deny.String() }

// An explainedStage is one stage of a decision, as policy explain prints it.
type explainedStage struct {
	lastWord
	Rules []explainedRule `json:"rules"`
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

// An explainer returns the stages that a target goes through, at least one.
type explainer func(target string) ([]explainedStage, error)

// someGateway stands for this host, before a sandbox has an address for it.
var someGateway = netip.AddrFrom4([4]byte{172, 16, 0, 1})

// explainer returns the explainer of the policy that is meant: a sandbox that
// runs answers itself, since its resolver knows names.
func (f *policySource) explainer(cmd *cobra.Command, c *console) (explainer, error) {
	p, err := f.compile(cmd, c)
	if err != nil {
		return nil, err
	}
	if f.sandbox != "" {
		if h, err := m.GetSandbox(cmd.Context(), f.sandbox); err != nil || runs(h) {
			return liveExplainer(cmd.Context(), f.sandbox), err
		}
	}
	return func(target string) ([]explainedStage, error) {
		t, err := policy.ParseTarget(target, someGateway)
		if err != nil {
			return nil, err
		}
		return stagesOf(p.ExplainTarget(&policy.Host{Gateways: []netip.Addr{someGateway}}, t, nil)), nil
	}, nil
}

// liveExplainer asks a sandbox that runs.
func liveExplainer(ctx context.Context, name string) explainer {
	return func(target string) (stages []explainedStage, err error) {
		err = withSandbox(ctx, name, func(sb *m.Sandbox) error {
			e, err := sb.Explain(ctx, target)
			if err == nil {
				stages = liveStages(e)
			}
			return err
		})
		return stages, err
	}
}

// stagesOf puts decisions into the words of the command.
func stagesOf(met []policy.Decision) []explainedStage {
	var stages []explainedStage
	for _, d := range met {
		v := d.Verdict
		s := explainedStage{lastWord: lastWord{d.Stage, v.Action.String(), v.Text, v.Source, v.Reason}, Rules: []explainedRule{}}
		for _, st := range d.Steps {
			s.Rules = append(s.Rules, explainedRule{
				Rule: st.Text, Source: st.Source, Action: st.Action.String(),
				Matched: st.Matched, Decides: st.Decides(), Why: st.Why, Missing: st.Missing,
			})
		}
		if d.Change != nil {
			s.Change, s.Place = d.Change.Rule.String(), d.Change.Place
		}
		stages = append(stages, s)
	}
	return waiting(stages)
}

// liveStages is stagesOf for what a sandbox says.
func liveStages(e *m.Explanation) []explainedStage {
	var stages []explainedStage
	for _, st := range e.Stages {
		s := explainedStage{
			lastWord: lastWord{st.Stage, string(st.Action), st.Text, st.Source, st.Reason},
			Rules:    []explainedRule{}, Change: st.Change, Place: st.ChangeAt,
		}
		for _, step := range st.Steps {
			s.Rules = append(s.Rules, explainedRule{
				Rule: step.Text, Source: step.Source, Action: string(step.Action),
				Matched: step.Matched, Decides: step.Matched && step.Reached, Why: step.Why, Missing: step.Missing,
			})
		}
		stages = append(stages, s)
	}
	return waiting(stages)
}

// waiting says of the address's verdict what is still to come, if anything is.
func waiting(stages []explainedStage) []explainedStage {
	for i := range stages {
		s := &stages[i]
		switch {
		case s.Stage != "address" || i == len(stages)-1:
		case s.Verdict == policy.Allow.String():
			s.Verdict = "allow, if the first bytes don't name another host"
		default:
			s.Verdict = "wait for a name in the first bytes"
		}
	}
	return stages
}

// explain prints the stages, and exits by the last one's verdict.
func explain(c *console, stages []explainedStage, o *output) error {
	err := o.print(c, stages, func() error {
		for _, s := range stages {
			if err := s.print(c); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil && stages[len(stages)-1].denies() {
		return &exitError{code: codeFailure}
	}
	return err
}

// print prints one stage: its verdict, its rules, and what would change it.
func (s *explainedStage) print(c *console) error {
	fmt.Fprintf(c.out, "%s: %s\n", s.Stage, s.Verdict)
	if len(s.Rules) == 0 {
		fmt.Fprintf(c.out, "  no rule was asked: %s\n", s.because())
	}
	t := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	for _, r := range s.Rules {
		mark := " "
		if r.Decides {
			mark = ">"
		}
		why := r.Why
		if r.Missing != "" {
			why += "; it would match with " + r.Missing
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", mark, r.Source, cmp.Or(r.Rule, r.Action+" everything else"), why)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if s.Change != "" {
		fmt.Fprintf(c.out, "  to change it: %s, %s\n", s.Change, s.Place)
	}
	return nil
}

// A checkedTarget is a target and the last word about it, as policy check prints
// it.
type checkedTarget struct {
	Target string `json:"target"`
	lastWord
}

// checkTargets prints a line per target, and exits by whether one is denied.
func checkTargets(c *console, stagesOf explainer, targets []string, o *output) error {
	var rows []checkedTarget
	denied := false
	for _, target := range targets {
		stages, err := stagesOf(target)
		if err != nil {
			return err
		}
		last := stages[len(stages)-1].lastWord
		denied = denied || last.denies()
		rows = append(rows, checkedTarget{target, last})
	}
	err := printRows(c, o, "", rows, func(r checkedTarget) string {
		return strings.Join([]string{r.Verdict, printable(r.Target), r.Stage, r.because()}, "\t")
	})
	if err == nil && denied {
		return &exitError{code: codeFailure}
	}
	return err
}
