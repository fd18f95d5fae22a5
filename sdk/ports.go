package sdk

import (
	"context"
	"errors"
	"strings"

	"github.com/sluicenet/sluice/internal/control"
	"github.com/sluicenet/sluice/internal/holder"
)

// SandboxPorts is what a sandbox publishes on its host. Its methods may be
// called by several goroutines.
type SandboxPorts struct{ s *Sandbox }

// Ports returns what the sandbox publishes on its host.
func (s *Sandbox) Ports() *SandboxPorts { return &SandboxPorts{s} }

// List returns what is published, oldest first, each with the address and port
// that were bound.
func (p *SandboxPorts) List(ctx context.Context) ([]PortBinding, error) {
	ports, err := ask(ctx, p.s, "list ports of", p.s.client.Ports)
	if err != nil {
		return nil, err
	}
	bindings := make([]PortBinding, len(ports))
	for i, port := range ports {
		bindings[i] = bindingOf(port)
	}
	return bindings, nil
}

// Add publishes a port and returns it as it was bound.
func (p *SandboxPorts) Add(ctx context.Context, b PortBinding) (PortBinding, error) {
	var c checker
	c.checkPort(publication{"PortBinding", b})
	if err := c.err(); err != nil {
		return PortBinding{}, p.s.failure("publish port of", err)
	}
	bound, err := ask(ctx, p.s, "publish port of", func(ctx context.Context) (control.Port, error) {
		bound, err := p.s.client.Publish(ctx, b.port())
		return bound, withHolder(err, b.port())
	})
	if err != nil {
		return PortBinding{}, err
	}
	return bindingOf(bound), nil
}

// withHolder adds to a port that could not be bound which process holds it: the
// sandbox's own, which is confined, doesn't see others.
func withHolder(err error, p control.Port) error {
	var f *control.Failure
	if !errors.As(err, &f) || f.Kind != control.KindIO {
		return err
	}
	who := holder.Of(p.Host, p.Protocol == string(PortProtocolUDP))
	if who == "" || strings.Contains(f.Message, who) { // a sandbox in this process has said so
		return err
	}
	told := *f
	told.Message += ": held by " + who
	return &told
}

// Remove ends the publication on the binding's address, port and protocol, and
// the flows that came through it.
func (p *SandboxPorts) Remove(ctx context.Context, b PortBinding) error {
	var c checker
	b.GuestPort = max(b.GuestPort, 1) // it doesn't matter
	c.checkPort(publication{"PortBinding", b})
	if err := c.err(); err != nil {
		return p.s.failure("remove port of", err)
	}
	return tell(ctx, p.s, "remove port of", func(ctx context.Context) error { return p.s.client.Unpublish(ctx, b.port()) })
}

// port returns a sound binding as the control API takes it.
func (b PortBinding) port() control.Port {
	key, _ := b.key()
	return control.Port{Protocol: string(key.protocol), Host: key.addr, GuestPort: b.GuestPort}
}

func bindingOf(p control.Port) PortBinding {
	return PortBinding{Bind: p.Host.Addr().String(), HostPort: p.Host.Port(), GuestPort: p.GuestPort, Protocol: PortProtocol(p.Protocol)}
}
