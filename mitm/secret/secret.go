package secret

import (
	"errors"
	"fmt"
	"strings"

	"github.com/sluicenet/sluice/policy"
)

// maxPlaceholder bounds a placeholder in bytes: it must fit in one header.
const maxPlaceholder = 1 << 10

// minSearched is the length in bytes from which a value is searched for in
// responses. A shorter one would be found by accident, and every accident changes
// or resets a response.
const minSearched = 8

// A Secret is a value and where it may go.
type Secret struct {
	// EnvVar is the secret's name: the variable of the guest's environment that
	// holds the placeholder.
	EnvVar string
	// Value is what the placeholder stands for.
	Value Value
	// AllowHosts are the names of the hosts that may get the value.
	AllowHosts []string
	// AllowHostPatterns are more of them: a name, or *.suffix for all names below
	// suffix.
	AllowHostPatterns []string
	// Placeholder is what the guest sees. Empty means $MSB_ and EnvVar.
	Placeholder string
	// AllowPlain lets the value go out without TLS, see [ProofPlain]. It is the
	// user's RequireTLS, turned round so that the zero value is the strict one.
	AllowPlain bool
	// OnViolation is what happens when the placeholder is on its way elsewhere.
	// ActionDefault means the set's.
	OnViolation Action
	// InjectQuery and InjectBody permit the places beside header values and Basic
	// credentials.
	InjectQuery, InjectBody bool
}

// placeholder returns what the guest sees.
func (s *Secret) placeholder() string {
	if s.Placeholder != "" {
		return s.Placeholder
	}
	return "$MSB_" + s.EnvVar
}

// lists reports whether the secret may go to host, a canonical name.
func (s *Secret) lists(host string) bool {
	for _, h := range s.AllowHosts {
		if h == host {
			return true
		}
	}
	for _, p := range s.AllowHostPatterns {
		if suffix, wild := strings.CutPrefix(p, "*"); wild && len(host) > len(suffix) && strings.HasSuffix(host, suffix) || p == host {
			return true
		}
	}
	return false
}

// normalize returns s with its own slices and canonical hosts, and what is wrong
// with it. The errors name the secret's variable and never its value.
func (s Secret) normalize() (Secret, error) {
	var errs []error
	fail := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("secret %q: %w", s.EnvVar, fmt.Errorf(format, args...)))
	}
	if s.EnvVar == "" || strings.ContainsAny(s.EnvVar, "=\x00") {
		fail("no name of an environment variable")
	}
	if err := checkValue(s.Value); err != nil {
		fail("%w", err)
	}
	if p := s.placeholder(); strings.ContainsAny(p, "\r\n\x00") {
		fail("placeholder holds a line break or NUL")
	} else if len(p) > maxPlaceholder {
		fail("placeholder of %d bytes is longer than %d", len(p), maxPlaceholder)
	}
	if len(s.AllowHosts)+len(s.AllowHostPatterns) == 0 {
		fail("no host may get the value")
	}
	if s.OnViolation > ActionBlockAndTerminate {
		fail("no such action: %d", s.OnViolation)
	}
	hosts := make([]string, len(s.AllowHosts))
	for i, h := range s.AllowHosts {
		var err error
		if hosts[i], err = policy.ParseName(h); err != nil {
			fail("host: %w", err)
		}
	}
	patterns := make([]string, len(s.AllowHostPatterns))
	for i, p := range s.AllowHostPatterns {
		suffix, wild := strings.CutPrefix(p, "*.")
		name, err := policy.ParseName(suffix)
		if err != nil {
			fail("pattern %q is neither a host nor *.suffix: %w", p, err)
		}
		if patterns[i] = name; wild {
			patterns[i] = "*." + name
		}
	}
	s.AllowHosts, s.AllowHostPatterns = hosts, patterns
	return s, errors.Join(errs...)
}

// checkValue returns what is wrong with a value, which it doesn't quote.
func checkValue(v Value) error {
	switch text := v.Reveal(); {
	case text == "":
		return errors.New("value is empty")
	case strings.ContainsAny(text, "\r\n\x00"):
		return errors.New("value holds a line break or NUL")
	}
	return nil
}

// An Action is what the caller does at a violation, weakest first: of several
// violations in one request the strongest counts.
type Action uint8

const (
	// ActionDefault is the set's action, and of a set ActionBlockAndLog.
	ActionDefault Action = iota
	// ActionBlock refuses the request.
	ActionBlock
	// ActionBlockAndLog also writes an event.
	ActionBlockAndLog
	// ActionBlockAndTerminate also ends the sandbox.
	ActionBlockAndTerminate
)

var actionTexts = [...]string{"", "block", "block-and-log", "block-and-terminate"}

// String returns the action as a user writes it, "" for ActionDefault.
func (a Action) String() string {
	if int(a) < len(actionTexts) {
		return actionTexts[a]
	}
	return fmt.Sprintf("Action(%d)", uint8(a))
}

// ParseAction returns the action of a user's text.
func ParseAction(text string) (Action, error) {
	for a, t := range actionTexts {
		if t == text {
			return Action(a), nil
		}
	}
	return ActionDefault, fmt.Errorf("parse action %q: write block, block-and-log or block-and-terminate", text)
}
