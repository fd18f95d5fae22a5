package sdk

import (
	"os"

	"github.com/sluicenet/sluice/mitm"
	"github.com/sluicenet/sluice/mitm/secret"
)

// compileInterception returns what is to be intercepted, and how; nil if nothing
// is. It counts on checkTLS and checkSecrets for what is wrong.
func (c *checker) compileInterception(cfg *SandboxConfig, n *NetworkConfig) *mitm.Config {
	if len(cfg.Secrets) == 0 && !n.TLS.intercepts() || len(c.problems) > 0 {
		return nil
	}
	t := n.TLS
	if t == nil {
		t = &TLSConfig{}
	}
	out := &mitm.Config{
		Ports:       t.interceptedPorts(),
		AllowNonTLS: t.AllowNonTLS,
		SkipVerify:  t.VerifyUpstream != nil && !*t.VerifyUpstream,
	}
	for i, p := range t.Bypass {
		out.Bypass = append(out.Bypass, c.pattern(index("TLS.Bypass", i), p))
	}
	for i, s := range t.ScopedVerifyUpstream {
		out.ScopedVerify = append(out.ScopedVerify, mitm.ScopedVerify{Pattern: c.pattern(index("TLS.ScopedVerifyUpstream", i), s.Pattern), Verify: s.Verify})
	}
	if t.CACert != "" {
		out.CACert, out.CAKey = c.read("TLS.CACert", t.CACert), c.read("TLS.CAKey", t.CAKey)
	}
	for i, path := range t.UpstreamCACerts {
		out.ExtraRoots = append(append(out.ExtraRoots, c.read(index("TLS.UpstreamCACerts", i), path)...), '\n')
	}
	for i, s := range t.ScopedUpstreamCACerts {
		at := index("TLS.ScopedUpstreamCACerts", i)
		out.ScopedRoots = append(out.ScopedRoots, mitm.ScopedRoots{Pattern: c.pattern(at, s.Pattern), PEM: c.read(at, s.Path)})
	}
	return out
}

// pattern parses a pattern of hosts.
func (c *checker) pattern(path, text string) mitm.Pattern {
	p, err := mitm.ParsePattern(text)
	if err != nil {
		c.fail(ErrInvalidArgument, path, text, err.Error(), "write example.com, or *.example.com for its subdomains")
	}
	return p
}

// read returns the contents of a file.
func (c *checker) read(path, file string) []byte {
	text, err := os.ReadFile(file)
	if err != nil {
		c.fail(ErrTLS, path, "", err.Error(), "give the path of a readable PEM file")
	}
	return text
}

// compileSecrets returns the secrets, without values where these are not at hand;
// none if checkSecrets found something.
func (c *checker) compileSecrets(cfg *SandboxConfig, n *NetworkConfig) secret.Config {
	if len(cfg.Secrets) == 0 || len(c.problems) > 0 {
		return secret.Config{}
	}
	set := secret.Config{OnViolation: c.violation("OnSecretViolation", n.OnSecretViolation)}
	for i, s := range cfg.Secrets {
		path := index("WithSecrets", i)
		plain := s.RequireTLS != nil && !*s.RequireTLS
		if plain {
			c.warnings = append(c.warnings, path+".RequireTLS: false sends the value of "+s.EnvVar+" in the clear, to whoever answers for its hosts")
		}
		set.Secrets = append(set.Secrets, secret.Secret{
			EnvVar:            s.EnvVar,
			Value:             secret.NewValue(s.Value),
			AllowHosts:        s.AllowHosts,
			AllowHostPatterns: s.AllowHostPatterns,
			Placeholder:       s.Placeholder,
			AllowPlain:        plain,
			OnViolation:       c.violation(path+".OnViolation", s.OnViolation),
			InjectQuery:       s.InjectQuery,
			InjectBody:        s.InjectBody,
		})
	}
	if c.valueless {
		return set
	}
	if _, _, err := secret.New(set); err != nil { // its warnings are the sandbox's
		c.fail(ErrInvalidConfig, "WithSecrets", "", err.Error(), "")
	}
	return set
}

// violation parses what is done at a violation.
func (c *checker) violation(path string, a ViolationAction) secret.Action {
	action, err := secret.ParseAction(string(a))
	if err != nil {
		c.fail(ErrInvalidArgument, path, string(a), err.Error(), "")
	}
	return action
}
