package sdk_test

import (
	"context"
	"fmt"

	m "github.com/sluicenet/sluice/sdk"
)

// A policy can be looked at without running anything.
func ExampleNetworkConfig_Compile() {
	n := &m.NetworkConfig{
		Policy:      m.NetworkPolicyPresetPublicOnly,
		DenyDomains: []string{"ads.example"},
		Rules:       []m.PolicyRule{{Action: m.PolicyActionAllow, Destination: "10.0.0.0/8", Port: "443"}},
	}
	policy, warnings, err := n.Compile()
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, rule := range policy.Rules {
		fmt.Printf("%-32v %s\n", rule, rule.Source)
	}
	fmt.Println(policy.DefaultEgress, "egress,", policy.DefaultIngress, "ingress,", len(warnings), "warnings")
	// Output:
	// deny egress ads.example          DenyDomains[0]
	// allow egress host tcp,udp 53     preset public-only
	// allow egress public              preset public-only
	// allow egress 10.0.0.0/8 443      Rules[0]
	// deny egress, allow ingress, 0 warnings
}

// Everything that is wrong with a configuration is one error.
func ExampleIsKind() {
	_, err := m.CreateSandbox(context.Background(), "worker",
		m.WithWorkdir("src"),
		m.WithNetwork(&m.NetworkConfig{
			Rules: []m.PolicyRule{{Action: m.PolicyActionAllow, Destination: "api.example.com", Ports: []string{"443", "80-"}}},
			MTU:   100,
		}),
	)
	fmt.Println(err)
	fmt.Println(m.IsKind(err, m.ErrInvalidArgument), m.IsKind(err, m.ErrInvalidConfig), m.IsKind(err, m.ErrTLS))
	// Output:
	// create sandbox "worker": 3 problems
	// 	WithWorkdir: "src": not an absolute path; write it from the guest's root on
	// 	Rules[0].Ports[1]: "80-": no port; write a number from 1 to 65535, or a range such as 8000-9000
	// 	MTU: "100": out of range; write 1280 to 65520
	// true true false
}

// Policies are files, too.
func ExampleParseNetworkConfig() {
	n, err := m.ParseNetworkConfig([]byte(`
version: 1
rules:
  - action: allow
    destination: api.example.com
    protocol: tcp
    port: 443
`))
	fmt.Println(n.Rules[0].Destination, n.Rules[0].Port, err)

	_, err = m.ParseNetworkConfig([]byte("version: 1\nrules:\n  - action: allow\n    dest: public\n"))
	fmt.Println(err)
	// Output:
	// api.example.com 443 <nil>
	// line 4, column 5: "dest": no such key; did you mean "destination"?
}

// Rules can be put in front of a preset's.
func ExampleNetworkConfig_WrittenOut() {
	n, err := m.NetworkPolicy.PublicOnly().WrittenOut()
	if err != nil {
		fmt.Println(err)
		return
	}
	deny, err := m.ParsePolicyRule("deny egress 1.1.1.1 udp,tcp 53")
	if err != nil {
		fmt.Println(err)
		return
	}
	n.Rules = append([]m.PolicyRule{deny}, n.Rules...)
	for _, r := range n.Rules {
		fmt.Println(r.Action, r.Destination, r.Protocols, r.Ports)
	}
	// Output:
	// deny 1.1.1.1 [tcp udp] [53]
	// allow host [tcp udp] [53]
	// allow public [] []
}
