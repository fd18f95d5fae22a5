package sdk

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sluicenet/sluice/internal/control"
	"github.com/sluicenet/sluice/policy"
	"github.com/sluicenet/sluice/vnet"
)

func ptr[T any](v T) *T { return &v }

// everything is a configuration with every field set.
func everything() SandboxConfig {
	return SandboxConfig{
		BindRootfs: "/",
		Backend:    "namespace",
		MemoryMiB:  512,
		CPUs:       2,
		Hostname:   "guest",
		AddHosts:   map[string][]string{"db.example": {"10.1.2.3", "host-gateway"}},
		Workdir:    "/srv",
		Env:        map[string]string{"A": "b"},
		Entrypoint: []string{"sh"},
		Cmd:        []string{"-c", "true"},
		Ports:      map[uint16]uint16{8080: 80},
		PortBindings: []PortBinding{
			{Bind: "::1", HostPort: 0, GuestPort: 80, Protocol: PortProtocolTCP},
			{HostPort: 9090, GuestPort: 90},
		},
		Network: &NetworkConfig{
			Policy:              NetworkPolicyPresetPublicOnly,
			Rules:               []PolicyRule{{Action: "allow", Direction: "egress", Destination: "10.0.0.0/8", Protocol: "tcp", Protocols: []PolicyProtocol{"udp"}, Port: "1", Ports: []string{"2-3"}}},
			DefaultEgress:       PolicyActionDeny,
			DefaultIngress:      PolicyActionDeny,
			DenyDomains:         []string{"ads.example"},
			DenyDomainSuffixes:  []string{".tracker.example"},
			DenyResponse:        DenyResponseReject,
			DNS:                 &DNSConfig{RebindProtection: ptr(false), Nameservers: []string{"127.0.0.1:5353"}, QueryTimeoutMs: ptr(uint64(500))},
			DNSRebindProtection: ptr(true),
			TLS:                 &TLSConfig{BlockQUIC: ptr(true)},
			OnSecretViolation:   ViolationActionBlock,
			TrustHostCAs:        ptr(false),
			Ports:               map[uint16]uint16{8081: 81},
			PortBindings:        []PortBinding{{Bind: "0.0.0.0", HostPort: 82, GuestPort: 82}},
			IPv4Pool:            "10.7.1.1/16",
			IPv6Pool:            "fd07::/48",
			MTU:                 9000,
			MaxConnections:      ptr(uint(10)),
			Limits:              &NetworkLimits{ptr(uint(1)), ptr(uint(2)), ptr(uint(0)), ptr(uint64(4 << 20)), ptr(uint(0))},
			RateLimiter:         &NetworkRateLimiterConfig{Egress: &RateLimiterConfig{Bandwidth: &TokenBucketConfig{1 << 20, time.Second, 5}}},
		},
	}
}

// compareCompiled compares what is comparable of two compiled configurations.
var compareCompiled = cmp.Options{
	cmp.Comparer(func(a, b *policy.Policy) bool {
		return fmt.Sprint(a.Rules(), a.Default(policy.Egress), a.Default(policy.Ingress)) ==
			fmt.Sprint(b.Rules(), b.Default(policy.Egress), b.Default(policy.Ingress))
	}),
	cmpopts.EquateComparable(vnet.Pool{}, netip.Addr{}, netip.AddrPort{}),
}

// TestProcessGetsTheSame checks that the sandbox's process compiles from JSON
// what the creator compiled from the options.
func TestProcessGetsTheSame(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]SandboxConfig{"empty": {}, "everything": everything()} {
		var c checker
		want := c.compile(&cfg)
		if err := c.err(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		raw, err := wireOf(&cfg)
		if err != nil {
			t.Fatal(err)
		}
		got, err := compileJSON(raw)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff(want, got, compareCompiled); diff != "" {
			t.Errorf("%s: creator and process differ:\n%s", name, diff)
		}
		back, _, err := parseWire(raw)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(cfg, back, cmpopts.IgnoreUnexported(SandboxConfig{})); diff != "" {
			t.Errorf("%s: JSON changes the configuration:\n%s", name, diff)
		}
	}
}

// TestCompile checks what fields become, one by one.
func TestCompile(t *testing.T) {
	t.Parallel()
	cfg := everything()
	var c checker
	got := c.compile(&cfg)
	n := got.Network
	for name, ok := range map[string]bool{
		"host bits of a pool are masked":       strings.HasPrefix(n.Pool.String(), "10.7.0.0/16 "),
		"MTU":                                  n.MTU == 9000,
		"reject":                               n.Reject,
		"explicit connections":                 n.Limits.TCPFlows == 10,
		"0 held flows is none":                 n.Limits.HeldFlows == -1,
		"0 queries per second is no limit":     n.DNSQueriesPerSecond == -1,
		"buffer":                               n.Limits.BufferBytes == 4<<20,
		"query timeout":                        n.QueryTimeout == 500*time.Millisecond,
		"nameserver":                           len(n.Nameservers) == 1 && n.Nameservers[0].String() == "127.0.0.1:5353",
		"rate":                                 n.RateLimit.Egress.Bandwidth == vnet.Bucket{Size: 1 << 20, Refill: time.Second, Burst: 5},
		"all ports":                            len(n.Ports) == 5,
		"deny lists first":                     n.Policy.Rules()[0].String() == "deny egress ads.example",
		"a suffix of a deny list and its apex": n.Policy.Rules()[1].String() == "deny egress tracker.example" && n.Policy.Rules()[2].String() == "deny egress .tracker.example",
		"then the preset":                      n.Policy.Rules()[3].Source == "preset public-only",
		"then the rules":                       n.Policy.Rules()[5].Source == "Rules[0]",
		"an explicit default":                  n.Policy.Default(policy.Ingress) == policy.Deny,
	} {
		if !ok {
			t.Errorf("%s: not in %+v", name, n)
		}
	}
	cfg = SandboxConfig{Network: NetworkPolicy.None()}
	if got := c.compile(&cfg); got.Network != nil {
		t.Errorf("preset none: network %+v, want nil", got.Network)
	}
	if err := c.err(); err != nil {
		t.Error(err)
	}
}

// TestRebindProtection checks that the nested value wins where it is set.
func TestRebindProtection(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		nested, beside *bool
		want           bool
	}{
		{nil, nil, true}, {nil, ptr(false), false}, {nil, ptr(true), true},
		{ptr(false), nil, false}, {ptr(false), ptr(true), false}, {ptr(true), ptr(false), true},
	} {
		n := NetworkConfig{DNS: &DNSConfig{RebindProtection: tt.nested}, DNSRebindProtection: tt.beside}
		if got := n.rebindProtection(); got != tt.want {
			t.Errorf("nested %v, beside %v: %v, want %v", tt.nested, tt.beside, got, tt.want)
		}
	}
}

// TestIntercepts checks which settings switch interception on.
func TestIntercepts(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		tls  *TLSConfig
		want bool
		quic policy.QUICMode
	}{
		{nil, false, policy.QUICByRule},
		{&TLSConfig{}, true, policy.QUICByRule},
		{&TLSConfig{BlockQUIC: ptr(true)}, false, policy.QUICRefuse},
		{&TLSConfig{BlockQUIC: ptr(false)}, false, policy.QUICPass},
		{&TLSConfig{BlockQUIC: ptr(false), Bypass: []string{"x.example"}}, true, policy.QUICPass},
		{&TLSConfig{BlockQUIC: ptr(true), VerifyUpstream: ptr(true)}, true, policy.QUICRefuse},
		{&TLSConfig{BlockQUIC: ptr(true), InterceptedPorts: []uint16{}}, true, policy.QUICRefuse},
		{&TLSConfig{BlockQUIC: ptr(true), AllowNonTLS: true}, true, policy.QUICRefuse},
	} {
		if got := tt.tls.intercepts(); got != tt.want {
			t.Errorf("%+v: intercepts is %v, want %v", tt.tls, got, tt.want)
		}
		if got := tt.tls.quic(); got != tt.quic {
			t.Errorf("%+v: QUIC mode %v, want %v", tt.tls, got, tt.quic)
		}
	}
}

// TestPorts checks how the ways to publish a port add up.
func TestPorts(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		opts []SandboxOption
		want string // bindings, or the error
	}{
		{"maps merge", []SandboxOption{WithPorts(map[uint16]uint16{1: 10, 2: 20}), WithPorts(map[uint16]uint16{2: 21})}, "tcp 127.0.0.1:1→10 tcp 127.0.0.1:2→21"},
		{"TCP and UDP apart", []SandboxOption{WithPorts(map[uint16]uint16{1: 10}), WithPortsUDP(map[uint16]uint16{1: 11})}, "tcp 127.0.0.1:1→10 udp 127.0.0.1:1→11"},
		{"a later call of bindings wins", []SandboxOption{WithPortBindings(PortBinding{HostPort: 1, GuestPort: 10}), WithPortBindings(PortBinding{Bind: "127.0.0.1", HostPort: 1, GuestPort: 11, Protocol: "tcp"})}, "tcp 127.0.0.1:1→11"},
		{"free ports add up", []SandboxOption{WithPortBindings(PortBinding{GuestPort: 1}), WithPortBindings(PortBinding{GuestPort: 1})}, "tcp 127.0.0.1:0→1 tcp 127.0.0.1:0→1"},
		{"the same twice counts once", []SandboxOption{WithPorts(map[uint16]uint16{1: 10}), WithPortBindings(PortBinding{HostPort: 1, GuestPort: 10}), WithNetwork(&NetworkConfig{Ports: map[uint16]uint16{1: 10}})}, "tcp 127.0.0.1:1→10"},
		{"in any order", []SandboxOption{WithNetwork(&NetworkConfig{Ports: map[uint16]uint16{1: 10}}), WithPorts(map[uint16]uint16{1: 10})}, "tcp 127.0.0.1:1→10"},
		{"another way, another guest port", []SandboxOption{WithPorts(map[uint16]uint16{1: 10}), WithNetwork(&NetworkConfig{Ports: map[uint16]uint16{1: 11}})}, `Ports[1]: "127.0.0.1:1/tcp": is published for guest port 11 here and 10 by WithPorts[1]; drop one of them`},
		{"all addresses are another address", []SandboxOption{WithPorts(map[uint16]uint16{1: 10}), WithPortBindings(PortBinding{Bind: "0.0.0.0", HostPort: 1, GuestPort: 11})}, "tcp 127.0.0.1:1→10 tcp 0.0.0.0:1→11"},
		{"mapped addresses are IPv4", []SandboxOption{WithPortBindings(PortBinding{Bind: "::ffff:127.0.0.1", HostPort: 1, GuestPort: 11})}, "tcp 127.0.0.1:1→11"},
		{"the last network wins whole", []SandboxOption{WithNetwork(&NetworkConfig{Ports: map[uint16]uint16{1: 10}}), WithNetwork(&NetworkConfig{MTU: 1500})}, ""},
		{"no network is the default", []SandboxOption{WithNetwork(&NetworkConfig{Ports: map[uint16]uint16{1: 10}}), WithNetwork(nil)}, ""},
	} {
		var cfg SandboxConfig
		for _, o := range tt.opts {
			o(&cfg)
		}
		var c checker
		var got []string
		for _, b := range c.compilePorts(&cfg) {
			got = append(got, fmt.Sprintf("%v %v→%d", b.Protocol, b.Host, b.GuestPort))
		}
		text := strings.Join(got, " ")
		if err := c.err(); err != nil {
			text = err.Error()
		}
		if text != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.name, text, tt.want)
		}
	}
}

// TestOptionsCopy checks that options take maps and lists by value.
func TestOptionsCopy(t *testing.T) {
	t.Parallel()
	env, ports, cmd := map[string]string{"A": "1"}, map[uint16]uint16{1: 1}, []string{"a"}
	var cfg SandboxConfig
	for _, o := range []SandboxOption{WithEnv(env), WithPorts(ports), WithCmd(cmd...), WithEntrypoint(cmd...), WithEnv(map[string]string{"B": "2"})} {
		o(&cfg)
	}
	env["A"], ports[1], cmd[0] = "x", 9, "x"
	if cfg.Env["A"] != "1" || cfg.Env["B"] != "2" || cfg.Ports[1] != 1 || cfg.Cmd[0] != "a" || cfg.Entrypoint[0] != "a" {
		t.Errorf("configuration follows its caller's values: %+v", cfg)
	}
	if got, want := cfg.command(), []string{"a", "a"}; !slices.Equal(got, want) {
		t.Errorf("command %q, want %q", got, want)
	}
}

// TestStrictJSON checks that a configuration's JSON with unknown parts is
// refused, at any depth.
func TestStrictJSON(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		`{"imag": "x"}`,
		`{"network": {"rule": []}}`,
		`{"network": {"rules": [{"actoin": "allow"}]}}`,
		`{"network": {"rate_limiter": {"egress": {"ops": {"size": 1, "refill_time": "1s", "burst": 1}}}}}`,
		`{"network": {"rate_limiter": {"egress": {"ops": {"size": 1, "refill_time": "soon"}}}}}`,
		`{} {}`,
		`[]`,
	} {
		var cfg SandboxConfig
		if err := json.Unmarshal([]byte(text), &cfg); err == nil {
			t.Errorf("%s: was read as %+v", text, cfg)
		}
		if _, err := compileJSON(json.RawMessage(text)); control.AsFailure(err).Kind != control.KindInternal {
			t.Errorf("%s: compiles with %v", text, err)
		}
	}
}

// TestSecretIsSilent checks that a value shows in no way of printing an entry.
func TestSecretIsSilent(t *testing.T) {
	t.Parallel()
	const value = "hunter2-and-more"
	s := Secret.Env("KEY", value, SecretEnvOptions{AllowHosts: []string{"api.example.com"}})
	cfg := SandboxConfig{Secrets: []SecretEntry{s}}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "secret", s, "all", cfg.Secrets)
	texts := []string{log.String()}
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		texts = append(texts, fmt.Sprintf(format, s), fmt.Sprintf(format, &s), fmt.Sprintf(format, cfg.Secrets), fmt.Sprintf(format, cfg))
	}
	raw, err := json.Marshal(&cfg)
	if err != nil {
		t.Fatal(err)
	}
	texts = append(texts, string(raw))
	for _, text := range texts {
		if strings.Contains(text, value) || strings.Contains(text, fmt.Sprintf("%x", value)) {
			t.Errorf("the value shows in %s", text)
		}
	}
}

// TestErrors checks texts and matching of errors.
func TestErrors(t *testing.T) {
	t.Parallel()
	cause := errors.New("cause")
	for _, tt := range []struct {
		err  error
		text string
		is   []error
		not  []error
	}{
		{&Error{}, "unknown", []error{ErrUnknown}, []error{ErrIO}},
		{&Error{Kind: ErrTLS, Op: "op", Field: "F[0]", Value: "a b", Message: "no word", Hint: "hint"}, `op: F[0]: "a b": no word; hint`, []error{ErrTLS}, nil},
		{&Error{Kind: ErrIO, Op: "op", Message: "message", Hint: "hint", Cause: cause}, "op: message: cause; hint", []error{ErrIO, cause}, []error{ErrUnknown}},
		{&Error{Kind: ErrIO, Op: "op", Cause: cause}, "op: cause", []error{cause}, nil},
		{&Error{Kind: ErrUnsupportedOperation, Op: "op"}, "op", []error{ErrUnsupportedOperation, errors.ErrUnsupported}, nil},
		{withOp("op", &control.Failure{Kind: "exec failed", Message: "no", Code: 127}), "op: no", []error{ErrExecFailed}, nil},
		{withOp("op", &control.Failure{Kind: "from the future", Message: "no", Hint: "update"}), "op: no; update", []error{ErrUnknown}, nil},
		{withOp("op", fmt.Errorf("x: %w", control.ErrGone)), "op: the sandbox has ended", []error{ErrSandboxNotRunning}, nil},
		{withOp("op", context.DeadlineExceeded), "op: context deadline exceeded", []error{ErrCancelled, context.DeadlineExceeded}, nil},
		{fmt.Errorf("wrapped: %w", &Error{Kind: ErrTLS}), "wrapped: tls", []error{ErrTLS}, nil},
	} {
		if got := tt.err.Error(); got != tt.text {
			t.Errorf("text %q, want %q", got, tt.text)
		}
		for _, target := range tt.is {
			if !errors.Is(tt.err, target) {
				t.Errorf("%v: is not %v", tt.err, target)
			}
		}
		for _, target := range tt.not {
			if errors.Is(tt.err, target) {
				t.Errorf("%v: is %v", tt.err, target)
			}
		}
	}
	var c checker
	c.fail(ErrTLS, "A", "1", "is wrong", "")
	c.fail(ErrTLS, "B", "", "is wrong", "")
	if all := c.err().(*Error).Problems(); len(all) != 2 || all[1].Field != "B" || len(all[0].Problems()) != 1 {
		t.Errorf("problems %v", all)
	}
	var failure *ExecFailure
	if err := withOp("op", &control.Failure{Kind: "exec failed", Code: 126}); !errors.As(err, &failure) || failure.Code != 126 {
		t.Errorf("no ExecFailure with code 126 in %v", err)
	}
}

// TestKindNames checks that names and kinds go both ways, and that what the
// sandbox's process says has a kind here.
func TestKindNames(t *testing.T) {
	t.Parallel()
	for k := ErrUnknown; k <= ErrNoDefaultCommand; k++ {
		if got := kindNamed(k.String()); got != k {
			t.Errorf("kind %d is named %q, which is kind %d", int(k), k, int(got))
		}
	}
	for _, name := range []string{
		control.KindExists, control.KindNotRunning, control.KindExecFailed, control.KindInvalid, control.KindArgument,
		control.KindUnsupported, control.KindIO, control.KindCancelled, control.KindInternal,
	} {
		if kindNamed(name) == ErrUnknown {
			t.Errorf("kind %q has no number", name)
		}
	}
	if got := ErrorKind(999).String(); got != "ErrorKind(999)" {
		t.Errorf("unknown kind prints %q", got)
	}
}

// TestEventHoldsEverything checks that the public type has every field that a
// sandbox writes: it gives each line back as it was.
func TestEventHoldsEverything(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../internal/sandbox/testdata/events.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	types := make(map[string]bool)
	for line := range bytes.Lines(text) {
		var e Event
		if err := unmarshalStrict(line, &e); err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		types[e.Type] = true
		var got, want map[string]any
		again, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(json.Unmarshal(again, &got), json.Unmarshal(line, &want)); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: (-written +public)\n%s", line, diff)
		}
	}
	for _, name := range []string{
		EventFlowOpen, EventFlowDeny, EventFlowClose, EventDNSQuery, EventLimitHit, EventDropped, EventPortPublish,
		EventPortUnpublish, EventWarning, EventLog, EventSandboxStarted, EventSandboxStopped,
	} {
		if !types[name] {
			t.Errorf("no %s is written", name)
		}
	}
}
