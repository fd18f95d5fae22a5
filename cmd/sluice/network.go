package main

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

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
	addHosts       []string
	publish        []string
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
	flags.Var(&targets{&f.rules, m.PolicyActionAllow}, "allow", "`TARGET` that may be reached, HOST[:PORT][,…]; HOST is a name, .suffix, address, CIDR or group")
	flags.Var(&targets{&f.denials, m.PolicyActionDeny}, "deny", "`TARGET` that may not, before everything else")
	flags.Var(&ruleTexts{&f.rules}, "rule", "a `RULE` such as 'allow egress api.example.com tcp 443'; repeatable")
	flags.StringVarP(&f.file, "policy", "f", "", "`FILE` with the network's configuration (YAML)")
	flags.StringVar(&f.denyResponse, "deny-response", "", "what the guest gets on a denial; `HOW` is drop or reject (default drop)")
}

// registerCard registers what is fixed when a sandbox starts.
func (f *networkFlags) registerCard(flags *pflag.FlagSet) {
	flags.Var(&f.maxConnections, "max-connections", "at most `N` TCP flows at once (default 4096)")
	flags.Var((*wordList)(&f.dns), "dns", "nameserver `HOST[:PORT]` to ask instead of this host's; repeatable")
	flags.StringArrayVar(&f.addHosts, "add-host", nil, "a name for the guest's /etc/hosts, `NAME:ADDR`; ADDR host-gateway is this host; repeatable")
	flags.StringArrayVarP(&f.publish, "publish", "p", nil, "publish `PORT` on this host: [ADDR:][HOSTPORT]:PORT[/udp]; repeatable")
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

// ports returns the option of --publish. What is wrong with a value is left in
// its binding, for the sdk to report.
func (f *networkFlags) ports() m.SandboxOption {
	var bindings []m.PortBinding
	for _, text := range f.publish {
		bindings = append(bindings, parsePublish(text))
	}
	return m.WithPortBindings(bindings...)
}

// hosts returns the option of --add-host. What is wrong with a value is left in
// it, for the sdk to report.
func (f *networkFlags) hosts() m.SandboxOption {
	return func(c *m.SandboxConfig) {
		for _, text := range f.addHosts {
			name, addr := text, ""
			if i := strings.IndexAny(text, ":="); i >= 0 { // docker takes both
				name, addr = text[:i], text[i+1:]
			}
			m.WithAddHost(name, strings.TrimSuffix(strings.TrimPrefix(addr, "["), "]"))(c)
		}
	}
}

// parsePublish reads [ADDR:][HOSTPORT]:PORT[/udp], or PORT alone for a free port
// of the host.
func parsePublish(text string) m.PortBinding {
	var b m.PortBinding
	text, protocol, _ := strings.Cut(text, "/")
	b.Protocol = m.PortProtocol(protocol)
	rest, guest := cutLast(text, ":")
	bind, host := cutLast(rest, ":")
	b.Bind = strings.Trim(bind, "[]")
	b.GuestPort = parsePort(guest)
	b.HostPort = parsePort(host)
	if host != "" && b.HostPort == 0 && host != "0" {
		b.Bind = rest // not a port: the sdk says what it isn't
	}
	return b
}

// cutLast parts s around the last sep; before is empty if there is none.
func cutLast(s, sep string) (before, after string) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return "", s
	}
	return s[:i], s[i+len(sep):]
}

// parsePort returns 0 for what is no port.
func parsePort(s string) uint16 {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return 0
	}
	return uint16(n)
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
		if err != nil {
			return oneLine(err)
		}
		*t.rules = append(*t.rules, rule)
	}
	return nil
}

// oneLine returns the problems of a rule in a line.
func oneLine(err error) error {
	return errors.New(strings.ReplaceAll(err.Error(), "\n", "; and "))
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
		return oneLine(err)
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
