package sdk

import "context"

// A NetworkUpdate says how a new policy was taken.
type NetworkUpdate struct {
	Generation uint64   // of the policy, which events name; 1 was the first
	Warnings   []string // what its user should think about
}

// UpdateNetwork replaces the policy while the sandbox runs: at once, and for the
// flows that are open, which are decided again. Only Policy, Rules, the defaults,
// the deny lists and DenyResponse of n may say something else than what the
// sandbox has; a default that is written out says the same as one that isn't.
// There is no way to or from the preset none. Everything that is wrong is one
// error, as CreateSandbox's.
func (s *Sandbox) UpdateNetwork(ctx context.Context, n *NetworkConfig) (*NetworkUpdate, error) {
	const verb = "update network of"
	if err := s.usable(verb); err != nil {
		return nil, err
	}
	next := s.cfg
	next.Network = n
	next, err := next.clone()
	if err != nil {
		return nil, s.failure(verb, err)
	}
	next.resolvePaths()
	c := checker{valueless: true} // secrets' values have no part in it
	c.compileNetwork(&next)
	if err := c.err(); err != nil {
		return nil, s.failure(verb, err)
	}
	raw, err := keptOf(&next)
	if err != nil {
		return nil, s.failure(verb, err)
	}
	// Which fields can't change, the sandbox knows.
	updated, err := s.client.Update(ctx, raw)
	if err != nil {
		return nil, s.failure(verb, err)
	}
	return &NetworkUpdate{Generation: updated.Generation, Warnings: updated.Warnings}, nil
}
