package sdk_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluicenet/sluice/hv/hvtest"
	m "github.com/sluicenet/sluice/sdk"
)

func ptr[T any](v T) *T { return &v }

// refusal returns the error of CreateSandbox for options that it must refuse.
func refusal(t *testing.T, opts ...m.SandboxOption) string {
	t.Helper()
	sb, err := m.CreateSandbox(t.Context(), "refused", opts...)
	if err == nil {
		sb.Close()
		return ""
	}
	return strings.TrimPrefix(err.Error(), `create sandbox "refused": `)
}

// network is shorthand for rows.
func network(n m.NetworkConfig) m.SandboxOption { return m.WithNetwork(&n) }

func rule(r m.PolicyRule) m.SandboxOption {
	return network(m.NetworkConfig{Rules: []m.PolicyRule{r}})
}

// allow is a rule that allows, for rows whose action doesn't matter.
func allow(r m.PolicyRule) m.SandboxOption {
	r.Action = m.PolicyActionAllow
	return rule(r)
}

func tlsc(c m.TLSConfig) m.SandboxOption { return network(m.NetworkConfig{TLS: &c}) }

func secret(name, value string, o m.SecretEnvOptions) m.SandboxOption {
	return m.WithSecrets(m.Secret.Env(name, value, o))
}

// only is the options of a secret for one host.
var only = m.SecretEnvOptions{AllowHosts: []string{"api.example.com"}}

func bucket(b m.TokenBucketConfig) m.SandboxOption {
	return network(m.NetworkConfig{RateLimiter: &m.NetworkRateLimiterConfig{Egress: &m.RateLimiterConfig{Ops: &b}}})
}

func bind(b ...m.PortBinding) m.SandboxOption { return m.WithPortBindings(b...) }

// options is several options as one.
func options(opts ...m.SandboxOption) m.SandboxOption {
	return func(c *m.SandboxConfig) {
		for _, o := range opts {
			o(c)
		}
	}
}

// patch is a change of a root that is there.
func patch(p m.PatchConfig) m.SandboxOption {
	return options(m.WithBindRootfs("/"), m.WithPatches(p))
}

func mount(target string, c m.MountConfig) m.SandboxOption {
	return m.WithMounts(map[string]m.MountConfig{target: c})
}

// TestRefused checks what CreateSandbox says of configurations that it refuses,
// letter by letter. Each must be refused before a process is started.
func TestRefused(t *testing.T) {
	t.Parallel()
	const (
		arg  = m.ErrInvalidArgument
		conf = m.ErrInvalidConfig
		pol  = m.ErrNetworkPolicy
		tls  = m.ErrTLS
	)
	for _, tt := range []struct {
		name string
		kind m.ErrorKind
		opt  m.SandboxOption
		want string
	}{
		// Rules: section 2 of the contract.
		{"no action", arg, rule(m.PolicyRule{Destination: "public"}), `Rules[0].Action: no such action; write allow or deny`},
		{"unknown action", arg, rule(m.PolicyRule{Action: "permit"}), `Rules[0].Action: "permit": no such action; write allow or deny`},
		{"unknown direction", arg, allow(m.PolicyRule{Direction: "out"}), `Rules[0].Direction: "out": no such direction; write egress, ingress or any`},
		{"unknown protocol", arg, allow(m.PolicyRule{Protocol: "sctp"}), `Rules[0].Protocol: "sctp": no such protocol; write tcp, udp, icmpv4 or icmpv6`},
		{"unknown protocol in list", arg, allow(m.PolicyRule{Protocols: []m.PolicyProtocol{"tcp", "icmp"}}), `Rules[0].Protocols[1]: "icmp": no such protocol; write tcp, udp, icmpv4 or icmpv6`},
		{"port 0", arg, allow(m.PolicyRule{Port: "0"}), `Rules[0].Port: "0": no port; write a number from 1 to 65535, or a range such as 8000-9000`},
		{"port with space", arg, allow(m.PolicyRule{Ports: []string{"80", "80 - 90"}}), `Rules[0].Ports[1]: "80 - 90": no port; write a number from 1 to 65535, or a range such as 8000-9000`},
		{"range upside down", arg, allow(m.PolicyRule{Port: "90-80"}), `Rules[0].Port: "90-80": no port; write a number from 1 to 65535, or a range such as 8000-9000`},
		{"icmp with ports", arg, allow(m.PolicyRule{Protocol: "icmpv4", Port: "7"}), `Rules[0].Ports: ICMP has no ports; drop the ports, or add tcp or udp`},
		{"icmp ingress", arg, allow(m.PolicyRule{Protocol: "icmpv4", Direction: "ingress"}), `Rules[0].Direction: "ingress": there is no inbound ICMP; write egress, or leave ICMP out`},
		{"icmp any", arg, allow(m.PolicyRule{Protocol: "icmpv6", Direction: "any"}), `Rules[0].Direction: "any": there is no inbound ICMP; write egress, or leave ICMP out`},
		{"domain ingress", arg, allow(m.PolicyRule{Destination: "x.example", Direction: "ingress"}), `Rules[0].Destination: "x.example": peers have no names: an ingress rule can't name a domain; write an address or a group`},
		{"wildcard", arg, allow(m.PolicyRule{Destination: "*.example.com"}), ""},
		{"one label", arg, allow(m.PolicyRule{Destination: "meta"}), ""},
		{"unknown default egress", arg, network(m.NetworkConfig{DefaultEgress: "drop"}), `DefaultEgress: "drop": no such action; write allow or deny`},
		{"unknown default ingress", arg, network(m.NetworkConfig{DefaultIngress: "drop"}), `DefaultIngress: "drop": no such action; write allow or deny`},
		{"unknown preset", arg, network(m.NetworkConfig{Policy: "public"}), `Policy: "public": no such preset; write none, public-only, non-local or allow-all`},
		{"wildcard in deny domains", arg, network(m.NetworkConfig{DenyDomains: []string{"*.ads"}}), ""},
		{"dead deny behind preset", pol, network(m.NetworkConfig{Policy: "public-only", Rules: []m.PolicyRule{{Action: "deny", Destination: "1.1.1.1"}}}), ""},
		{"unknown profile", arg, m.WithNetwork(m.NetworkPolicy.FromProfiles("lan")), ""},
		{"unknown deny response", arg, network(m.NetworkConfig{DenyResponse: "rst"}), `DenyResponse: "rst": no such response; write drop or reject`},

		// No network at all.
		{"none with rules", arg, network(m.NetworkConfig{Policy: "none", Rules: []m.PolicyRule{{Action: "allow", Destination: "public"}}}), ""},
		{"none with TLS", conf, network(m.NetworkConfig{Policy: "none", TLS: &m.TLSConfig{BlockQUIC: ptr(true)}}), `TLS: with Policy none there is no network; drop it, or choose another policy`},
		{"none with ports", conf, network(m.NetworkConfig{Policy: "none", Ports: map[uint16]uint16{80: 80}}), `Ports: with Policy none there is no network; drop it, or choose another policy`},
		{"none with bindings", conf, network(m.NetworkConfig{Policy: "none", PortBindings: []m.PortBinding{{GuestPort: 1}}}), `PortBindings: with Policy none there is no network; drop it, or choose another policy`},

		// Addresses and bounds: sections 1 and 3.
		{"pool too long", arg, network(m.NetworkConfig{IPv4Pool: "10.0.0.0/31"}), `IPv4Pool: "10.0.0.0/31": holds no block; write a prefix of 30 bits or fewer`},
		{"pool of IPv6 too long", arg, network(m.NetworkConfig{IPv6Pool: "fd00::/65"}), `IPv6Pool: "fd00::/65": holds no block; write a prefix of 64 bits or fewer`},
		{"pool no prefix", arg, network(m.NetworkConfig{IPv4Pool: "10.0.0.0"}), `IPv4Pool: "10.0.0.0": no prefix of that family; write one such as 172.16.0.0/12`},
		{"pool of other family", arg, network(m.NetworkConfig{IPv4Pool: "fd00::/48"}), `IPv4Pool: "fd00::/48": no prefix of that family; write one such as 172.16.0.0/12`},
		{"pool mapped", arg, network(m.NetworkConfig{IPv6Pool: "::ffff:10.0.0.0/104"}), ""},
		{"MTU small", arg, network(m.NetworkConfig{MTU: 1279}), `MTU: "1279": out of range; write 1280 to 65520`},
		{"MTU large", arg, network(m.NetworkConfig{MTU: 65521}), `MTU: "65521": out of range; write 1280 to 65520`},
		{"connections", arg, network(m.NetworkConfig{MaxConnections: ptr(uint(65537))}), `MaxConnections: "65537": out of range; write 0 to 65536`},
		{"UDP sessions", arg, network(m.NetworkConfig{Limits: &m.NetworkLimits{UDPSessions: ptr(uint(1 << 20))}}), `Limits.UDPSessions: "1048576": out of range; write 0 to 65536`},
		{"inbound", arg, network(m.NetworkConfig{Limits: &m.NetworkLimits{Inbound: ptr(uint(1 << 20))}}), `Limits.Inbound: "1048576": out of range; write 0 to 65536`},
		{"held flows", arg, network(m.NetworkConfig{Limits: &m.NetworkLimits{HeldFlows: ptr(uint(1 << 20))}}), `Limits.HeldFlows: "1048576": out of range; write 0 to 65536`},
		{"buffers", arg, network(m.NetworkConfig{Limits: &m.NetworkLimits{BufferBytes: ptr(uint64(9))}}), `Limits.BufferBytes: "9": out of range; write 1048576 to 1099511627776`},
		{"queries", arg, network(m.NetworkConfig{Limits: &m.NetworkLimits{DNSQueriesPerSecond: ptr(uint(1e7))}}), `Limits.DNSQueriesPerSecond: "10000000": out of range; write 0 to 1000000`},
		{"empty bucket", arg, bucket(m.TokenBucketConfig{RefillTime: 1e9}), `RateLimiter.Egress.Ops.Size: "0": an empty bucket passes nothing; write at least 1`},
		{"short refill", arg, bucket(m.TokenBucketConfig{Size: 1, RefillTime: 999_999}), `RateLimiter.Egress.Ops.RefillTime: "999.999µs": too short; write at least 1ms`},
		{"no rate", arg, network(m.NetworkConfig{RateLimiter: &m.NetworkRateLimiterConfig{}}), `RateLimiter: limits neither direction; set Egress or Ingress, or drop it`},
		{"no bucket", arg, network(m.NetworkConfig{RateLimiter: &m.NetworkRateLimiterConfig{Ingress: &m.RateLimiterConfig{}}}), `RateLimiter.Ingress: limits neither bytes nor frames; set Bandwidth or Ops, or drop it`},

		// Names: section 5.
		{"nameserver", arg, network(m.NetworkConfig{DNS: &m.DNSConfig{Nameservers: []string{"10.0.0.1", "a b"}}}), `DNS.Nameservers[1]: "a b": no nameserver; write IP, IP:PORT, HOST or HOST:PORT`},
		{"nameserver port", arg, network(m.NetworkConfig{DNS: &m.DNSConfig{Nameservers: []string{"10.0.0.1:0"}}}), `DNS.Nameservers[0]: "10.0.0.1:0": no nameserver; write IP, IP:PORT, HOST or HOST:PORT`},
		{"query timeout 0", arg, network(m.NetworkConfig{DNS: &m.DNSConfig{QueryTimeoutMs: ptr(uint64(0))}}), `DNS.QueryTimeoutMs: "0": out of range; write 1 to 60000`},
		{"query timeout long", arg, network(m.NetworkConfig{DNS: &m.DNSConfig{QueryTimeoutMs: ptr(uint64(60001))}}), `DNS.QueryTimeoutMs: "60001": out of range; write 1 to 60000`},

		// Ports: section 4.
		{"guest port 0", conf, m.WithPorts(map[uint16]uint16{8080: 0}), `WithPorts[8080].GuestPort: "0": no port; write the service's port, 1 to 65535`},
		{"bind no address", conf, bind(m.PortBinding{Bind: "localhost", GuestPort: 80}), `WithPortBindings[0].Bind: "localhost": no IP address; write one such as 127.0.0.1, 0.0.0.0 or ::`},
		{"bind zone", conf, bind(m.PortBinding{Bind: "fe80::1%eth0", GuestPort: 80}), `WithPortBindings[0].Bind: "fe80::1%eth0": no IP address; write one such as 127.0.0.1, 0.0.0.0 or ::`},
		{"bind protocol", conf, bind(m.PortBinding{GuestPort: 80, Protocol: "icmp"}), `WithPortBindings[0].Protocol: "icmp": no such protocol; write tcp or udp`},
		{"conflict within a call", conf, bind(m.PortBinding{HostPort: 80, GuestPort: 1}, m.PortBinding{HostPort: 80, GuestPort: 2}), `WithPortBindings[1]: "127.0.0.1:80/tcp": is published for guest port 2 here and 1 by WithPortBindings[0]; drop one of them`},
		{"conflict within a config", conf, network(m.NetworkConfig{Ports: map[uint16]uint16{80: 1}, PortBindings: []m.PortBinding{{Bind: "127.0.0.1", HostPort: 80, GuestPort: 2}}}), `PortBindings[0]: "127.0.0.1:80/tcp": is published for guest port 2 here and 1 by Ports[80]; drop one of them`},

		// TLS: section 6.
		{"intercept 0", arg, tlsc(m.TLSConfig{InterceptedPorts: []uint16{443, 0}}), `TLS.InterceptedPorts[1]: "0": no port; write 1 to 65535`},
		{"intercept DNS", arg, tlsc(m.TLSConfig{InterceptedPorts: []uint16{53}}), `TLS.InterceptedPorts[0]: "53": the resolver answers there; drop it`},
		{"intercept DoT", arg, tlsc(m.TLSConfig{InterceptedPorts: []uint16{853}}), `TLS.InterceptedPorts[0]: "853": the resolver answers there; drop it`},
		{"bypass wildcard", arg, tlsc(m.TLSConfig{Bypass: []string{"api.*.com"}}), `TLS.Bypass[0]: "api.*.com": no host name; write example.com, or *.example.com for its subdomains`},
		{"scoped pattern", arg, tlsc(m.TLSConfig{ScopedVerifyUpstream: []m.ScopedVerifyUpstream{{Pattern: "*"}}}), `TLS.ScopedVerifyUpstream[0].Pattern: "*": no host name; write example.com, or *.example.com for its subdomains`},
		{"key alone", tls, tlsc(m.TLSConfig{CAKey: "ca.key"}), `TLS.CACert: is needed beside TLS.CAKey; give both, or neither`},
		{"certificate alone", tls, tlsc(m.TLSConfig{CACert: "ca.pem"}), `TLS.CAKey: is needed beside TLS.CACert; give both, or neither`},
		{"no CA there", tls, tlsc(m.TLSConfig{CACert: "/none/ca.pem", CAKey: "/none/ca.key"}), `TLS.CACert: open /none/ca.pem: no such file or directory; give paths of readable PEM files`},
		{"no bundle there", tls, tlsc(m.TLSConfig{UpstreamCACerts: []string{"/none/roots.pem"}}), `TLS.UpstreamCACerts[0]: open /none/roots.pem: no such file or directory; give the path of a PEM bundle`},
		{"empty bundle", tls, tlsc(m.TLSConfig{UpstreamCACerts: []string{os.DevNull}}), `TLS.UpstreamCACerts[0]: "/dev/null": holds no certificate; give the path of a PEM bundle`},

		// Secrets: section 7.
		{"secret without name", conf, secret("", "v", only), `WithSecrets[0].EnvVar: no name of a variable; write one without =`},
		{"secret with =", conf, secret("A=B", "v", only), `WithSecrets[0].EnvVar: "A=B": no name of a variable; write one without =`},
		{"secret without value", conf, secret("KEY", "", only), `WithSecrets[0].Value: is empty or holds a line break or NUL; give the value as it stands in a header`},
		{"secret with line break", conf, secret("KEY", "va\nlue", only), `WithSecrets[0].Value: is empty or holds a line break or NUL; give the value as it stands in a header`},
		{"secret without host", conf, secret("KEY", "v", m.SecretEnvOptions{}), `WithSecrets[0].AllowHosts: names no host that may get the value; name one`},
		{"secret for pattern", conf, secret("KEY", "v", m.SecretEnvOptions{AllowHosts: []string{"*.example.com"}}), `WithSecrets[0].AllowHosts[0]: "*.example.com": no host name; write one such as api.example.com; patterns go to AllowHostPatterns`},
		{"secret for bad pattern", conf, secret("KEY", "v", m.SecretEnvOptions{AllowHostPatterns: []string{"a.*"}}), `WithSecrets[0].AllowHostPatterns[0]: "a.*": no host name; write example.com, or *.example.com for its subdomains`},
		{"placeholder long", conf, secret("KEY", "v", m.SecretEnvOptions{AllowHosts: only.AllowHosts, Placeholder: strings.Repeat("x", 1025)}), `WithSecrets[0].Placeholder: holds a line break or NUL, or is longer than 1024 bytes; write a short word, or leave it empty`},
		{"two secrets of one name", conf, m.WithSecrets(m.Secret.Env("KEY", "v", only), m.Secret.Env("KEY", "v", only)), `WithSecrets[1].EnvVar: "KEY": is also that of WithSecrets[0]; give each its own, or one entry all hosts`},
		{"secret out of reach", conf, options(secret("KEY", "v", only), allow(m.PolicyRule{Destination: "other.example.com"})), `WithSecrets[0].AllowHosts[0]: "api.example.com": no rule lets the guest reach it; allow it by a rule, or drop the secret`},
		{"secret pattern out of reach", conf, options(secret("KEY", "v", m.SecretEnvOptions{AllowHostPatterns: []string{"*.b.example"}}), allow(m.PolicyRule{Destination: "b.example"})), `WithSecrets[0].AllowHostPatterns[0]: "*.b.example": no rule lets the guest reach it; allow it by a rule, or drop the secret`},
		{"secret without network", conf, options(secret("KEY", "v", only), network(m.NetworkConfig{Policy: "none"})), `WithSecrets: with Policy none there is no network; drop it, or choose another policy`},
		{"violation action", arg, secret("KEY", "v", m.SecretEnvOptions{AllowHosts: only.AllowHosts, OnViolation: "log"}), `WithSecrets[0].OnViolation: "log": no such action; write block, block-and-log or block-and-terminate`},
		{"shared violation action", arg, network(m.NetworkConfig{OnSecretViolation: "warn"}), `OnSecretViolation: "warn": no such action; write block, block-and-log or block-and-terminate`},

		// The guest.
		{"env name", conf, m.WithEnv(map[string]string{"A=B": "c"}), `WithEnv["A=B"]: "A=B": no name of a variable; write one without =`},
		{"env value", conf, m.WithEnv(map[string]string{"A": "\xff"}), `WithEnv["A"]: the value holds a NUL or is not UTF-8; encode it`},
		{"workdir", conf, m.WithWorkdir("work"), `WithWorkdir: "work": not an absolute path; write it from the guest's root on`},
		{"hostname", conf, m.WithHostname("a_b"), `WithHostname: "a_b": no host name; write letters, digits and hyphens, at most 63 per label`},
		{"host's name", conf, m.WithAddHost("a b", "10.0.0.1"), `WithAddHost["a b"]: "a b": no host name; write letters, digits, hyphens and dots`},
		{"host's name an address", conf, m.WithAddHost("10.0.0.2", "10.0.0.1"), `WithAddHost["10.0.0.2"]: "10.0.0.2": no host name; write letters, digits, hyphens and dots`},
		{"host's name twice", conf, options(m.WithAddHost("Db", "10.0.0.1"), m.WithAddHost("db", "10.0.0.2")), `WithAddHost["db"]: is there twice, in other letters; write it once`},
		{"host's name of the loopback", conf, m.WithAddHost("localhost", "10.0.0.1"), `WithAddHost["localhost"]: "localhost": has its meaning already; choose another name`},
		{"host's name of the host", conf, m.WithAddHost("host.docker.internal", "10.0.0.1"), `WithAddHost["host.docker.internal"]: "host.docker.internal": has its meaning already; choose another name`},
		{"host's address", conf, m.WithAddHost("db", "10.0.0"), `WithAddHost["db"][0]: "10.0.0": no IP address; write one, or host-gateway for this host`},
		{"host's address with a zone", conf, m.WithAddHost("db", "10.0.0.1", "fe80::1%eth0"), `WithAddHost["db"][1]: "fe80::1%eth0": no IP address; write one, or host-gateway for this host`},
		{"host without address", conf, m.WithAddHost("db"), `WithAddHost["db"]: has no address; write one, or host-gateway for this host`},
		{"host without network", conf, options(m.WithAddHost("db", "10.0.0.1"), m.WithNetwork(m.NetworkPolicy.None())), `WithAddHost: with Policy none there is no network; drop it, or choose another policy`},
		{"root missing", m.ErrPathNotFound, m.WithBindRootfs("/none"), `WithBindRootfs: "/none": can't be looked at; give a directory that this user can read`},
		{"root a file", conf, m.WithBindRootfs(os.DevNull), `WithBindRootfs: "/dev/null": is not a directory; give the root directory itself`},
		{"a long argument", conf, m.WithCmd("a", strings.Repeat("x", 128<<10)), `WithEntrypoint and WithCmd: argument 1: is 131072 bytes long, and Linux starts no program with a string over 131071; put it into a file, or into the standard input`},
		{"a long value", conf, m.WithEnv(map[string]string{"A": strings.Repeat("x", 128<<10)}), `WithEnv["A"]: is 131074 bytes long, and Linux starts no program with a string over 131071; put it into a file, or into the standard input`},
		{"a large environment", conf, m.WithEnv(largeEnv(17)), `WithEntrypoint, WithCmd and WithEnv: are 2176303 bytes together, and Linux starts no program with more than 2093056; put some into a file, or into the standard input`},
		{"command", conf, m.WithCmd("", "x"), `WithEntrypoint and WithCmd: argument 0: is an empty program, holds a NUL or is not UTF-8`},
		{"user", conf, m.WithUser("a b"), `WithUser: "a b": no user; write name, uid, name:group or uid:gid`},
		{"user without group", conf, m.WithUser("me:"), `WithUser: "me:": no user; write name, uid, name:group or uid:gid`},
		{"user of three", conf, m.WithUser("a:b:c"), `WithUser: "a:b:c": no user; write name, uid, name:group or uid:gid`},
		{"shell", conf, m.WithShell("a\x00"), `WithShell: "a\x00": holds a NUL or is not UTF-8; write the path of a shell`},
		{"label", conf, m.WithLabel("", "x"), `WithLabels[""]: is empty, holds a NUL or is not UTF-8; write words`},
		{"root twice", conf, options(m.WithImage("alpine"), m.WithBindRootfs("/")), `WithBindRootfs: "/": an image is the root already; drop WithImage or WithBindRootfs`},

		// Its life.
		{"max duration", arg, m.WithMaxDuration(-1), `WithMaxDuration: "-1ns": is negative; write 0 for no end`},
		{"idle timeout", arg, m.WithIdleTimeout(-1e9), `WithIdleTimeout: "-1s": is negative; write 0 for no end`},
		{"log level", arg, m.WithLogLevel("verbose"), `WithLogLevel: "verbose": no such level; write trace, debug, info, warn or error`},
		{"detached within", conf, options(m.WithDetached(), m.WithHypervisor(&hvtest.Fake{})), `WithDetached: with WithHypervisor the sandbox runs in this process, and ends with it; drop one of them`},

		// Its root.
		{"pull policy", arg, m.WithPullPolicy("sometimes"), `WithPullPolicy: "sometimes": no such policy; write always, if-missing or never`},
		{"registry user", conf, m.WithRegistryAuth(m.RegistryAuth{Password: "hunter2"}), `WithRegistryAuth.Username: is empty; give the name that the registry knows, or drop it`},
		{"registry CAs", tls, m.WithRegistryCACerts([]byte("x")), `WithRegistryCACerts: holds no certificate; give the path of a PEM bundle`},
		{"registry CAs missing", tls, m.WithRegistryCACertsPath("/none.pem"), `WithRegistryCACertsPath: open /none.pem: no such file or directory; give the path of a PEM bundle`},
		{"patch kind", conf, patch(m.PatchConfig{}), `WithPatches[0].Kind: no such patch; use a function of Patch`},
		{"patch path", conf, patch(m.Patch.Text("etc/x", "", m.PatchOptions{})), `WithPatches[0].Path: "etc/x": no path of a file in the guest; write an absolute path without . and ..`},
		{"patch root", conf, patch(m.Patch.Remove("/")), `WithPatches[0].Path: "/": no path of a file in the guest; write an absolute path without . and ..`},
		{"patch upwards", conf, patch(m.Patch.Mkdir("/a/../b", m.PatchOptions{})), `WithPatches[0].Path: "/a/../b": no path of a file in the guest; write an absolute path without . and ..`},
		{"patch mode", conf, patch(m.Patch.Text("/x", "", m.PatchOptions{Mode: ptr(uint32(0o10000))})), `WithPatches[0].Mode: "010000": no permissions; write 0 to 07777`},
		{"patch link", conf, patch(m.Patch.Symlink("", "/x", m.PatchOptions{})), `WithPatches[0].Target: no path; write what the link leads to`},
		{"patch source missing", m.ErrPathNotFound, patch(m.Patch.CopyFile("/none", "/x", m.PatchOptions{})), `WithPatches[0].Src: "/none": can't be looked at; give a path that this user can read`},
		{"patch source a directory", conf, patch(m.Patch.CopyFile("/", "/x", m.PatchOptions{})), `WithPatches[0].Src: "/": is not a file; use Patch.CopyDir for a directory`},
		{"patch source a file", conf, patch(m.Patch.CopyDir(os.DevNull, "/x", m.PatchOptions{})), `WithPatches[0].Src: "/dev/null": is not a directory; use Patch.CopyFile`},
		{"patch large", conf, patch(m.Patch.Text("/x", strings.Repeat("x", 4<<20+1), m.PatchOptions{})), `WithPatches and WithScripts: "4194305": bytes are more than 4194304; copy large files with Patch.CopyFile`},
		{"patch of the host", conf, m.WithPatches(m.Patch.Remove("/etc")), `WithPatches and WithScripts: the host's own files are not changed; give the guest a root by WithImage or WithBindRootfs`},
		{"script name", conf, options(m.WithBindRootfs("/"), m.WithScripts(map[string]string{"a/b": ""})), `WithScripts["a/b"]: "a/b": no name of a file; write one without /`},
		{"mount path", conf, mount("data", m.Mount.Tmpfs(m.TmpfsOptions{})), `WithMounts["data"]: "data": no path that can be covered; write an absolute path without . and .., below the root`},
		{"mount root", conf, mount("/", m.Mount.Tmpfs(m.TmpfsOptions{})), `WithMounts["/"]: "/": no path that can be covered; write an absolute path without . and .., below the root`},
		{"mount nothing", conf, mount("/m", m.MountConfig{}), `WithMounts["/m"]: shows nothing; use Mount.Bind or Mount.Tmpfs`},
		{"mount two", conf, mount("/m", m.MountConfig{Bind: "/", Tmpfs: true}), `WithMounts["/m"]: asks for a path of the host and for memory; use Mount.Bind or Mount.Tmpfs`},
		{"mount size", conf, mount("/m", m.MountConfig{Bind: "/", SizeMiB: 1}), `WithMounts["/m"].SizeMiB: "1": only memory has a size; drop it`},
		{"mount missing", m.ErrPathNotFound, mount("/m", m.Mount.Bind("/none", m.MountOptions{})), `WithMounts["/m"]: "/none": can't be looked at; give a path that this user can read`},
		{"backend", arg, m.WithBackend("hyper-v"), `WithBackend: "hyper-v": no backend of this platform; sluice doctor lists them`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			sb, err := m.CreateSandbox(t.Context(), "refused", tt.opt)
			if err == nil {
				sb.Close()
				t.Fatal("was created")
			}
			if !m.IsKind(err, tt.kind) {
				t.Errorf("kind of %v: want %v", err, tt.kind)
			}
			got := strings.TrimPrefix(err.Error(), `create sandbox "refused": `)
			if tt.want == "" {
				golden(t, tt.name, got)
			} else if got != tt.want {
				t.Errorf("error:\n got %s\nwant %s", got, tt.want)
			}
		})
	}
}

// golden compares a text, which another package words, with a file. With
// SLUICE_UPDATE=1 it writes the file.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", "errors", strings.ReplaceAll(name, " ", "-")+".txt")
	got += "\n"
	if os.Getenv("SLUICE_UPDATE") == "1" {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s:\n got %swant %s", path, got, want)
	}
}

// TestRefusedNames checks names of sandboxes.
func TestRefusedNames(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", ".", "..", "-x", "_x", "a/b", "a b", "ä", strings.Repeat("x", 64), "a\x00"} {
		if _, err := m.CreateSandbox(t.Context(), name); !m.IsKind(err, m.ErrInvalidConfig) {
			t.Errorf("CreateSandbox(%q): %v, want %v", name, err, m.ErrInvalidConfig)
		}
	}
}

// TestAllProblems checks that one error names everything, in the order of the
// fields, and has the kind of each problem.
func TestAllProblems(t *testing.T) {
	t.Parallel()
	got := refusal(t,
		m.WithBackend("hyper-v"),
		m.WithEnv(map[string]string{"": "x"}),
		m.WithPorts(map[uint16]uint16{8080: 0}),
		m.WithNetwork(&m.NetworkConfig{
			Policy:         "lan",
			Rules:          []m.PolicyRule{{Action: "allow", Destination: "10.0.0.0/8", Ports: []string{"80", "0"}}, {Action: "deny", Protocol: "x"}},
			MTU:            1,
			TLS:            &m.TLSConfig{InterceptedPorts: []uint16{53}, CAKey: "k"},
			MaxConnections: ptr(uint(70000)),
		}),
		secret("KEY", "hunter2", m.SecretEnvOptions{}),
		m.WithImage("alpine"),
	)
	golden(t, "all problems", got)
	if strings.Contains(got, "hunter2") {
		t.Error("the error shows a secret's value")
	}
	_, err := m.CreateSandbox(t.Context(), "refused", network(m.NetworkConfig{MTU: 1}), m.WithMounts(map[string]m.MountConfig{"/m": m.Mount.Bind("/none", m.MountOptions{})}), m.WithHostname("-"))
	for _, kind := range []m.ErrorKind{m.ErrInvalidArgument, m.ErrPathNotFound, m.ErrInvalidConfig} {
		if !m.IsKind(err, kind) {
			t.Errorf("IsKind(%v) is false for %v", kind, err)
		}
	}
	if m.IsKind(err, m.ErrTLS) {
		t.Errorf("IsKind(%v) is true for %v", m.ErrTLS, err)
	}
}

// TestSecretHosts checks that secrets and TLS settings that contradict each
// other are found.
func TestSecretHosts(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		tls     m.TLSConfig
		secret  m.SecretEnvOptions
		refused bool
	}{
		{"bypass of the host", m.TLSConfig{Bypass: []string{"API.example.com"}}, only, true},
		{"bypass of its parent", m.TLSConfig{Bypass: []string{"*.example.com"}}, only, true},
		{"bypass of the apex", m.TLSConfig{Bypass: []string{"example.com"}}, only, false},
		{"bypass of another", m.TLSConfig{Bypass: []string{"*.xample.com"}}, only, false},
		{"bypass within a pattern", m.TLSConfig{Bypass: []string{"a.b.example.com"}}, m.SecretEnvOptions{AllowHostPatterns: []string{"*.example.com"}}, true},
		{"pattern within a bypass", m.TLSConfig{Bypass: []string{"*.com"}}, m.SecretEnvOptions{AllowHostPatterns: []string{"*.example.com"}}, true},
		{"apex of a pattern", m.TLSConfig{Bypass: []string{"example.com"}}, m.SecretEnvOptions{AllowHostPatterns: []string{"*.example.com"}}, false},
		{"unverified", m.TLSConfig{VerifyUpstream: ptr(false)}, only, true},
		{"verified", m.TLSConfig{VerifyUpstream: ptr(true)}, only, false},
		{"unverified host", m.TLSConfig{ScopedVerifyUpstream: []m.ScopedVerifyUpstream{{Pattern: "api.example.com"}}}, only, true},
		{"unverified other", m.TLSConfig{ScopedVerifyUpstream: []m.ScopedVerifyUpstream{{Pattern: "test.example.com"}}}, only, false},
	} {
		_, err := m.CreateSandbox(t.Context(), "refused", tlsc(tt.tls), secret("KEY", "v", tt.secret))
		if got := m.IsKind(err, m.ErrInvalidConfig); got != tt.refused {
			t.Errorf("%s: refused is %v, want %v: %v", tt.name, got, tt.refused, err)
		}
	}
}

// TestPlaceholders checks that one placeholder can't stand for two values.
func TestPlaceholders(t *testing.T) {
	t.Parallel()
	a := m.Secret.Env("A", "1", only)
	b := m.Secret.Env("B", "2", m.SecretEnvOptions{AllowHosts: only.AllowHosts, Placeholder: "$MSB_A"})
	same := m.Secret.Env("B", "1", m.SecretEnvOptions{AllowHosts: only.AllowHosts, Placeholder: "$MSB_A"})
	want := `WithSecrets[1].Placeholder: "$MSB_A": also stands for another value, by WithSecrets[0]; give each its own`
	if got := refusal(t, m.WithSecrets(a, b)); !strings.Contains(got, want) {
		t.Errorf("two values: %s\nwant %s", got, want)
	}
	if got := refusal(t, m.WithSecrets(a, same)); strings.Contains(got, "Placeholder") {
		t.Errorf("the same value: %s", got)
	}
}

// largeEnv returns an environment of n values of 125 KiB each.
func largeEnv(n int) map[string]string {
	env := make(map[string]string)
	for i := range n {
		env[fmt.Sprint("A", i)] = strings.Repeat("x", 125<<10)
	}
	return env
}
