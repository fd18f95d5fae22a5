package sandbox

import (
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
	t, err := policy.ParseTarget(target, s.block.block.Gateway4)
	if err != nil {
		return control.Explanation{}, &control.Failure{Kind: control.KindArgument, Message: err.Error()}
	}
	p, host := s.rules()
	var names []string
	if t.Name == "" {
		names = s.resolver.AppendNames(nil, t.Flow.Peer.Addr(), time.Now())
	}
	out := control.Explanation{Target: target}
	for _, d := range p.ExplainTarget(host, t, names) {
		out.Stages = append(out.Stages, stageOf(d))
	}
	return out, nil
}

// stageOf returns a stage of the API.
func stageOf(d policy.Decision) control.ExplanationStage {
	v := d.Verdict
	out := control.ExplanationStage{
		Stage:  d.Stage,
		Flow:   d.About,
		Names:  d.Names,
		Action: v.Action.String(),
		Rule:   v.Rule,
		Source: v.Source,
		Text:   v.Text,
		Reason: v.Reason,
		Group:  groupName(v.Group),
	}
	for _, step := range d.Steps {
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
	if d.Change != nil {
		out.Change, out.ChangeAt = d.Change.Rule.String(), d.Change.Place
	}
	return out
}
