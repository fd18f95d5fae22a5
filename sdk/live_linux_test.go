package sdk_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	m "github.com/sluicenet/sluice/sdk"
)

// TestUpdateNetwork checks that a policy can be replaced, and nothing else.
func TestUpdateNetwork(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	sb := running(t, "update", m.WithNetwork(&m.NetworkConfig{DefaultEgress: m.PolicyActionDeny, DenyResponse: m.DenyResponseReject, MTU: 1400}))
	explained := func() bool {
		t.Helper()
		e, err := sb.Explain(ctx, "tcp://9.9.9.9:443")
		if err != nil {
			t.Fatal(err)
		}
		if e.Target != "tcp://9.9.9.9:443" || len(e.Stages) == 0 || len(e.Stages[0].Steps) == 0 {
			t.Errorf("explanation %+v", e)
		}
		return e.Allowed()
	}
	if explained() {
		t.Error("allowed before the update")
	}
	up, err := sb.UpdateNetwork(ctx, &m.NetworkConfig{
		Rules: []m.PolicyRule{{Action: m.PolicyActionAllow, Destination: "9.9.9.9"}}, DenyResponse: m.DenyResponseReject, MTU: 1400,
	})
	if err != nil || up.Generation < 2 {
		t.Fatalf("update %+v, %v", up, err)
	}
	if !explained() {
		t.Error("denied after the update")
	}
	if _, err := sb.UpdateNetwork(ctx, &m.NetworkConfig{DefaultEgress: m.PolicyActionDeny, MTU: 1400}); err != nil || explained() {
		t.Errorf("another DenyResponse: %v", err)
	}
	for _, tt := range []struct {
		name string
		n    *m.NetworkConfig
		want string
	}{
		{"another MTU", &m.NetworkConfig{MTU: 1500}, "MTU: can't be changed while the sandbox runs"},
		{"nil, and so another MTU", nil, "MTU: can't be changed while the sandbox runs"},
		{"interception", &m.NetworkConfig{MTU: 1400, TLS: &m.TLSConfig{}}, "TLS: can't be changed while the sandbox runs"},
		{"QUIC", &m.NetworkConfig{MTU: 1400, TLS: &m.TLSConfig{BlockQUIC: new(true)}}, "TLS.BlockQUIC: can't be changed while the sandbox runs"},
		{"rebind protection", &m.NetworkConfig{MTU: 1400, DNSRebindProtection: new(false)}, "DNS.RebindProtection: can't be changed while the sandbox runs"},
		{"two", &m.NetworkConfig{MTU: 1300, TrustHostCAs: new(true)}, "MTU, TrustHostCAs: can't be changed while the sandbox runs"},
		{"none", &m.NetworkConfig{MTU: 1400, Policy: "none"}, "Policy (to or from none): can't be changed"},
		{"an MTU that can't be", &m.NetworkConfig{MTU: 5}, "out of range"},
		{"no such preset", &m.NetworkConfig{MTU: 1400, Policy: "all"}, "no such preset"},
	} {
		if _, err := sb.UpdateNetwork(ctx, tt.n); !m.IsKind(err, m.ErrInvalidArgument) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %s", tt.name, err, tt.want)
		}
	}
	if _, err := sb.Explain(ctx, "gopher://x"); !m.IsKind(err, m.ErrInvalidArgument) {
		t.Errorf("explain what isn't spoken: %v", err)
	}
}

// TestUpdateNetworkDefaults checks that what is written out, and says what the
// sandbox has, is no change.
func TestUpdateNetworkDefaults(t *testing.T) {
	t.Parallel()
	sb := running(t, "update-defaults")
	last := uint64(1) // an address that comes to the host makes a generation too
	for _, n := range []*m.NetworkConfig{
		nil,
		{MTU: 1500},
		{IPv4Pool: "172.16.0.0/12", IPv6Pool: "fd42:6d73:62::/48"},
		{IPv4Pool: "172.17.1.1/12"},
		{DNS: &m.DNSConfig{}},
		{DNS: &m.DNSConfig{RebindProtection: new(true), Nameservers: []string{}, QueryTimeoutMs: new(uint64(4000))}},
		{DNSRebindProtection: new(true), TrustHostCAs: new(false), OnSecretViolation: m.ViolationActionBlockAndLog},
		{MaxConnections: new(uint(4096)), Limits: &m.NetworkLimits{UDPSessions: new(uint(1024)), Inbound: new(uint(1024)), HeldFlows: new(uint(512)), BufferBytes: new(uint64(64 << 20)), DNSQueriesPerSecond: new(uint(200))}},
		{Limits: &m.NetworkLimits{}, Ports: map[uint16]uint16{}, PortBindings: []m.PortBinding{}},
		{Rules: []m.PolicyRule{}, DenyDomains: []string{"a.example"}, DenyResponse: m.DenyResponseDrop},
	} {
		up, err := sb.UpdateNetwork(t.Context(), n)
		if err != nil {
			t.Errorf("%+v: %v", n, err)
			continue
		}
		if up.Generation <= last {
			t.Errorf("%+v: generation %d after %d", n, up.Generation, last)
		}
		last = up.Generation
	}
	secret := running(t, "update-secret", m.WithSecrets(m.Secret.Env("TOKEN", "value-of-it", m.SecretEnvOptions{AllowHosts: []string{"a.example"}})))
	for _, n := range []*m.NetworkConfig{
		{TLS: &m.TLSConfig{}}, // secrets switch interception on
		{TLS: &m.TLSConfig{InterceptedPorts: []uint16{443}, VerifyUpstream: new(true)}, OnSecretViolation: m.ViolationActionBlockAndLog},
	} {
		if _, err := secret.UpdateNetwork(t.Context(), n); err != nil {
			t.Errorf("with a secret, %+v: %v", n, err)
		}
	}
	if _, err := secret.UpdateNetwork(t.Context(), &m.NetworkConfig{OnSecretViolation: m.ViolationActionBlock}); !m.IsKind(err, m.ErrInvalidArgument) {
		t.Errorf("another action: %v", err)
	}
}

// serve makes the guest answer HTTP at a port with a text.
func serve(t *testing.T, sb *m.Sandbox, port, text string) {
	t.Helper()
	script := fmt.Sprintf("mkdir -p /tmp/www && printf %%s '%s' > /tmp/www/index.html && exec busybox httpd -f -p %s -h /tmp/www", text, port)
	h, err := sb.ShellStream(t.Context(), script)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c, err := sb.Dial(t.Context(), "tcp", "127.0.0.1:"+port)
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// TestDial checks connections to the guest, over its card and within it.
func TestDial(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	sb := running(t, "dial", m.WithPortBindings(m.PortBinding{GuestPort: 8080}))
	serve(t, sb, "8080", "hello")
	ports, err := sb.Ports().List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	published := net.JoinHostPort(ports[0].Bind, fmt.Sprint(ports[0].HostPort))
	for name, dial := range map[string]func() (net.Conn, error){
		"over its card": func() (net.Conn, error) { return sb.Dial(ctx, "tcp", ":8080") },
		"within":        func() (net.Conn, error) { return sb.Dial(ctx, "tcp", "127.0.0.1:8080") },
		"published":     func() (net.Conn, error) { return net.Dial("tcp", published) },
	} {
		c, err := dial()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if _, err := io.WriteString(c, "GET / HTTP/1.0\r\n\r\n"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		text, err := io.ReadAll(c)
		if err != nil || !strings.HasSuffix(string(text), "hello") {
			t.Errorf("%s: %q, %v", name, text, err)
		}
		c.Close()
	}
	if c, err := sb.Dial(ctx, "tcp", "127.0.0.1:9"); err == nil {
		c.Close()
		t.Error("nobody listens, and was reached")
	}
	client := sb.HTTPClient()
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://localhost:8080/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusOK || string(text) != "hello" {
		t.Errorf("over HTTP: %q, %v", text, err)
	}
}

// awaitFlow waits until a flow is open.
func awaitFlow(t *testing.T, sb *m.Sandbox) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if flows, err := sb.Flows(t.Context()); err != nil || len(flows) > 0 {
			return
		}
	}
}

// TestFlows checks that a flow is listed while it is open.
func TestFlows(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	sb := running(t, "flows", m.WithPortBindings(m.PortBinding{GuestPort: 8081}))
	serve(t, sb, "8081", "x")
	ports, err := sb.Ports().List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", net.JoinHostPort(ports[0].Bind, fmt.Sprint(ports[0].HostPort)))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\n"); err != nil { // and it waits for the rest
		t.Fatal(err)
	}
	awaitFlow(t, sb)
	flows, err := sb.Flows(ctx)
	if err != nil || len(flows) != 1 || flows[0].Direction != m.PolicyDirectionIngress || flows[0].Protocol != m.PolicyProtocolTCP || flows[0].Dst.Port() != 8081 {
		t.Errorf("flows %+v, %v", flows, err)
	}
	st, err := sb.NetworkStats(ctx)
	if err != nil || st.FramesFromGuest == 0 {
		t.Errorf("stats %+v, %v", st, err)
	}
}

// TestEventsIterator checks which events a filter lets through, past and to come.
func TestEventsIterator(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	sb := running(t, "events-iterator", m.WithNetwork(&m.NetworkConfig{DefaultEgress: m.PolicyActionDeny, DenyResponse: m.DenyResponseReject}))
	if out, err := sb.Shell(ctx, "curl -4s http://host.microsandbox.internal:8080/"); err != nil || out.Success() {
		t.Fatalf("%v, %v", out, err)
	}
	patient, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for e, err := range sb.Events(patient, m.EventFilter{Types: []string{"flow"}, Denied: true}) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Type != m.EventFlowDeny || e.Flow.Dst.Port != 8080 || len(e.Line()) == 0 {
			t.Errorf("event %s", e.Line())
		}
		break
	}
	past := 0
	for _, err := range sb.Events(ctx, m.EventFilter{Past: true}) {
		if err != nil {
			t.Fatal(err)
		}
		past++
	}
	if past < 2 {
		t.Errorf("%d past events", past)
	}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	var last error
	for e, err := range sb.Events(short, m.EventFilter{New: true, Types: []string{"none.such"}}) {
		if last = err; err == nil {
			t.Errorf("event %s", e.Line())
		}
	}
	if !m.IsKind(last, m.ErrCancelled) {
		t.Errorf("ends with %v", last)
	}
	if err := sb.Stop(ctx); err != nil {
		t.Fatal(err)
	}
}

// TestMetricsStream checks that what a sandbox uses is measured again and again.
func TestMetricsStream(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	sb := running(t, "metrics")
	stream, err := sb.MetricsStream(ctx, 20*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	var before time.Duration
	for range 3 {
		mt, err := stream.Recv(ctx)
		if err != nil || mt == nil || mt.Uptime <= before {
			t.Fatalf("%+v, %v", mt, err)
		}
		before = mt.Uptime
	}
	if err := sb.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	for mt, err := stream.Recv(ctx); mt != nil || err != nil; mt, err = stream.Recv(ctx) {
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := sb.MetricsStream(ctx, time.Microsecond); !m.IsKind(err, m.ErrInvalidArgument) && !m.IsKind(err, m.ErrSandboxNotRunning) {
		t.Errorf("every microsecond: %v", err)
	}
}

// TestLogs checks what is kept of what commands wrote, and what options leave out.
func TestLogs(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	sb := running(t, "logs")
	if _, err := sb.Shell(ctx, "echo one; echo two >&2"); err != nil {
		t.Fatal(err)
	}
	if _, err := sb.Shell(ctx, "echo three"); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		o    m.LogOptions
		want string
	}{
		{"all", m.LogOptions{}, "one two three"},
		{"last", m.LogOptions{Tail: 1}, "three"},
		{"errors", m.LogOptions{Sources: []m.LogSource{m.LogSourceStderr}}, "two"},
		{"later", m.LogOptions{Since: time.Now().Add(time.Hour)}, ""},
		{"earlier", m.LogOptions{Until: time.Now().Add(-time.Hour)}, ""},
	} {
		entries, err := sb.Logs(ctx, tt.o)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		words := map[string]bool{}
		for _, e := range entries {
			words[strings.TrimSpace(e.Text())] = true
			if e.Timestamp.IsZero() || e.SessionID == nil || e.Cursor == "" {
				t.Errorf("%s: entry %+v", tt.name, e)
			}
		}
		if len(words) != len(strings.Fields(tt.want)) {
			t.Errorf("%s: %v, want %s", tt.name, words, tt.want)
		}
		for _, word := range strings.Fields(tt.want) {
			if !words[word] {
				t.Errorf("%s: %v, want %s", tt.name, words, tt.want)
			}
		}
	}
	if _, err := sb.Logs(ctx, m.LogOptions{Sources: []m.LogSource{"events"}}); !m.IsKind(err, m.ErrInvalidArgument) {
		t.Errorf("a source that isn't one: %v", err)
	}
	all, err := sb.Logs(ctx, m.LogOptions{})
	if err != nil || len(all) != 3 {
		t.Fatalf("%+v, %v", all, err)
	}
	stream, err := sb.LogStream(ctx, m.LogStreamOptions{FromCursor: all[1].Cursor})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	if e, err := stream.Recv(ctx); err != nil || e == nil || e.Text() != "three\n" {
		t.Errorf("behind the second: %+v, %v", e, err)
	}
	if e, err := stream.Recv(ctx); err != nil || e != nil {
		t.Errorf("behind the last: %+v, %v", e, err)
	}
}
