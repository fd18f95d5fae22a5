package sdk

import (
	"context"

	"github.com/sluicenet/sluice/internal/control"
)

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
