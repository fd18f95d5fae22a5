package policy

import (
	"strconv"
	"strings"
)

// A Rule says what happens to the flows that it matches. The zero Rule denies
// all egress.
type Rule struct {
	Action      Action
	Direction   Direction // the zero Direction means Egress
	Destination Destination
	Protocols   ProtocolSet // zero means any
	Ports       []PortRange // the peer's for egress, the guest's for ingress; empty means any
	// Source says where the rule comes from, in the user's words: Rules[2],
	// preset public-only, DenyDomains[0]. It is no part of the rule's text.
	Source string
}

// String returns the rule's text, as ParseRule reads it, with the direction
// always written.
func (r Rule) String() string {
	words := []string{r.Action.String(), r.direction().String(), r.Destination.String()}
	if r.Protocols != 0 {
		words = append(words, r.Protocols.String())
	}
	if len(r.Ports) > 0 {
		ports := make([]string, len(r.Ports))
		for i, p := range r.Ports {
			ports[i] = p.String()
		}
		words = append(words, strings.Join(ports, ","))
	}
	return strings.Join(words, " ")
}

// ParseRule reads a rule's text:
//
//	ACTION [DIRECTION] DESTINATION [PROTOCOL,…] [PORT,…]
//
// such as "allow egress api.example.com tcp 443" or "deny any 10.0.0.0/8
// tcp,udp 80,8000-9000". Words are separated by white space; without a direction
// the rule is for egress. The error joins every Problem of the text.
func ParseRule(text string) (Rule, error) {
	words := strings.Fields(text)
	var s RuleSpec
	// take returns the next word; "" behind the last, which the fields take for
	// absent or refuse.
	take := func() string {
		if len(words) == 0 {
			return ""
		}
		word := words[0]
		words = words[1:]
		return word
	}
	s.Action = take()
	// No destination can be one of these: a name of one label ends in a dot, and
	// any address is "*".
	if len(words) > 0 && (words[0] == "egress" || words[0] == "ingress" || words[0] == "any") {
		s.Direction = take()
	}
	if len(words) == 0 {
		return Rule{}, Problem{Value: text, Message: "a rule has an action and a destination",
			Fix: "write it as `allow egress api.example.com tcp 443`"}
	}
	s.Destination = take()
	// Protocols are words and ports are numbers, so that either may be left out.
	if len(words) > 0 && !startsWithDigit(words[0]) {
		s.Protocols = strings.Split(take(), ",")
	}
	if len(words) > 0 {
		s.Ports = strings.Split(take(), ",")
	}
	if len(words) > 0 {
		return Rule{}, Problem{Value: words[0], Message: "nothing follows a rule's ports",
			Fix: "separate protocols and ports by commas, without spaces"}
	}
	r, problems := s.Rule()
	if err := problems.Err(); err != nil {
		return Rule{}, err
	}
	return r, nil
}

func startsWithDigit(s string) bool { return s != "" && '0' <= s[0] && s[0] <= '9' }

// A RuleSpec is a rule in the words of a configuration, the fields of the
// reference's PolicyRule. Empty fields are absent.
type RuleSpec struct {
	Action      string // allow or deny
	Direction   string // egress, ingress or any; "" means egress
	Destination string // see ParseDestination
	Protocol    string // adds to Protocols
	Protocols   []string
	Port        string // adds to Ports
	Ports       []string
}

// Rule returns the rule that s spells, without a Source, and everything that is
// wrong or doubtful about it by itself, with fields relative to the rule, such
// as Ports[0].
func (s RuleSpec) Rule() (Rule, Problems) {
	r, problems := s.parse()
	if len(problems) == 0 { // what couldn't be read can't be judged
		problems = r.check()
	}
	return r, problems
}

// Spec returns the rule in the words of a configuration, all in the plural
// fields; it is the inverse of RuleSpec.Rule.
func (r Rule) Spec() RuleSpec {
	s := RuleSpec{Action: r.Action.String(), Direction: r.direction().String(), Destination: r.Destination.String()}
	for p := TCP; p <= ICMPv6; p++ {
		if r.Protocols.Lists(p) {
			s.Protocols = append(s.Protocols, p.String())
		}
	}
	for _, p := range r.Ports {
		s.Ports = append(s.Ports, p.String())
	}
	return s
}

// parse is Rule without the questions of how the fields go together, which New
// asks for a whole list.
func (s RuleSpec) parse() (Rule, Problems) {
	var r Rule
	var problems Problems
	fail := func(field, value, message, fix string) {
		problems = append(problems, Problem{Field: field, Value: value, Message: message, Fix: fix})
	}
	// Exactly as the contract writes them: a configuration that says "Allow" or
	// "in" was written for something else.
	switch s.Action {
	case "allow":
		r.Action = Allow
	case "deny":
	default:
		fail("Action", s.Action, "no such action", "write allow or deny")
	}
	switch s.Direction {
	case "", "egress":
		r.Direction = Egress
	case "ingress":
		r.Direction = Ingress
	case "any":
		r.Direction = Any
	default:
		fail("Direction", s.Direction, "no such direction", "write egress, ingress or any")
	}
	d, err := ParseDestination(s.Destination)
	if p, ok := err.(Problem); ok { // which all of its errors are
		fail("Destination", p.Value, p.Message, p.Fix)
	}
	r.Destination = d

	for _, f := range fields("Protocol", s.Protocol, "Protocols", s.Protocols) {
		p, ok := protocolByName(f.value)
		if !ok {
			fail(f.name, f.value, "no such protocol", "write tcp, udp, icmpv4 or icmpv6")
			continue
		}
		r.Protocols |= ProtocolsOf(p)
	}
	for _, f := range fields("Port", s.Port, "Ports", s.Ports) {
		p, ok := parsePortRange(f.value)
		if !ok {
			fail(f.name, f.value, "no port", "write a number from 1 to 65535, or a range such as 8000-9000")
			continue
		}
		r.Ports = append(r.Ports, p)
	}
	return r, problems
}

// A field is one value of a RuleSpec and its path.
type field struct{ name, value string }

// fields joins a single value, if there is one, and a list: each pair of fields is
// one set, and only a value's path still tells which of the two held it.
func fields(single, value, list string, values []string) []field {
	var out []field
	if value != "" {
		out = append(out, field{single, value})
	}
	for i, v := range values {
		out = append(out, field{list + "[" + strconv.Itoa(i) + "]", v})
	}
	return out
}

// protocolByName returns the protocol that a configuration names.
func protocolByName(name string) (Protocol, bool) {
	for p := TCP; p <= ICMPv6; p++ {
		if protocolNames[p] == name {
			return p, true
		}
	}
	return 0, false
}

// direction returns the rule's direction with the default filled in.
func (r *Rule) direction() Direction {
	if r.Direction == 0 {
		return Egress
	}
	return r.Direction
}

// unfiltered reports whether the rule is for every protocol and port.
func (r *Rule) unfiltered() bool { return r.Protocols == 0 && len(r.Ports) == 0 }

// listsPort reports whether the rule has a port filter that holds the port. A rule
// without a filter fits every port, and lists none.
func (r *Rule) listsPort(port uint16) bool {
	for _, p := range r.Ports {
		if p.First <= port && port <= p.Last {
			return true
		}
	}
	return false
}

// check returns what is wrong or doubtful about the rule by itself, fields that
// can't go together and fields that mean two things at once.
func (r *Rule) check() Problems {
	var problems Problems
	add := func(field, value, message, fix string, warning bool) {
		problems = append(problems, Problem{field, value, message, fix, warning})
	}
	icmp := ProtocolsOf(ICMPv4, ICMPv6)
	d := r.direction()
	// What could never match anything is an error; what matches less, or something
	// else, than it seems to is a warning.
	switch {
	case r.Protocols&icmp != 0 && d != Egress:
		add("Direction", d.String(), "there is no inbound ICMP", "write egress, or leave ICMP out", false)
	case len(r.Ports) > 0 && r.Protocols != 0 && r.Protocols&^icmp == 0:
		add("Ports", "", "ICMP has no ports", "drop the ports, or add tcp or udp", false)
	}
	if r.Destination.IsDomain() {
		switch d {
		case Ingress:
			add("Destination", r.Destination.String(), "peers have no names: an ingress rule can't name a domain", "write an address or a group", false)
		case Any:
			add("Direction", "any", "a domain is matched for egress only", "write egress", true)
		}
	}
	if d == Any && len(r.Ports) > 0 {
		add("Direction", "any", "the port is the remote one for egress and the guest's for ingress", "write two rules", true)
	}
	return problems
}
