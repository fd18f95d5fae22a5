package sdk

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/sluicenet/sluice/policy"
)

// A checker collects everything that is wrong or doubtful about a
// configuration, in the order of its fields.
type checker struct {
	problems []*Error
	warnings []string
	// valueless says that the secrets' values are not at hand: what is checked
	// comes from a sandbox's directory.
	valueless bool
}

// fail files a problem of the field at path. value is what stands there, ""
// where no single value is at fault; fix says what would be right.
func (c *checker) fail(kind ErrorKind, path, value, message, fix string) {
	c.problems = append(c.problems, &Error{Kind: kind, Field: path, Value: value, Message: message, Hint: fix})
}

// add files what package policy found. A rule that is unsound only beside others,
// and so has no field at fault, is the policy's problem.
func (c *checker) add(problems policy.Problems) {
	for _, p := range problems {
		if p.Warning {
			c.warnings = append(c.warnings, p.Error())
			continue
		}
		kind := ErrInvalidArgument
		if strings.HasPrefix(p.Field, "Rules[") && !strings.Contains(p.Field, ".") {
			kind = ErrNetworkPolicy
		}
		c.fail(kind, p.Field, p.Value, p.Message, p.Fix)
	}
}

// err returns all problems as one error, nil if there are none.
func (c *checker) err() error {
	switch len(c.problems) {
	case 0:
		return nil
	case 1:
		return c.problems[0]
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d problems", len(c.problems))
	for _, p := range c.problems {
		b.WriteString("\n\t" + p.Error())
	}
	return &Error{Kind: c.problems[0].Kind, Message: b.String(), problems: c.problems}
}

// checkNone reports what makes no sense for a guest without a network card.
// What concerns rules is package policy's.
func (c *checker) checkNone(cfg *SandboxConfig) {
	n := cfg.Network
	for _, f := range []struct {
		path string
		set  bool
	}{
		{"TLS", n.TLS != nil},
		{"WithSecrets", len(cfg.Secrets) > 0},
		{"Ports", len(n.Ports) > 0},
		{"PortBindings", len(n.PortBindings) > 0},
		{"WithPorts", len(cfg.Ports) > 0},
		{"WithPortsUDP", len(cfg.PortsUDP) > 0},
		{"WithPortBindings", len(cfg.PortBindings) > 0},
		{"WithAddHost", len(cfg.AddHosts) > 0},
	} {
		if f.set {
			c.fail(ErrInvalidConfig, f.path, "", "with Policy none there is no network", "drop it, or choose another policy")
		}
	}
}

// index returns the path of an element of a list.
func index(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }

// decimal returns a number as people write it.
func decimal[T int | uint16 | uint64](v T) string { return fmt.Sprint(v) }
