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
