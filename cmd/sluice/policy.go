package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/sluicenet/sluice/policy"
)

func newPolicy(c *console) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Look at a policy, or change that of a running sandbox",
	}
	cmd.AddCommand(newPolicyShow(c), newPolicyCheck(c), newPolicyExplain(c), newPolicyLint(c), newPolicySchema(c),
		newPolicySet(c), newPolicyAllow(c), newPolicyDeny(c))
	return cmd
}

// compile returns the policy of the flags, and prints its warnings.
func (f *networkFlags) compile(c *console) (*policy.Policy, error) {
	n, err := f.config()
	if err != nil {
		return nil, err
	}
	cfg, warnings, err := n.Compile()
	if err != nil {
		return nil, err
	}
	for _, w := range warnings {
		c.notef("warning: %s", w)
	}
	return policy.New(cfg)
}

// shownRule is a rule as policy show prints it.
type shownRule struct {
	Index  int    `json:"index"`
	Rule   string `json:"rule"`
	Source string `json:"source"`
}

// shownPolicy is a policy as policy show prints it.
type shownPolicy struct {
	Rules          []shownRule `json:"rules"`
	DefaultEgress  string      `json:"default_egress"`
	DefaultIngress string      `json:"default_ingress"`
}

func newPolicyShow(c *console) *cobra.Command {
	var f networkFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show [flags]",
		Short: "Print the rules in the order in which they are evaluated",
		Args:  takes(0, 0),
		RunE: func(*cobra.Command, []string) error {
			p, err := f.compile(c)
			if err != nil {
				return err
			}
			return showPolicy(c, p, asJSON)
		},
	}
	f.register(cmd.Flags())
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func showPolicy(c *console, p *policy.Policy, asJSON bool) error {
	shown := shownPolicy{
		Rules:          []shownRule{},
		DefaultEgress:  p.Default(policy.Egress).String(),
		DefaultIngress: p.Default(policy.Ingress).String(),
	}
	for i, r := range p.Rules() {
		shown.Rules = append(shown.Rules, shownRule{i, r.String(), r.Source})
	}
	if asJSON {
		return json.NewEncoder(c.out).Encode(shown)
	}
	t := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	for _, r := range shown.Rules {
		fmt.Fprintf(t, "%d\t%s\t%s\n", r.Index, r.Rule, r.Source)
	}
	fmt.Fprintf(t, "\t%s egress *\tdefault\n\t%s ingress *\tdefault\n", shown.DefaultEgress, shown.DefaultIngress)
	return t.Flush()
}

func newPolicyCheck(c *console) *cobra.Command {
	var f networkFlags
	cmd := &cobra.Command{
		Use:   "check [flags] TARGET…",
		Short: "Say what a policy does with targets",
		Long: `Say what a policy does with targets: https://host/, http://host:8080/,
tcp://HOST:PORT, udp://HOST:PORT, icmp://HOST, dns://NAME, in://ADDR:GUESTPORT.

A name is checked as its query is, and then as a flow to a public address that
the resolver gave for it. The exit code is 0 if everything is allowed, 1 if
something is denied, 2 if a target or the policy makes no sense.`,
		Example: `  sluice policy check --policy ci.yaml https://api.example.com/ udp://1.1.1.1:53`,
		Args:    takes(1, many),
		RunE: func(_ *cobra.Command, args []string) error {
			p, err := f.compile(c)
			if err != nil {
				return err
			}
			return checkTargets(c, p, args)
		},
	}
	f.register(cmd.Flags())
	return cmd
}

// checkTargets prints a line per target.
func checkTargets(c *console, p *policy.Policy, args []string) error {
	denied := false
	t := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	for _, arg := range args {
		f, err := parseTarget(arg)
		if err != nil {
			return err
		}
		v, stage := f.decide(p)
		denied = denied || v.Action == policy.Deny
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", v.Action, arg, stage, cmp.Or(v.Text, v.Reason)+" ("+v.Source+")")
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if denied {
		return &exitError{code: codeFailure}
	}
	return nil
}

// A checkedFlow is a target of policy check.
type checkedFlow struct {
	flow  policy.Flow
	name  string // "" for an address
	query bool   // only the query is meant
	plain bool   // the name doesn't show in the first bytes
}

// stand-ins for what isn't known before a sandbox runs: the address that a name
// will have, and the host's own.
var (
	somePublic  = netip.MustParseAddr("1.1.1.1")
	someGateway = netip.MustParseAddr("172.16.0.1")
)

// schemes are the targets' schemes: protocol and default port.
var schemes = map[string]struct {
	protocol policy.Protocol
	port     string
}{
	"http":  {policy.TCP, "80"},
	"https": {policy.TCP, "443"},
	"tcp":   {policy.TCP, ""},
	"udp":   {policy.UDP, ""},
	"icmp":  {policy.ICMPv4, "0"},
	"dns":   {policy.UDP, "53"},
	"in":    {policy.TCP, ""},
}

// parseTarget reads a target.
func parseTarget(text string) (checkedFlow, error) {
	u, err := url.Parse(text)
	if err != nil {
		return checkedFlow{}, err
	}
	s, ok := schemes[u.Scheme]
	if !ok {
		return checkedFlow{}, fmt.Errorf("target %q: write one such as https://example.com/, tcp://HOST:PORT, udp://HOST:PORT, icmp://HOST, dns://NAME or in://:PORT", text)
	}
	port, err := strconv.ParseUint(cmp.Or(u.Port(), s.port), 10, 16)
	if err != nil || port == 0 && s.protocol.HasPorts() {
		return checkedFlow{}, fmt.Errorf("target %q: want a port from 1 to 65535", text)
	}
	f := checkedFlow{
		flow:  policy.Flow{Direction: policy.Egress, Protocol: s.protocol},
		query: u.Scheme == "dns",
		plain: u.Scheme != "http" && u.Scheme != "https",
	}
	addr, err := netip.ParseAddr(u.Hostname())
	switch {
	case u.Scheme == "in":
		f.flow.Direction, f.flow.GuestPort = policy.Ingress, uint16(port)
		if u.Hostname() == "" {
			addr, err = netip.AddrFrom4([4]byte{127, 0, 0, 1}), nil
		}
		if err != nil {
			return checkedFlow{}, fmt.Errorf("target %q: peers have no names: want an address", text)
		}
		port = uint64(1024) // the peer's own, which no rule is about
	case u.Hostname() == "host", policy.IsHostAlias(strings.ToLower(u.Hostname())):
		addr = someGateway
	case err != nil:
		if f.name, err = policy.ParseName(u.Hostname()); err != nil {
			return checkedFlow{}, fmt.Errorf("target %q: %w", text, err)
		}
		addr = somePublic
	case f.query:
		return checkedFlow{}, errors.New("target " + text + ": want a name to look up")
	}
	if s.protocol == policy.ICMPv4 && addr.Is6() {
		f.flow.Protocol = policy.ICMPv6
	}
	f.flow.Peer = netip.AddrPortFrom(addr, uint16(port))
	return f, nil
}

// decide returns the verdict and the stage that gave it: dns, name or address.
func (f checkedFlow) decide(p *policy.Policy) (policy.Verdict, string) {
	if f.name != "" {
		v := p.PermitDNS(policy.Query{Name: f.name, Transport: policy.UDP})
		if f.query || v.Action == policy.Deny {
			return v, "dns"
		}
	}
	host := &policy.Host{Gateways: []netip.Addr{someGateway}}
	ev := policy.Evidence{Stage: policy.StageNoName}
	if f.name == "" {
		return p.Decide(host, f.flow, ev), "address"
	}
	ev.Names = []string{f.name}
	if !f.plain {
		ev.Stage, ev.Name = policy.StageName, f.name
	}
	return p.Decide(host, f.flow, ev), "name"
}
