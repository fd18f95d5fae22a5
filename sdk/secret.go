package sdk

import (
	"fmt"
	"log/slog"
	"strings"

	"github.com/sluicenet/sluice/policy"
)

// A SecretEntry lets the guest use a value that it never sees: its environment
// holds a placeholder, which sluice replaces on the way to the allowed hosts.
//
// An entry prints without its value, whatever the verb, and is marshalled
// without it.
type SecretEntry struct {
	EnvVar            string   `json:"env_var"` // name in the guest's environment
	Value             string   `json:"-"`
	AllowHosts        []string `json:"allow_hosts,omitempty"`
	AllowHostPatterns []string `json:"allow_host_patterns,omitempty"` // *.suffix
	// Placeholder is what the guest sees; empty means $MSB_ and the variable's
	// name.
	Placeholder string `json:"placeholder,omitempty"`
	// RequireTLS refuses plain HTTP; nil means true.
	RequireTLS *bool `json:"require_tls,omitempty"`
	// OnViolation is done when the placeholder is on its way to another host;
	// empty means NetworkConfig.OnSecretViolation.
	OnViolation ViolationAction `json:"on_violation,omitempty"`
	InjectQuery bool            `json:"inject_query,omitempty"` // also replace in the query
	InjectBody  bool            `json:"inject_body,omitempty"`  // also replace in the body
}

// String describes the entry without its value.
func (s SecretEntry) String() string {
	return fmt.Sprintf("secret %s for %q %q", s.EnvVar, s.AllowHosts, s.AllowHostPatterns)
}

// Format implements [fmt.Formatter]: every verb prints String.
func (s SecretEntry) Format(f fmt.State, _ rune) { fmt.Fprint(f, s.String()) }

// LogValue implements [slog.LogValuer] with String.
func (s SecretEntry) LogValue() slog.Value { return slog.StringValue(s.String()) }

// SecretEnvOptions is a SecretEntry without name and value.
type SecretEnvOptions struct {
	AllowHosts        []string
	AllowHostPatterns []string
	Placeholder       string
	RequireTLS        *bool
	OnViolation       ViolationAction
	InjectQuery       bool
	InjectBody        bool
}

// Secret makes secrets.
var Secret secretFactory

type secretFactory struct{}

// Env returns the entry for the environment variable envVar.
func (secretFactory) Env(envVar, value string, opts SecretEnvOptions) SecretEntry {
	return SecretEntry{
		EnvVar:            envVar,
		Value:             value,
		AllowHosts:        opts.AllowHosts,
		AllowHostPatterns: opts.AllowHostPatterns,
		Placeholder:       opts.Placeholder,
		RequireTLS:        opts.RequireTLS,
		OnViolation:       opts.OnViolation,
		InjectQuery:       opts.InjectQuery,
		InjectBody:        opts.InjectBody,
	}
}

// A ViolationAction is what happens when a placeholder is on its way to a host
// that is not the secret's.
type ViolationAction string

const (
	ViolationActionDefault           ViolationAction = ""                    // the sandbox's, or block-and-log
	ViolationActionBlock             ViolationAction = "block"               // refuse the request
	ViolationActionBlockAndLog       ViolationAction = "block-and-log"       // and write an event
	ViolationActionBlockAndTerminate ViolationAction = "block-and-terminate" // and end the sandbox
)

// maxPlaceholder bounds a placeholder in bytes: it must fit in one header.
const maxPlaceholder = 1 << 10

// isSecretValue reports whether v can be a secret's value.
func isSecretValue(v string) bool { return v != "" && !strings.ContainsAny(v, "\r\n\x00") }

// placeholder returns what the guest sees.
func (s SecretEntry) placeholder() string {
	if s.Placeholder != "" {
		return s.Placeholder
	}
	return "$MSB_" + s.EnvVar
}

// checkViolation reports an action that doesn't exist.
func (c *checker) checkViolation(path string, a ViolationAction) {
	switch a {
	case ViolationActionDefault, ViolationActionBlock, ViolationActionBlockAndLog, ViolationActionBlockAndTerminate:
	default:
		c.fail(ErrInvalidArgument, path, string(a), "no such action", "write block, block-and-log or block-and-terminate")
	}
}

// checkSecrets reports what is wrong with the secrets, with what TLS would do to
// them, and whether policy p, nil if there is none, lets them go anywhere. It
// never quotes a value.
func (c *checker) checkSecrets(cfg *SandboxConfig, t *TLSConfig, p *policy.Policy) {
	byName, byPlaceholder := make(map[string]int), make(map[string]int)
	for i, s := range cfg.Secrets {
		path := index("WithSecrets", i)
		c.checkEnvName(path+".EnvVar", s.EnvVar)
		if j, ok := byName[s.EnvVar]; ok {
			c.fail(ErrInvalidConfig, path+".EnvVar", s.EnvVar, "is also that of "+index("WithSecrets", j), "give each its own, or one entry all hosts")
		}
		byName[s.EnvVar] = i
		if !c.valueless && !isSecretValue(s.Value) {
			c.fail(ErrInvalidConfig, path+".Value", "", "is empty or holds a line break or NUL", "give the value as it stands in a header")
		}
		if strings.ContainsAny(s.Placeholder, "\r\n\x00") || len(s.placeholder()) > maxPlaceholder {
			c.fail(ErrInvalidConfig, path+".Placeholder", "", "holds a line break or NUL, or is longer than 1024 bytes", "write a short word, or leave it empty")
		}
		if len(s.AllowHosts)+len(s.AllowHostPatterns) == 0 {
			c.fail(ErrInvalidConfig, path+".AllowHosts", "", "names no host that may get the value", "name one")
		}
		if j, ok := byPlaceholder[s.placeholder()]; ok && cfg.Secrets[j].Value != s.Value {
			c.fail(ErrInvalidConfig, path+".Placeholder", s.placeholder(), "also stands for another value, by "+index("WithSecrets", j), "give each its own")
		}
		byPlaceholder[s.placeholder()] = i
		c.checkViolation(path+".OnViolation", s.OnViolation)
		for j, host := range s.AllowHosts {
			if _, err := policy.ParseName(host); err != nil {
				c.fail(ErrInvalidConfig, index(path+".AllowHosts", j), host, "no host name", "write one such as api.example.com; patterns go to AllowHostPatterns")
				continue
			}
			c.checkSecretHost(index(path+".AllowHosts", j), host, t)
			c.checkReach(index(path+".AllowHosts", j), host, p)
		}
		for j, pattern := range s.AllowHostPatterns {
			c.checkHostPattern(ErrInvalidConfig, index(path+".AllowHostPatterns", j), pattern)
			c.checkSecretHost(index(path+".AllowHostPatterns", j), pattern, t)
			c.checkReach(index(path+".AllowHostPatterns", j), pattern, p)
		}
	}
}

// checkReach reports a secret's host, or pattern, that no rule lets the guest
// reach: the secret would never be used. While a sandbox runs, to take a host away
// is what its user may want.
func (c *checker) checkReach(path, host string, p *policy.Policy) {
	d, err := policy.ParseDestination(strings.TrimPrefix(host, "*"))
	if err != nil || p == nil { // which is reported elsewhere
		return
	}
	switch {
	case p.MayReach(d):
	case c.valueless:
		c.warnings = append(c.warnings, fmt.Sprintf("%s: %q: no rule lets the guest reach it any more", path, host))
	default:
		c.fail(ErrInvalidConfig, path, host, "no rule lets the guest reach it", "allow it by a rule, or drop the secret")
	}
}

// checkSecretHost reports a secret's host, or pattern, whose certificate would
// not be verified, or whose TLS not be opened.
func (c *checker) checkSecretHost(path, host string, t *TLSConfig) {
	if t == nil {
		return
	}
	for i, p := range t.Bypass {
		if patternsMeet(p, host) {
			c.fail(ErrInvalidConfig, path, host, "is bypassed by "+index("TLS.Bypass", i)+", so nothing could be replaced", "drop one of them")
		}
	}
	if t.VerifyUpstream != nil && !*t.VerifyUpstream {
		c.fail(ErrInvalidConfig, path, host, "would get the value unverified: TLS.VerifyUpstream is false", "drop that, or use ScopedVerifyUpstream for other hosts")
	}
	for i, s := range t.ScopedVerifyUpstream {
		if !s.Verify && patternsMeet(s.Pattern, host) {
			c.fail(ErrInvalidConfig, path, host, "would get the value unverified by "+index("TLS.ScopedVerifyUpstream", i), "drop one of them")
		}
	}
}

// patternsMeet reports whether a host exists that both patterns cover; each is
// host or *.suffix.
func patternsMeet(a, b string) bool {
	a, b = canonicalPattern(a), canonicalPattern(b)
	suffixA, wildA := strings.CutPrefix(a, "*")
	suffixB, wildB := strings.CutPrefix(b, "*")
	switch {
	case wildA && wildB:
		return strings.HasSuffix(suffixA, suffixB) || strings.HasSuffix(suffixB, suffixA)
	case wildA:
		return strings.HasSuffix(b, suffixA) && b != suffixA
	case wildB:
		return strings.HasSuffix(a, suffixB) && a != suffixB
	}
	return a == b
}

// canonicalPattern returns a pattern with its name as it is on the wire. What can't be
// one is reported elsewhere.
func canonicalPattern(pattern string) string {
	name, wild := strings.CutPrefix(pattern, "*.")
	if parsed, err := policy.ParseName(name); err == nil {
		name = parsed
	}
	if wild {
		name = "*." + name
	}
	return name
}
