package sdk_test

import (
	"testing"

	m "github.com/sluicenet/sluice/sdk"
)

// TestReferenceSamples runs the samples of the API reference, changed in nothing
// but the import path and what becomes of their results. Their images are here
// under the names that they use, and the machine's backend is the one that every
// test can have.
func TestReferenceSamples(t *testing.T) {
	// Not parallel: the environment is the process's.
	inNamespace(t)
	t.Setenv("SLUICE_BACKEND", "namespace")
	load(t, "alpine", "python:3.12")
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
		{"PublicOnly", func() (*m.Sandbox, error) {
			return m.CreateSandbox(ctx, "worker",
				m.WithImage("alpine"),
				m.WithNetwork(m.NetworkPolicy.PublicOnly()),
			)
		}},
		{"None", func() (*m.Sandbox, error) {
			return m.CreateSandbox(ctx, "worker",
				m.WithImage("alpine"),
				m.WithNetwork(m.NetworkPolicy.None()),
			)
		}},
		{"AllowAll", func() (*m.Sandbox, error) {
			return m.CreateSandbox(ctx, "worker",
				m.WithImage("alpine"),
				m.WithNetwork(m.NetworkPolicy.AllowAll()),
			)
		}},
		{"NonLocal", func() (*m.Sandbox, error) {
			return m.CreateSandbox(ctx, "worker",
				m.WithImage("alpine"),
				m.WithNetwork(m.NetworkPolicy.NonLocal()),
			)
		}},
	} {
		sb, err := sample.run()
		if err != nil {
			t.Errorf("%s: %v", sample.name, err)
			continue
		}
		if out, err := sb.Shell(ctx, "echo it works"); err != nil || out.Stdout() != "it works\n" {
			t.Errorf("%s: %v, %v", sample.name, out, err)
		}
		if err := sb.Close(); err != nil {
			t.Errorf("%s: %v", sample.name, err)
		}
	}
}
