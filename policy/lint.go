package policy

func (p *Policy) lint() Problems { return nil }
