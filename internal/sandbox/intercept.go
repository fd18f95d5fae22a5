package sandbox

import (
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"time"

	"github.com/sluicenet/sluice/internal/control"
	"github.com/sluicenet/sluice/mitm"
	"github.com/sluicenet/sluice/mitm/secret"
	"github.com/sluicenet/sluice/policy"
	"github.com/sluicenet/sluice/vnet"
)

var (
	_ vnet.AllHTTPInspector = inspector{}
	_ mitm.Flow             = inspectedFlow{}
)

// intercept makes the proxy that reads TLS, if the configuration asks for it.
func (s *Sandbox) intercept() error {
	n := s.cfg.Network
	if n.Intercept == nil {
		return nil
	}
	cfg := *n.Intercept
	var warnings []string
	var err error
	if len(n.Secrets.Secrets) > 0 {
		if s.secrets, warnings, err = secret.New(n.Secrets); err != nil {
			return &control.Failure{Kind: control.KindInvalid, Message: err.Error()}
		}
	}
	s.cfg.Warnings = append(s.cfg.Warnings, warnings...)
	cfg.Secrets = s.secrets
	cfg.Terminate = s.endByViolation
	cfg.Lookup = s.resolver.Lookup
	cfg.DNS = s.resolver.ServeConn
	cfg.Events = func(e mitm.Event) { s.events.emit(proxyRecord(e)) }
	cfg.Logger = s.log
	s.proxy, err = mitm.New(cfg)
	if err != nil {
		return &control.Failure{Kind: control.KindInvalid, Message: err.Error()}
	}
	return nil
}

// endByViolation ends the sandbox because a secret asks for that.
func (s *Sandbox) endByViolation(reason string) {
	s.endBecause(control.SourceViolation, &control.Failure{
		Kind:    control.KindViolation,
		Message: fmt.Sprintf("sandbox %q has ended, as its secret wants: %s", s.spec.Name, reason),
		Hint:    "name the host among the secret's if it may have it, or take another action than block-and-terminate",
	})
}

// inspector returns the proxy as the network asks for it, nil without one.
func (s *Sandbox) inspector() vnet.Inspector {
	if s.proxy == nil {
		return nil
	}
	return inspector{s}
}

// An inspector shows the network's flows to the proxy.
type inspector struct{ s *Sandbox }

// Inspects implements vnet.Inspector.
func (i inspector) Inspects(port uint16) bool { return i.s.proxy.Inspects(port) }

// InspectsHTTP implements vnet.HTTPInspector.
func (i inspector) InspectsHTTP() bool { return i.s.proxy.InspectsHTTP() }

// InspectsAllHTTP implements vnet.AllHTTPInspector.
func (i inspector) InspectsAllHTTP() bool { return i.s.proxy.InspectsAllHTTP() }

// Serve implements vnet.Inspector.
func (i inspector) Serve(ctx context.Context, guest net.Conn, f *vnet.InspectedFlow) {
	i.s.proxy.Serve(ctx, guest, inspectedFlow{f, i.s})
}

// An inspectedFlow is a flow of the network's with what the proxy wants to know
// besides.
type inspectedFlow struct {
	*vnet.InspectedFlow
	s *Sandbox
}

// Resolved implements mitm.Flow.
func (f inspectedFlow) Resolved(name string) bool {
	addr := f.Asked().Addr().Unmap()
	block := f.s.block.block
	if policy.IsHostAlias(name) {
		return addr == block.Gateway4 || addr == block.Gateway6
	}
	return slices.Contains(f.s.resolver.AppendNames(nil, addr, time.Now()), name)
}

// trustedCAs returns the certificates, PEM, that the guest is to trust besides
// its own, and a warning if there are fewer than asked for.
func (s *Sandbox) trustedCAs() (pem []byte, warning string) {
	if s.proxy != nil {
		pem = s.proxy.CA()
	}
	if s.cfg.Network == nil || !s.cfg.Network.TrustHostCAs {
		return pem, ""
	}
	roots, err := hostRoots(os.Getenv, os.ReadFile)
	if err != nil {
		return pem, "TrustHostCAs: the guest doesn't trust this host's certificate authorities: " + err.Error()
	}
	return append(append(pem[:len(pem):len(pem)], '\n'), roots...), ""
}

// rootBundles are where systems keep the authorities that they trust, as
// crypto/x509 looks for them.
var rootBundles = []string{
	"/etc/ssl/certs/ca-certificates.crt",
	"/etc/pki/tls/certs/ca-bundle.crt",
	"/etc/ssl/ca-bundle.pem",
	"/etc/pki/tls/cacert.pem",
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
	"/etc/ssl/cert.pem",
}

// hostRoots returns the bundle of the authorities that this host trusts.
func hostRoots(getenv func(string) string, read func(string) ([]byte, error)) ([]byte, error) {
	paths := rootBundles
	if path := getenv("SSL_CERT_FILE"); path != "" {
		paths = []string{path}
	}
	for _, path := range paths {
		if text, err := read(path); err == nil {
			return text, nil
		}
	}
	return nil, fmt.Errorf("no bundle in %v", paths)
}

// environment returns what every command's environment begins with: the
// configuration's, with placeholders in the place of secrets.
func (s *Sandbox) environment() map[string]string {
	env := make(map[string]string)
	maps.Copy(env, s.cfg.Env)
	if s.cfg.Network == nil {
		return env
	}
	for _, sec := range s.cfg.Network.Secrets.Secrets {
		env[sec.EnvVar] = sec.Placeholder
		if sec.Placeholder == "" {
			env[sec.EnvVar] = "$MSB_" + sec.EnvVar
		}
	}
	return env
}

// Secrets implements control.Sandbox.
func (s *Sandbox) Secrets() []string {
	if s.secrets == nil {
		return []string{}
	}
	return s.secrets.Names()
}

// SetSecret implements control.Sandbox.
func (s *Sandbox) SetSecret(name, value string) error {
	if err := s.checkSecret(name); err != nil {
		return err
	}
	warning, err := s.secrets.Put(name, secret.NewValue(value))
	if err != nil {
		return &control.Failure{Kind: control.KindInvalid, Message: err.Error()}
	}
	if warning != "" {
		s.warn(warning)
	}
	return nil
}

// RemoveSecret implements control.Sandbox.
func (s *Sandbox) RemoveSecret(name string) error {
	if err := s.checkSecret(name); err != nil {
		return err
	}
	if err := s.secrets.Remove(name); err != nil {
		return &control.Failure{Kind: control.KindArgument, Message: err.Error()}
	}
	return nil
}

// checkSecret reports a name that no secret of the configuration has: which hosts
// it may go to isn't said anywhere else.
func (s *Sandbox) checkSecret(name string) error {
	if s.cfg.Network != nil {
		for _, sec := range s.cfg.Network.Secrets.Secrets {
			if sec.EnvVar == name {
				return nil
			}
		}
	}
	return &control.Failure{Kind: control.KindArgument, Message: fmt.Sprintf("no secret is named %q", name), Hint: "secrets are declared when the sandbox is created"}
}
