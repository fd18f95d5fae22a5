package sdk

import "context"

// SandboxSecrets is a sandbox's secrets, which can be changed while it runs. Its
// methods may be called by several goroutines.
type SandboxSecrets struct{ s *Sandbox }

// Secrets returns the sandbox's secrets.
func (s *Sandbox) Secrets() *SandboxSecrets { return &SandboxSecrets{s} }

// List returns the names of the secrets' environment variables.
func (k *SandboxSecrets) List(ctx context.Context) ([]string, error) {
	return ask(ctx, k.s, "list secrets of", k.s.client.Secrets)
}

// Set gives a secret that the sandbox was created with another value, for
// requests from now on.
func (k *SandboxSecrets) Set(ctx context.Context, envVar, value string) error {
	if !isSecretValue(value) {
		return k.s.failure("set secret of", &Error{Kind: ErrInvalidConfig, Message: "value: is empty or holds a line break or NUL", Hint: "give the value as it stands in a header"})
	}
	return tell(ctx, k.s, "set secret of", func(ctx context.Context) error { return k.s.client.SetSecret(ctx, envVar, value) })
}

// Remove takes a secret away: its placeholder is replaced for nobody any more.
func (k *SandboxSecrets) Remove(ctx context.Context, envVar string) error {
	return tell(ctx, k.s, "remove secret of", func(ctx context.Context) error { return k.s.client.RemoveSecret(ctx, envVar) })
}
