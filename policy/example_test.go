package policy_test

import (
	"fmt"
	"net/netip"

	"github.com/sluicenet/sluice/policy"
)

// host is the machine that the examples run on: all that they know of it is the
// sandbox's gateway.
var host = &policy.Host{Gateways: []netip.Addr{netip.MustParseAddr("172.16.0.1")}}

func egress(to string) policy.Flow {
	return policy.Flow{Direction: policy.Egress, Protocol: policy.TCP, Peer: netip.MustParseAddrPort(to)}
}

// The rules of a configuration, flattened and compiled, decide flows.
func Example() {
	spec := policy.Spec{
		DenyDomains: []string{"telemetry.example.com"},
		Rules:       []policy.RuleSpec{{Action: "allow", Destination: ".example.com", Protocol: "tcp", Port: "443"}},
	}
	config, problems := spec.Flatten()
	if len(problems) > 0 {
		fmt.Println(problems.Err())
		return
	}
	p, err := policy.New(config)
	if err != nil {
		fmt.Println(err)
		return
	}

	// The guest looked api.example.com up and connects: the name decides.
	f := egress("93.184.216.34:443")
	v := p.Decide(host, f, policy.Evidence{Names: []string{"api.example.com"}})
	fmt.Println(v.Action, v.NeedsName, v.Dial)

	// Its ClientHello shows another one.
	v = p.Decide(host, f, policy.Evidence{Stage: policy.StageName, Name: "telemetry.example.com", Names: []string{"api.example.com"}})
	fmt.Println(v.Action, v.Source, "-", v.Text)

	// Output:
	// allow true true
	// deny DenyDomains[0] - deny egress telemetry.example.com
}

func ExampleParseRule() {
	r, err := policy.ParseRule("deny any 10.1.2.3/8 udp,tcp 80,8000-9000")
	fmt.Println(r, err)
	_, err = policy.ParseRule("allow *.example.com")
	fmt.Println(err)
	_, err = policy.ParseRule("allow meta tcp 0")
	fmt.Println(err)
	// Output:
	// deny any 10.0.0.0/8 tcp,udp 80,8000-9000 <nil>
	// Destination: "*.example.com": a domain can't hold `*`; for the subdomains write .example.com
	// Destination: "meta": no such group; group `metadata`? for a host name write `meta.`
	// Ports[0]: "0": no port; write a number from 1 to 65535, or a range such as 8000-9000
}

func ExamplePreset() {
	config, _ := policy.Preset(policy.PresetPublicOnly)
	for _, r := range config.Rules {
		fmt.Println(r)
	}
	fmt.Println("egress:", config.DefaultEgress, "ingress:", config.DefaultIngress)
	// Output:
	// allow egress host tcp,udp 53
	// allow egress public
	// egress: deny ingress: allow
}

func ExampleHost_Classify() {
	for _, a := range []string{"1.1.1.1", "10.0.0.5", "172.16.0.1", "169.254.169.254", "64:ff9b::a9fe:a9fe", "192.0.2.1"} {
		fmt.Println(a, host.Classify(netip.MustParseAddr(a)))
	}
	// Output:
	// 1.1.1.1 public
	// 10.0.0.5 private
	// 172.16.0.1 host
	// 169.254.169.254 metadata
	// 64:ff9b::a9fe:a9fe metadata
	// 192.0.2.1 reserved
}

// A deny that no flow reaches is an error, with the way out of it.
func ExampleNew_deadRule() {
	spec := policy.Spec{Policy: "public-only", Rules: []policy.RuleSpec{{Action: "deny", Destination: "ads.example.com"}}}
	config, _ := spec.Flatten()
	_, err := policy.New(config)
	fmt.Println(err)
	// Output:
	// Rules[0]: "deny egress ads.example.com": denies nothing: preset public-only (allow egress public) decides before it; drop Policy and write Rules: [deny egress ads.example.com, allow egress host tcp,udp 53, allow egress public]
}

func ExamplePolicy_Explain() {
	r, _ := policy.ParseRule("allow api.example.com tcp 443")
	p, err := policy.New(policy.Config{Rules: []policy.Rule{r}})
	if err != nil {
		fmt.Println(err)
		return
	}
	e := p.Explain(host, egress("93.184.216.34:443"), policy.Evidence{Stage: policy.StageName, Name: "api.example.com"})
	fmt.Println(e.Verdict.Action, "-", e.Verdict.Reason)
	for _, s := range e.Steps {
		fmt.Println(s.Matched, s.Text, "-", s.Why)
	}
	fmt.Println(e.Change.Rule, e.Change.Place)
	// Output:
	// deny - the name is allowed, but the configured resolver has not answered this address for it
	// false allow egress api.example.com tcp 443 - the flow shows api.example.com, but the configured resolver has not answered 93.184.216.34 for it
	// true  - the default is for whatever no rule matches
	// allow egress 93.184.216.34 tcp 443 behind the rules
}

func ExamplePolicy_PermitDNS() {
	config, _ := policy.Spec{
		DenyDomainSuffixes: []string{"ads.example.com"},
		Rules:              []policy.RuleSpec{{Action: "allow", Destination: ".example.com"}},
	}.Flatten()
	p, err := policy.New(config)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, name := range []string{"api.example.com", "x.ads.example.com", "example.org"} {
		v := p.PermitDNS(policy.Query{Name: name, Transport: policy.UDP})
		fmt.Println(name, v.Action, v.Source)
	}
	v := p.PermitDNS(policy.Query{Name: "api.example.com", Transport: policy.UDP})
	fmt.Println("leads to x.ads.example.com:", p.PermitHop(v, "x.ads.example.com").Action)
	fmt.Println("answers 10.0.0.5:", p.AdmitAnswer(host, netip.MustParseAddr("10.0.0.5")).Action)
	// Output:
	// api.example.com allow Rules[0]
	// x.ads.example.com deny DenyDomainSuffixes[0]
	// example.org deny default egress
	// leads to x.ads.example.com: deny
	// answers 10.0.0.5: deny
}
