package sandbox

import (
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"github.com/sluicenet/sluice/internal/control"
	"github.com/sluicenet/sluice/policy"
	"github.com/sluicenet/sluice/vnet"
)

// The types of events about published ports.
const (
	typePublish   = "port.publish"
	typeUnpublish = "port.unpublish"
)

// Ports implements control.Sandbox.
func (s *Sandbox) Ports() []control.Port {
	ports := []control.Port{}
	if s.network == nil {
		return ports
	}
	for _, b := range s.network.Published() {
		ports = append(ports, portOf(b))
	}
	return ports
}

// Publish implements control.Sandbox.
func (s *Sandbox) Publish(p control.Port) (control.Port, error) {
	b, err := s.binding(p)
	if err != nil {
		return control.Port{}, err
	}
	bound, err := s.publish(b)
	return portOf(bound), err
}

// publish publishes a port and tells of it.
func (s *Sandbox) publish(b vnet.Binding) (vnet.Binding, error) {
	bound, err := s.network.Publish(b)
	if errors.Is(err, errors.ErrUnsupported) {
		return vnet.Binding{}, &control.Failure{Kind: control.KindUnsupported, Message: err.Error()}
	}
	if err != nil {
		return vnet.Binding{}, &control.Failure{Kind: control.KindIO, Message: err.Error(), Hint: bindHint(err)}
	}
	s.tellPort(typePublish, bound)
	return bound, nil
}

// bindHint returns what helps against a failed bind.
func bindHint(err error) string {
	switch {
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return "choose one of this host's addresses, or 0.0.0.0 for all of them"
	case errors.Is(err, syscall.EACCES):
		return "choose a port of the host from 1024 on, or 0 for a free one"
	}
	return "choose another port of the host, or 0 for a free one"
}

// Unpublish implements control.Sandbox.
func (s *Sandbox) Unpublish(p control.Port) error {
	b, err := s.binding(p)
	if err != nil {
		return err
	}
	err = s.network.Unpublish(b.Protocol, b.Host)
	if errors.Is(err, net.ErrClosed) {
		return &control.Failure{Kind: control.KindArgument, Message: fmt.Sprintf("%s %v: is not published", b.Protocol, b.Host), Hint: "sluice port ls shows what is"}
	}
	if err != nil {
		return ioFailure(err)
	}
	s.tellPort(typeUnpublish, b)
	return nil
}

// binding reads a port of the API.
func (s *Sandbox) binding(p control.Port) (vnet.Binding, error) {
	b := vnet.Binding{Host: p.Host, GuestPort: p.GuestPort}
	switch {
	case s.network == nil:
		return b, &control.Failure{Kind: control.KindUnsupported, Message: "the sandbox has no network"}
	case p.Protocol == policy.TCP.String():
		b.Protocol = policy.TCP
	case p.Protocol == policy.UDP.String():
		b.Protocol = policy.UDP
	default:
		return b, &control.Failure{Kind: control.KindArgument, Message: fmt.Sprintf("protocol: %q: want tcp or udp", p.Protocol)}
	}
	if !p.Host.IsValid() {
		return b, &control.Failure{Kind: control.KindArgument, Message: "host: want an address and a port, such as 127.0.0.1:8080"}
	}
	return b, nil
}

// tellPort records that a port was published or is no more. A bind that others
// than this machine can reach says so.
func (s *Sandbox) tellPort(what string, b vnet.Binding) {
	port := portOf(b)
	r := record{Type: what, Time: time.Now(), Port: &port}
	if what == typePublish && !b.Host.Addr().IsLoopback() {
		r.Message = "reachable from other machines"
	}
	s.events.emit(r)
}

func portOf(b vnet.Binding) control.Port {
	return control.Port{Protocol: b.Protocol.String(), Host: b.Host, GuestPort: b.GuestPort}
}
