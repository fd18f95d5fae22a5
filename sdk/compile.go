package sdk

import (
	"encoding/json"
	"errors"
	"math"
	"net/netip"
	"time"

	"github.com/sluicenet/sluice/dns"
	"github.com/sluicenet/sluice/internal/control"
	"github.com/sluicenet/sluice/internal/sandbox"
	"github.com/sluicenet/sluice/policy"
	"github.com/sluicenet/sluice/vnet"
)

// Compile returns what the policy of n is made from: the flattened list of
// rules and the defaults. A nil n is the preset public-only. Its error names
// everything that is wrong with the policy's fields, the warnings what is
// doubtful; other fields are not looked at.
func (n *NetworkConfig) Compile() (cfg policy.Config, warnings []string, err error) {
	var c checker
	cfg, _ = c.compilePolicy(n, false)
	return cfg, c.warnings, c.err()
}

// compileJSON is the Compile function of a sandbox's process.
func compileJSON(raw json.RawMessage) (sandbox.Config, error) {
	cfg, valueless, err := parseWire(raw)
	if err != nil {
		return sandbox.Config{}, &control.Failure{Kind: control.KindInternal, Message: "read configuration: " + err.Error()}
	}
	c := checker{valueless: valueless}
	compiled := c.compile(&cfg)
	if err := c.err(); err != nil {
		return sandbox.Config{}, failureOf(err)
	}
	return compiled, nil
}

// compile checks everything and returns what the sandbox is to be, which is
// valid iff there are no problems.
func (c *checker) compile(cfg *SandboxConfig) sandbox.Config {
	c.checkGuest(cfg)
	c.checkImage(cfg)
	c.checkKernel(cfg)
	c.checkLife(cfg)
	c.checkPatches(cfg)
	c.checkMounts(cfg.Mounts)
	out := sandbox.Config{
		Backend:     backendName(cfg.Backend),
		Root:        cfg.BindRootfs,
		Image:       cfg.imageDigest(),
		CPUs:        cfg.CPUs,
		MemoryMiB:   cfg.MemoryMiB,
		Kernel:      cfg.guestKernel(),
		Hostname:    cfg.Hostname,
		Network:     c.compileNetwork(cfg),
		Keep:        cfg.keep(),
		Detached:    cfg.Detached,
		MaxDuration: cfg.MaxDuration,
		IdleTimeout: cfg.IdleTimeout,
		Labels:      cfg.Labels,
		Patches:     cfg.patches(),
		Mounts:      cfg.mounts(),
		Env:         cfg.ownEnvironment(),
		LogLevel:    cfg.logLevel(),
	}
	c.warnOfNamespace(out)
	var err error
	if out.ConfigJSON, err = keptOf(cfg); err != nil {
		c.fail(ErrInternal, "", "", err.Error(), "")
	}
	out.Warnings = c.warnings
	return out
}

// warnOfNamespace warns of what a namespace doesn't do, for want of a machine.
func (c *checker) warnOfNamespace(out sandbox.Config) {
	if out.Backend != "namespace" {
		return
	}
	if out.CPUs != 0 {
		c.warnings = append(c.warnings, "a namespace doesn't limit processors")
	}
	switch {
	case out.MemoryMiB == 0:
	case out.Keep && (out.Root != "" || out.Image != ""):
		c.warnings = append(c.warnings, "in a namespace whose root is kept the memory's size bounds neither its processes nor its files, which are on the host's disk")
	default:
		c.warnings = append(c.warnings, "in a namespace the memory's size bounds the files that the guest writes, not its processes")
	}
}

// backendName returns the name as sluice.Open takes it.
func backendName(name string) string {
	if name == "auto" {
		return ""
	}
	return name
}

// compileNetwork returns nil for a guest without a network.
func (c *checker) compileNetwork(cfg *SandboxConfig) *sandbox.Network {
	n := cfg.Network
	if n == nil {
		n = NetworkPolicy.PublicOnly()
	}
	out := &sandbox.Network{}
	var rules policy.Config
	rules, out.Policy = c.compilePolicy(n, len(cfg.Secrets) > 0)
	out.AllowRebind, out.QUIC = rules.DisableRebindProtection, rules.QUIC
	switch n.DenyResponse {
	case "", DenyResponseDrop:
	case DenyResponseReject:
		out.Reject = true
	default:
		c.fail(ErrInvalidArgument, "DenyResponse", string(n.DenyResponse), "no such response", "write drop or reject")
	}
	c.compileDNS(n, out)
	c.compileAddresses(n, out)
	c.compileLimits(n, out)
	out.RateLimit = c.compileRateLimiter(n.RateLimiter)
	c.checkTLS(n.TLS)
	c.checkViolation("OnSecretViolation", n.OnSecretViolation)
	none := rules.Preset == policy.PresetNone
	if none {
		out.Policy = nil
	}
	c.checkSecrets(cfg, n.TLS, out.Policy)
	out.Hosts = c.compileHosts(cfg.AddHosts)
	out.Ports = c.compilePorts(cfg)
	out.Intercept, out.Secrets = c.compileInterception(cfg, n), c.compileSecrets(cfg, n)
	out.TrustHostCAs = n.TrustHostCAs != nil && *n.TrustHostCAs
	if none {
		c.checkNone(cfg)
		return nil
	}
	return out
}

// compilePolicy compiles what decides flows. Secrets switch interception on.
func (c *checker) compilePolicy(n *NetworkConfig, secrets bool) (policy.Config, *policy.Policy) {
	if n == nil {
		n = NetworkPolicy.PublicOnly()
	}
	spec := policy.Spec{
		Policy:             string(n.Policy),
		DefaultEgress:      string(n.DefaultEgress),
		DefaultIngress:     string(n.DefaultIngress),
		DenyDomains:        n.DenyDomains,
		DenyDomainSuffixes: n.DenyDomainSuffixes,
	}
	for _, r := range n.Rules {
		spec.Rules = append(spec.Rules, r.spec())
	}
	cfg, problems := spec.Flatten()
	c.add(problems)
	cfg.DisableRebindProtection = !n.rebindProtection()
	cfg.QUIC = n.TLS.quic()
	if secrets || n.TLS.intercepts() {
		cfg.InterceptedPorts = n.TLS.interceptedPorts()
	}
	p, err := policy.New(cfg)
	if err != nil {
		if cfg.Preset != policy.PresetNone { // Flatten has said what can't stand beside it
			c.add(cfg.Check()) // of the rules that are left, too
		}
		return cfg, nil
	}
	c.add(p.Warnings())
	return cfg, p
}

// rebindProtection is the nested value, else the one beside it, else true.
func (n *NetworkConfig) rebindProtection() bool {
	switch {
	case n.DNS != nil && n.DNS.RebindProtection != nil:
		return *n.DNS.RebindProtection
	case n.DNSRebindProtection != nil:
		return *n.DNSRebindProtection
	}
	return true
}

// The defaults that NetworkConfig's documentation names. They are written out here,
// so that a value which says the same compiles to the same.
const (
	defaultMTU                 = 1500
	defaultQueryTimeout        = 4 * time.Second
	defaultDNSQueriesPerSecond = 200
	defaultHeldFlows           = 512
	defaultInbound             = 1024
	defaultBufferBytes         = 64 << 20
)

// maxQueryTimeout is the longest time that a resolver's client still waits.
const maxQueryTimeoutMs = 60_000

func (c *checker) compileDNS(n *NetworkConfig, out *sandbox.Network) {
	out.QueryTimeout, out.DNSQueriesPerSecond = defaultQueryTimeout, defaultDNSQueriesPerSecond
	if l := n.Limits; l != nil && l.DNSQueriesPerSecond != nil {
		out.DNSQueriesPerSecond = c.bound("Limits.DNSQueriesPerSecond", uint64(*l.DNSQueriesPerSecond), 0, 1_000_000)
	}
	if n.DNS == nil {
		return
	}
	for i, text := range n.DNS.Nameservers {
		server, err := dns.ParseNameserver(text)
		if err != nil {
			c.fail(ErrInvalidArgument, index("DNS.Nameservers", i), text, "no nameserver", "write IP, IP:PORT, HOST or HOST:PORT")
			continue
		}
		out.Nameservers = append(out.Nameservers, server)
	}
	if ms := n.DNS.QueryTimeoutMs; ms != nil {
		v := c.within("DNS.QueryTimeoutMs", *ms, 1, maxQueryTimeoutMs)
		out.QueryTimeout = time.Duration(v) * time.Millisecond
	}
}

func (c *checker) compileAddresses(n *NetworkConfig, out *sandbox.Network) {
	pool4, ok4 := c.pool("IPv4Pool", n.IPv4Pool, netip.Addr.Is4, 30, "172.16.0.0/12")
	pool6, ok6 := c.pool("IPv6Pool", n.IPv6Pool, netip.Addr.Is6, 64, "fd42:6d73:62::/48")
	if ok4 && ok6 {
		pool, err := vnet.NewPool(pool4, pool6)
		if err != nil {
			c.fail(ErrInvalidArgument, "IPv4Pool", "", err.Error(), "")
		}
		out.Pool = pool
	}
	out.MTU = defaultMTU
	if n.MTU != 0 {
		out.MTU = int(c.within("MTU", uint64(n.MTU), 1280, 65520))
	}
}

// pool parses a pool of addresses; the zero Prefix means the default.
func (c *checker) pool(path, text string, family func(netip.Addr) bool, maxBits int, example string) (netip.Prefix, bool) {
	if text == "" {
		return netip.Prefix{}, true
	}
	p, err := netip.ParsePrefix(text)
	switch {
	case err != nil, !family(p.Addr()), p.Addr().Is4In6():
		c.fail(ErrInvalidArgument, path, text, "no prefix of that family", "write one such as "+example)
	case p.Bits() > maxBits:
		c.fail(ErrInvalidArgument, path, text, "holds no block", "write a prefix of "+decimal(maxBits)+" bits or fewer")
	default:
		return p, true
	}
	return netip.Prefix{}, false
}

// maxConnections is the most that MaxConnections may be.
const maxConnections = 65536

// compileLimits leaves those that the limit of open files bounds at 0 where the
// configuration doesn't say: how far they reach depends on the sandbox's process.
func (c *checker) compileLimits(n *NetworkConfig, out *sandbox.Network) {
	out.Limits = vnet.Limits{HeldFlows: defaultHeldFlows, Inbound: defaultInbound, BufferBytes: defaultBufferBytes}
	if n.MaxConnections != nil {
		out.Limits.TCPFlows = c.bound("MaxConnections", uint64(*n.MaxConnections), 0, maxConnections)
	}
	l := n.Limits
	if l == nil {
		return
	}
	if l.UDPSessions != nil {
		out.Limits.UDPSessions = c.bound("Limits.UDPSessions", uint64(*l.UDPSessions), 0, maxConnections)
	}
	if l.Inbound != nil {
		out.Limits.Inbound = c.bound("Limits.Inbound", uint64(*l.Inbound), 0, maxConnections)
	}
	if l.HeldFlows != nil {
		out.Limits.HeldFlows = c.bound("Limits.HeldFlows", uint64(*l.HeldFlows), 0, maxConnections)
	}
	if l.BufferBytes != nil {
		// Less than one window would stand still, more than a tebibyte is no
		// bound.
		out.Limits.BufferBytes = int(c.within("Limits.BufferBytes", *l.BufferBytes, 1<<20, min(1<<40, math.MaxInt)))
	}
}

// within files v unless it is from low to high.
func (c *checker) within(path string, v, low, high uint64) uint64 {
	if v < low || v > high {
		c.fail(ErrInvalidArgument, path, decimal(v), "out of range", "write "+decimal(low)+" to "+decimal(high))
	}
	return v
}

// bound is within, for the packages where 0 means the default: 0 becomes -1.
func (c *checker) bound(path string, v, low, high uint64) int {
	if c.within(path, v, low, high) == 0 {
		return -1
	}
	return int(min(v, high))
}

// failureOf returns err, which is of this package, as it crosses to the creator.
func failureOf(err error) *control.Failure {
	var e *Error
	if !errors.As(err, &e) {
		return control.AsFailure(err)
	}
	return &control.Failure{Kind: e.Kind.String(), Message: e.text(), Hint: e.Hint}
}
