package sdk_test

import (
	"testing"

	m "github.com/sluicenet/sluice/sdk"
)

// TestConstants checks the values of the reference, which programs may have
// written as text.
func TestConstants(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ got, want string }{
		{string(m.PolicyActionAllow), "allow"},
		{string(m.PolicyActionDeny), "deny"},
		{string(m.PolicyDirectionEgress), "egress"},
		{string(m.PolicyDirectionIngress), "ingress"},
		{string(m.PolicyDirectionAny), "any"},
		{string(m.PolicyProtocolTCP), "tcp"},
		{string(m.PolicyProtocolUDP), "udp"},
		{string(m.PolicyProtocolICMPv4), "icmpv4"},
		{string(m.PolicyProtocolICMPv6), "icmpv6"},
		{string(m.PortProtocolTCP), "tcp"},
		{string(m.PortProtocolUDP), "udp"},
		{string(m.NetworkPolicyPresetNone), "none"},
		{string(m.NetworkPolicyPresetPublicOnly), "public-only"},
		{string(m.NetworkPolicyPresetAllowAll), "allow-all"},
		{string(m.NetworkPolicyPresetNonLocal), "non-local"},
		{string(m.NetworkPolicy.None().Policy), "none"},
		{string(m.NetworkPolicy.PublicOnly().Policy), "public-only"},
		{string(m.NetworkPolicy.AllowAll().Policy), "allow-all"},
		{string(m.NetworkPolicy.NonLocal().Policy), "non-local"},
		{string(m.NetworkProfilePublic), "public"},
		{string(m.NetworkProfilePrivate), "private"},
		{string(m.NetworkProfileHost), "host"},
		{string(m.DenyResponseDrop), "drop"},
		{string(m.DenyResponseReject), "reject"},
		{string(m.ViolationActionDefault), ""},
		{string(m.ViolationActionBlock), "block"},
		{string(m.ViolationActionBlockAndLog), "block-and-log"},
		{string(m.ViolationActionBlockAndTerminate), "block-and-terminate"},
		{string(m.SandboxStatusRunning), "running"},
		{string(m.SandboxStatusStopped), "stopped"},
		{string(m.SandboxStatusCrashed), "crashed"},
		{string(m.SandboxStatusDraining), "draining"},
		{string(m.SandboxStatusPaused), "paused"},
	} {
		if tt.got != tt.want {
			t.Errorf("constant is %q, want %q", tt.got, tt.want)
		}
	}
}

// TestReferenceSamples runs the samples of the API reference, changed in
// nothing but the import path and the layout of their results. What they ask
// for beyond this version is refused as such, and nothing else is said against
// them.
func TestReferenceSamples(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	for _, sample := range []struct {
		name string
		run  func() (*m.Sandbox, error)
	}{
		{"preset", func() (*m.Sandbox, error) {
			return m.CreateSandbox(ctx, "worker",
				m.WithImage("alpine"),
				m.WithNetwork(m.NetworkPolicy.PublicOnly()),
			)
		}},
		{"custom", func() (*m.Sandbox, error) {
			return m.CreateSandbox(ctx, "ci-runner",
				m.WithImage("python:3.12"),
				m.WithNetwork(&m.NetworkConfig{
					DefaultEgress:  m.PolicyActionDeny,
					DefaultIngress: m.PolicyActionAllow,
					Rules: []m.PolicyRule{
						{
							Action:      m.PolicyActionAllow,
							Direction:   m.PolicyDirectionEgress,
							Destination: "api.example.com",
							Protocol:    m.PolicyProtocolTCP,
							Port:        "443",
						},
					},
				}),
			)
		}},
		{"ports", func() (*m.Sandbox, error) {
			return m.CreateSandbox(ctx, "api",
				m.WithImage("python:3.12"),
				m.WithPorts(map[uint16]uint16{8080: 8080}),
			)
		}},
		{"ports UDP", func() (*m.Sandbox, error) {
			return m.CreateSandbox(ctx, "dns",
				m.WithImage("alpine"),
				m.WithPortsUDP(map[uint16]uint16{5353: 53}),
			)
		}},
		{"port bindings", func() (*m.Sandbox, error) {
			return m.CreateSandbox(ctx, "api",
				m.WithImage("python:3.12"),
				m.WithPortBindings(
					m.PortBinding{Bind: "0.0.0.0", HostPort: 8001, GuestPort: 8001},
					m.PortBinding{Bind: "127.0.0.1", HostPort: 5353, GuestPort: 53, Protocol: m.PortProtocolUDP},
				),
			)
		}},
		{"rules", func() (*m.Sandbox, error) {
			return m.CreateSandbox(ctx, "ci-runner",
				m.WithImage("python:3.12"),
				m.WithNetwork(&m.NetworkConfig{
					DefaultEgress:  m.PolicyActionDeny,
					DefaultIngress: m.PolicyActionAllow,
					Rules: []m.PolicyRule{
						{Action: m.PolicyActionDeny, Destination: "10.0.0.5"},    // specific first
						{Action: m.PolicyActionAllow, Destination: "10.0.0.0/8"}, // broad fallthrough
						{
							Action:      m.PolicyActionAllow,
							Direction:   m.PolicyDirectionEgress,
							Destination: ".internal",
							Protocols:   []m.PolicyProtocol{m.PolicyProtocolTCP},
							Ports:       []string{"8000-9000"},
						},
					},
				}),
			)
		}},
		{"TLS", func() (*m.Sandbox, error) {
			return m.CreateSandbox(ctx, "inspect",
				m.WithImage("python:3.12"),
				m.WithNetwork(&m.NetworkConfig{
					TLS: &m.TLSConfig{
						Bypass:           []string{"*.googleapis.com"},
						InterceptedPorts: []uint16{443},
					},
				}),
			)
		}},
	} {
		sb, err := sample.run()
		if err == nil {
			sb.Close()
			t.Errorf("%s: was created without an image", sample.name)
			continue
		}
		for _, kind := range []m.ErrorKind{m.ErrInvalidArgument, m.ErrInvalidConfig, m.ErrNetworkPolicy, m.ErrTLS, m.ErrIO, m.ErrInternal} {
			if m.IsKind(err, kind) {
				t.Errorf("%s: %v: %v", sample.name, kind, err)
			}
		}
	}
}

// TestFactories checks that factories give fresh values, with only Policy set,
// and profiles their rules in order.
func TestFactories(t *testing.T) {
	t.Parallel()
	a, b := m.NetworkPolicy.NonLocal(), m.NetworkPolicy.NonLocal()
	a.Rules = append(a.Rules, m.Rule.AllowDNS())
	if len(b.Rules) != 0 {
		t.Error("two presets share their rules")
	}
	for _, tt := range []struct {
		open []m.NetworkProfile
		want []string
	}{
		{nil, nil},
		{[]m.NetworkProfile{"host"}, []string{"allow egress host tcp,udp 53", "allow egress host"}},
		{[]m.NetworkProfile{"host", "public", "host"}, []string{"allow egress host tcp,udp 53", "allow egress public", "allow egress host"}},
		{[]m.NetworkProfile{"private", "public"}, []string{"allow egress host tcp,udp 53", "allow egress public", "allow egress private"}},
	} {
		n, err := m.NetworkPolicy.FromProfilesChecked(tt.open...)
		if err != nil {
			t.Errorf("%v: %v", tt.open, err)
			continue
		}
		cfg, _, err := n.Compile()
		if err != nil {
			t.Errorf("%v: %v", tt.open, err)
		}
		var got []string
		for _, r := range cfg.Rules {
			got = append(got, r.String())
		}
		if len(got) != len(tt.want) {
			t.Errorf("%v: rules %q, want %q", tt.open, got, tt.want)
			continue
		}
		for i := range got {
			if got[i] != tt.want[i] {
				t.Errorf("%v: rule %d is %q, want %q", tt.open, i, got[i], tt.want[i])
			}
		}
	}
	for _, tt := range []struct {
		rule m.PolicyRule
		want m.PolicyAction
	}{{m.Rule.AllowDNS(), "allow"}, {m.Rule.DenyDNS(), "deny"}} {
		r := tt.rule
		if r.Action != tt.want || r.Direction != "egress" || r.Destination != "host" || len(r.Protocols) != 2 || r.Port != "53" {
			t.Errorf("%s DNS: %+v", tt.want, r)
		}
	}
	if _, err := m.NetworkPolicy.FromProfilesChecked("public", "lan"); !m.IsKind(err, m.ErrInvalidArgument) {
		t.Errorf("unknown profile: %v", err)
	}
}
