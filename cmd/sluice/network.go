package main

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/sluicenet/sluice/policy"
	m "github.com/sluicenet/sluice/sdk"
)

// networkFlags are the flags that describe a network.
type networkFlags struct {
	preset         string
	file           string
	rules          []m.PolicyRule // --allow and --rule, in the order given
	denials        []m.PolicyRule // --deny
	denyResponse   string
	maxConnections maxConnections
	dns            []string
	addHosts       hostAddrs
	publish        publications
	pool4, pool6   string
}

// presets are the values of --network.
var presets = map[string]m.NetworkPolicyPreset{
	"none":        m.NetworkPolicyPresetNone,
	"public-only": m.NetworkPolicyPresetPublicOnly,
	"public":      m.NetworkPolicyPresetPublicOnly,
	"non-local":   m.NetworkPolicyPresetNonLocal,
	"allow-all":   m.NetworkPolicyPresetAllowAll,
	"all":         m.NetworkPolicyPresetAllowAll,
}

func (f *networkFlags) register(flags *pflag.FlagSet) {
	flagGroup(flags, policyGroup, f.registerPolicy)
	flagGroup(flags, networkGroup, f.registerCard)
}

// The groups of the flags that describe a network.
const (
	policyGroup  = "Policy"
	networkGroup = "Network"
)

// describesNetwork reports whether a flag is one of networkFlags.
func describesNetwork(f *pflag.Flag) bool {
	return groupOf(f) == policyGroup || groupOf(f) == networkGroup
}

// registerPolicy registers what a running sandbox can be given too.
func (f *networkFlags) registerPolicy(flags *pflag.FlagSet) {
	flags.StringVar(&f.preset, "network", "", "`PRESET` is none, public-only (public), non-local or allow-all (all)")
	flags.Var(&targets{&f.rules, m.PolicyActionAllow}, "allow", "`TARGET` that may be reached, HOST[:PORT][,…]; HOST is a name, .suffix, address, CIDR or group; repeatable")
	flags.Var(&targets{&f.denials, m.PolicyActionDeny}, "deny", "`TARGET` that may not, before everything else; repeatable")
	flags.Var(&ruleTexts{&f.rules}, "rule", "a `RULE` such as 'allow egress api.example.com tcp 443'; repeatable")
	flags.StringVarP(&f.file, "policy", "f", "", "`FILE` with the network's configuration (YAML)")
	flags.StringVar(&f.denyResponse, "deny-response", "", "what the guest gets on a denial; `HOW` is drop or reject (default drop)")
}

// registerCard registers what is fixed when a sandbox starts.
func (f *networkFlags) registerCard(flags *pflag.FlagSet) {
	flags.Var(&f.maxConnections, "max-connections", "at most `N` TCP flows at once (default 4096)")
	flags.Var((*wordList)(&f.dns), "dns", "nameserver `HOST[:PORT]` to ask instead of this host's; repeatable")
	flags.Var(&f.addHosts, "add-host", "a name for the guest's /etc/hosts, `NAME:ADDR`; ADDR host-gateway is this host; repeatable")
	flags.VarP(&f.publish, "publish", "p", "publish `PORT` on this host: [ADDR:][HOSTPORT]:PORT[/udp]; repeatable")
	flags.StringVar(&f.pool4, "ipv4-pool", "", "`PREFIX` that the guest's IPv4 address is taken from (default 172.16.0.0/12)")
	flags.StringVar(&f.pool6, "ipv6-pool", "", "`PREFIX` that the guest's IPv6 address is taken from (default fd42:6d73:62::/48)")
}

// config returns the configuration that the flags describe; nil if they leave it
// at the default.
func (f *networkFlags) config() (*m.NetworkConfig, error) {
	n, err := f.base()
	if err != nil {
		return nil, err
	}
	n.Rules = append(n.Rules, f.rules...)
	if len(f.denials) > 0 {
		// A preset's own rules would come first and may allow what is to be
		// denied, so they are written out behind the denials.
		if n, err = n.WrittenOut(); err != nil {
			return nil, fmt.Errorf("--deny: %w", err)
		}
		n.Rules = append(f.denials[:len(f.denials):len(f.denials)], n.Rules...)
	}
	if f.denyResponse != "" {
		n.DenyResponse = m.DenyResponse(f.denyResponse)
	}
	if f.maxConnections.set {
		n.MaxConnections = &f.maxConnections.value
	}
	if len(f.dns) > 0 {
		dns := m.DNSConfig{}
		if n.DNS != nil {
			dns = *n.DNS
		}
		dns.Nameservers = f.dns
		n.DNS = &dns
	}
	if f.pool4 != "" {
		n.IPv4Pool = f.pool4
	}
	if f.pool6 != "" {
		n.IPv6Pool = f.pool6
	}
	return n, nil
}

// base returns what the rules of the flags are added to.
func (f *networkFlags) base() (*m.NetworkConfig, error) {
	switch {
	case f.preset == "none" && len(f.rules)+len(f.denials) > 0:
		return nil, errors.New("--network none leaves nothing to rule; drop it, or drop --allow, --deny and --rule")
	case f.preset != "" && f.file != "":
		return nil, errors.New("--network and --policy exclude each other: a file names its own policy")
	case f.file != "":
		return m.LoadNetworkConfig(f.file)
	case f.preset != "":
		preset, ok := presets[f.preset]
		if !ok {
			return nil, fmt.Errorf("--network %q: want none, public-only, non-local or allow-all", f.preset)
		}
		return &m.NetworkConfig{Policy: preset}, nil
	}
	return &m.NetworkConfig{}, nil
}

// implicit reports whether the policy is the default one, which --allow alone
// would replace.
func (f *networkFlags) implicit() bool {
	return f.preset == "" && f.file == "" && len(f.rules) == 0
}

// hosts returns the option of --add-host. What is wrong with an address is left
// in it, for the sdk to report.
func (f *networkFlags) hosts() m.SandboxOption {
	return func(c *m.SandboxConfig) {
		for _, h := range f.addHosts {
			m.WithAddHost(h.name, h.addr)(c)
		}
	}
}

// hostAddrs is the value of --add-host.
type hostAddrs []struct{ name, addr string }

// Set implements pflag.Value. It takes NAME:ADDR and, as docker does, NAME=ADDR
// and an address in brackets.
func (h *hostAddrs) Set(text string) error {
	i := strings.IndexAny(text, ":=")
	if i <= 0 || i == len(text)-1 {
		return errors.New("want NAME:ADDR")
	}
	addr := strings.TrimSuffix(strings.TrimPrefix(text[i+1:], "["), "]")
	*h = append(*h, struct{ name, addr string }{text[:i], addr})
	return nil
}

// String and Type implement pflag.Value.
func (h *hostAddrs) String() string { return "" }
func (h *hostAddrs) Type() string   { return "host" }

// publications is the value of --publish.
type publications []m.PortBinding

// Set implements pflag.Value.
func (p *publications) Set(text string) error {
	b, err := parsePublish(text)
	*p = append(*p, b)
	return err
}

// String and Type implement pflag.Value.
func (p *publications) String() string { return "" }
func (p *publications) Type() string   { return "publication" }

// parsePublish reads [ADDR:][HOSTPORT]:PORT[/udp], or PORT alone for a free port
// of the host.
func parsePublish(text string) (m.PortBinding, error) {
	place, protocol, _ := strings.Cut(text, "/")
	rest, guest := cutLast(place, ":")
	b, err := parseBound(rest, protocol)
	if err == nil {
		b.GuestPort, err = parsePort(guest)
	}
	if err == nil && b.GuestPort == 0 {
		err = errNoPort
	}
	if err != nil {
		return b, fmt.Errorf("%w; write [ADDR:][HOSTPORT]:PORT[/udp], such as 8080:80", err)
	}
	return b, nil
}

// parseBound reads where on the host a port is published, [ADDR:][HOSTPORT], and
// a protocol: tcp, udp, or "" for tcp.
func parseBound(place, protocol string) (b m.PortBinding, err error) {
	bind, port := cutLast(place, ":")
	if b.Bind = strings.Trim(bind, "[]"); b.Bind != "" {
		if _, err := netip.ParseAddr(b.Bind); err != nil {
			return b, fmt.Errorf("%q is no address", b.Bind)
		}
	}
	b.Protocol = m.PortProtocol(protocol)
	if protocol != "" && protocol != "tcp" && protocol != "udp" {
		return b, fmt.Errorf("%q is no protocol", protocol)
	}
	if port != "" {
		b.HostPort, err = parsePort(port)
	}
	return b, err
}

// cutLast parts s around the last sep; before is empty if there is none.
func cutLast(s, sep string) (before, after string) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return "", s
	}
	return s[:i], s[i+len(sep):]
}

// errNoPort is what parsePort says.
var errNoPort = errors.New("a port is a number from 1 to 65535")

// parsePort reads a port, or 0.
func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return 0, errNoPort
	}
	return uint16(n), nil
}

// targets is the value of --allow and --deny: it adds a rule per target.
type targets struct {
	rules  *[]m.PolicyRule
	action m.PolicyAction
}

// Set implements pflag.Value.
func (t *targets) Set(text string) error {
	for target := range strings.SplitSeq(text, ",") {
		host, port := splitTarget(strings.TrimSpace(target))
		words := []string{string(t.action), host}
		if port != "" {
			words = append(words, port)
		}
		rule, err := m.ParsePolicyRule(strings.Join(words, " "))
		switch {
		case strings.TrimSpace(target) == "":
			return errors.New("names nothing; write HOST[:PORT]")
		case strings.Contains(target, "://"):
			return errors.New("is a URL; write its HOST[:PORT]")
		case strings.ContainsAny(target, " \t"):
			return errors.New("holds a space; write HOST[:PORT], or a whole rule behind --rule")
		case err != nil:
			return ruleError(strings.Join(words, " "), host)
		}
		*t.rules = append(*t.rules, rule)
	}
	return nil
}

// ruleError returns what is wrong with a rule's text, of which the user wrote
// given.
func ruleError(text, given string) error {
	_, err := policy.ParseRule(text)
	var p policy.Problem
	if !errors.As(err, &p) {
		return err
	}
	p.Field = ""
	if p.Value == given {
		p.Value = "" // it stands before the error
	}
	return p
}

// String and Type implement pflag.Value.
func (t *targets) String() string { return "" }
func (t *targets) Type() string   { return "targets" }

// splitTarget parts HOST[:PORT]. An IPv6 address or prefix with a port stands in
// brackets.
func splitTarget(s string) (host, port string) {
	if inner, ok := strings.CutPrefix(s, "["); ok {
		host, port, _ = strings.Cut(inner, "]")
		return host, strings.TrimPrefix(port, ":")
	}
	if _, err := netip.ParseAddr(s); err == nil {
		return s, ""
	}
	if _, err := netip.ParsePrefix(s); err == nil {
		return s, ""
	}
	host, port = cutLast(s, ":")
	if host == "" {
		return port, ""
	}
	return host, port
}

// wordList is the value of a flag that takes words, several with commas between
// them.
type wordList []string

// Set implements pflag.Value.
func (w *wordList) Set(text string) error {
	for word := range strings.SplitSeq(text, ",") {
		if word = strings.TrimSpace(word); word == "" {
			return errors.New("is empty; leave the flag out")
		}
		*w = append(*w, word)
	}
	return nil
}

// String and Type implement pflag.Value.
func (w *wordList) String() string { return "" }
func (w *wordList) Type() string   { return "words" }

// ruleTexts is the value of --rule.
type ruleTexts struct{ rules *[]m.PolicyRule }

// Set implements pflag.Value.
func (r *ruleTexts) Set(text string) error {
	rule, err := m.ParsePolicyRule(text)
	if err != nil {
		return ruleError(text, text)
	}
	*r.rules = append(*r.rules, rule)
	return nil
}

// String and Type implement pflag.Value.
func (r *ruleTexts) String() string { return "" }
func (r *ruleTexts) Type() string   { return "rule" }

// maxConnections is a number that knows whether it was given: 0 is one.
type maxConnections struct {
	value uint
	set   bool
}

// Set implements pflag.Value.
func (v *maxConnections) Set(text string) error {
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return errors.New("want a number from 0 to 65536")
	}
	v.value, v.set = uint(n), true
	return nil
}

// String and Type implement pflag.Value.
func (v *maxConnections) String() string { return "" }
func (v *maxConnections) Type() string   { return "number" }
