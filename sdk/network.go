package sdk

// A NetworkConfig describes a sandbox's network: what the guest may reach, how
// names are resolved, and what is published. Its zero value is the preset
// public-only.
//
// A config without Policy whose Rules or defaults are set is a custom policy:
// egress is denied and ingress allowed where no rule matches. With Policy, the
// preset's rules come first, Rules follow, and a default that is set replaces
// the preset's.
//
// CreateSandbox copies the config; changing it afterwards has no effect.
type NetworkConfig struct {
	// Policy names a preset. Empty: the rules alone, or public-only if there
	// is neither a rule nor a default.
	Policy NetworkPolicyPreset `json:"policy,omitempty"`
	// Rules are evaluated in order, the first that matches decides.
	Rules []PolicyRule `json:"rules,omitempty"`
	// DefaultEgress decides outbound flows that no rule matches; empty means
	// deny, or the preset's.
	DefaultEgress PolicyAction `json:"default_egress,omitempty"`
	// DefaultIngress decides inbound flows that no rule matches; empty means
	// allow, or the preset's.
	DefaultIngress PolicyAction `json:"default_ingress,omitempty"`
	// DenyDomains are exact names, refused before any rule.
	DenyDomains []string `json:"deny_domains,omitempty"`
	// DenyDomainSuffixes are refused before any rule, with all their
	// subdomains: ".ads" or "ads" both cover ads and x.ads.
	DenyDomainSuffixes []string `json:"deny_domain_suffixes,omitempty"`
	// DenyResponse is what the guest gets for a denied flow; empty means drop.
	DenyResponse DenyResponse `json:"deny_response,omitempty"`

	// DNS describes the resolver; nil uses the host's nameservers.
	DNS *DNSConfig `json:"dns,omitempty"`
	// DNSRebindProtection stands for DNS.RebindProtection where that is nil.
	DNSRebindProtection *bool `json:"dns_rebind_protection,omitempty"`

	// TLS switches interception on; nil leaves TLS alone.
	TLS *TLSConfig `json:"tls,omitempty"`
	// OnSecretViolation is done when a secret's placeholder is on its way to a
	// host that is not its own; an entry's OnViolation wins.
	OnSecretViolation ViolationAction `json:"on_secret_violation,omitempty"`
	// TrustHostCAs adds the roots that the host trusts to the guest's; nil
	// means false.
	TrustHostCAs *bool `json:"trust_host_cas,omitempty"`

	// Ports publishes TCP: host port on 127.0.0.1 to guest port.
	Ports map[uint16]uint16 `json:"ports,omitempty"`
	// PortBindings publishes with an explicit address and protocol.
	PortBindings []PortBinding `json:"port_bindings,omitempty"`

	// IPv4Pool is cut into /30 blocks, one per sandbox; empty means
	// 172.16.0.0/12.
	IPv4Pool string `json:"ipv4_pool,omitempty"`
	// IPv6Pool is cut into /64 blocks, one per sandbox; empty means
	// fd42:6d73:62::/48.
	IPv6Pool string `json:"ipv6_pool,omitempty"`
	// MTU is the guest card's, in bytes of IP packet, 1280 to 65520; 0 means
	// 1500.
	MTU uint16 `json:"mtu,omitempty"`

	// MaxConnections bounds TCP flows that the guest opens, at once: nil means
	// 4096, 0 refuses all, at most 65536. A value that the limit of open files
	// can't carry is an error at creation.
	MaxConnections *uint `json:"max_connections,omitempty"`
	// Limits bounds the rest; nil means the defaults.
	Limits *NetworkLimits `json:"limits,omitempty"`
	// RateLimiter bounds bytes and frames per second; nil means no limit.
	RateLimiter *NetworkRateLimiterConfig `json:"rate_limiter,omitempty"`
}

// A DenyResponse is what the guest gets for a flow that the policy denies.
type DenyResponse string

const (
	DenyResponseDrop   DenyResponse = "drop"   // silence; a flow denied after its handshake is reset
	DenyResponseReject DenyResponse = "reject" // at once: a reset, or ICMP administratively prohibited
)

// A DNSConfig describes the resolver that answers the guest.
type DNSConfig struct {
	// RebindProtection refuses answers with addresses that are neither public
	// nor allowed by a rule; nil means true.
	RebindProtection *bool `json:"rebind_protection,omitempty"`
	// Nameservers are asked instead of the host's: IP, IP:PORT, HOST or
	// HOST:PORT.
	Nameservers []string `json:"nameservers,omitempty"`
	// QueryTimeoutMs bounds a query with all its attempts, in milliseconds, 1
	// to 60000; nil means 4000.
	QueryTimeoutMs *uint64 `json:"query_timeout_ms,omitempty"`
}

// A TLSConfig describes the interception of the guest's TLS, and switches it on,
// the zero TLSConfig too; one that says nothing but BlockQUIC doesn't.
type TLSConfig struct {
	// Bypass names hosts whose TLS is passed on untouched: example.com, or
	// *.example.com for its subdomains.
	Bypass []string `json:"bypass,omitempty"`
	// VerifyUpstream checks the servers' certificates; nil means true.
	VerifyUpstream *bool `json:"verify_upstream,omitempty"`
	// ScopedVerifyUpstream overrides VerifyUpstream for the hosts of a pattern.
	ScopedVerifyUpstream []ScopedVerifyUpstream `json:"scoped_verify_upstream,omitempty"`
	// InterceptedPorts are the TCP ports where TLS is intercepted; empty means
	// 443.
	InterceptedPorts []uint16 `json:"intercepted_ports,omitzero"`
	// BlockQUIC refuses QUIC on intercepted ports, so that clients fall back
	// to TCP; nil means where a name decides.
	BlockQUIC *bool `json:"block_quic,omitempty"`
	// CACert and CAKey are paths of PEM files with a fixed certificate
	// authority; both empty means one made for the sandbox.
	CACert string `json:"ca_cert,omitempty"`
	CAKey  string `json:"ca_key,omitempty"`
	// UpstreamCACerts are paths of PEM bundles trusted for servers, beside the
	// host's.
	UpstreamCACerts []string `json:"upstream_ca_certs,omitempty"`
	// ScopedUpstreamCACerts are bundles trusted for the hosts of a pattern
	// only.
	ScopedUpstreamCACerts []ScopedUpstreamCACert `json:"scoped_upstream_ca_certs,omitempty"`
	// AllowNonTLS lets other protocols pass on intercepted ports where an
	// address rule allows them.
	AllowNonTLS bool `json:"allow_non_tls,omitempty"`
}

// A ScopedUpstreamCACert trusts a PEM bundle for the hosts of a pattern.
type ScopedUpstreamCACert struct {
	Pattern string `json:"pattern"` // host or *.suffix
	Path    string `json:"path"`
}

// A ScopedVerifyUpstream overrides TLSConfig.VerifyUpstream for the hosts of a
// pattern.
type ScopedVerifyUpstream struct {
	Pattern string `json:"pattern"` // host or *.suffix
	Verify  bool   `json:"verify"`
}

// NetworkLimits bounds what the guest may use. Nil fields mean the defaults.
type NetworkLimits struct {
	UDPSessions         *uint   `json:"udp_sessions,omitempty"`           // UDP sockets at once; nil means 1024
	Inbound             *uint   `json:"inbound,omitempty"`                // inbound flows per published port; nil means 1024
	HeldFlows           *uint   `json:"held_flows,omitempty"`             // half-open or held TCP flows; nil means 512
	BufferBytes         *uint64 `json:"buffer_bytes,omitempty"`           // bytes buffered for all flows; nil means 64 MiB
	DNSQueriesPerSecond *uint   `json:"dns_queries_per_second,omitempty"` // queries that go upstream; nil means 200, 0 no limit
}
