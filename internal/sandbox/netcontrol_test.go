package sandbox

import (
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/hv/hvtest"
	"github.com/sluicenet/sluice/internal/control"
)

// TestUpdate checks that a policy can be replaced, what can't, and what is told
// of it.
func TestUpdate(t *testing.T) {
	t.Parallel()
	dirs := testDirs(t)
	s := embed(t, dirs, "update", &hvtest.Fake{}, testConfig{Policy: "public-only", Keep: true}).s
	for _, tt := range []struct {
		name string
		cfg  testConfig
		want string // kind of the error; "" is success
		text string // within it
	}{
		{"same", testConfig{Policy: "public-only", Keep: true}, "", ""},
		{"another", testConfig{Policy: "allow-all", Keep: true}, "", ""},
		{"broken", testConfig{Refuse: "no"}, control.KindInvalid, "no"},
		{"pool", testConfig{Policy: "allow-all", Keep: true, Pool4: "10.78.0.0/24"}, control.KindArgument, "IPv4Pool and IPv6Pool: can't be changed"},
		{"limits", testConfig{Policy: "allow-all", Keep: true, TCP: 5}, control.KindArgument, "MaxConnections and Limits"},
		{"none", testConfig{Keep: true}, control.KindArgument, "Policy (to or from none)"},
	} {
		before := s.Stats()
		u, err := s.Update(tt.cfg.raw())
		if kind(err) != tt.want || tt.want != "" && !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.text)
		}
		if tt.want == "" && (u.Generation < 2 || len(u.Warnings) != 1) {
			t.Errorf("%s: %+v", tt.name, u)
		}
		if before.Denied != s.Stats().Denied {
			t.Errorf("%s: denied something", tt.name)
		}
	}
	st, err := Find(dirs, "update")
	if err != nil || !strings.Contains(string(st.Config), "allow-all") {
		t.Errorf("the directory says %s, %v", st.Config, err)
	}
	updates := 0
	for _, line := range events(t, s) {
		if strings.Contains(line, `"type":"policy.update"`) {
			updates++
		}
	}
	if updates != 2 {
		t.Errorf("%d updates were told of", updates)
	}
	none := embed(t, dirs, "none", &hvtest.Fake{}, testConfig{}).s
	if _, err := none.Update(testConfig{Policy: "allow-all"}.raw()); kind(err) != control.KindArgument {
		t.Errorf("a card for a running guest: %v", err)
	}
	if _, err := none.Update(testConfig{}.raw()); kind(err) != control.KindArgument {
		t.Errorf("a policy without a card: %v", err)
	}
	if _, err := none.Explain("https://example.com"); kind(err) != control.KindUnsupported {
		t.Errorf("explain without a card: %v", err)
	}
	if len(none.Flows()) != 0 || none.Stats().TCPFlows != 0 {
		t.Error("flows without a card")
	}
}

// events returns the events so far.
func events(t *testing.T, s *Sandbox) []string {
	t.Helper()
	var lines []string
	err := s.Events(t.Context(), control.EventQuery{}, func(p []byte) error {
		lines = append(lines, strings.Split(strings.TrimSuffix(string(p), "\n"), "\n")...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// TestFixedDifferences checks that equal configurations differ in nothing,
// whatever the order of their ports.
func TestFixedDifferences(t *testing.T) {
	t.Parallel()
	compile := func(c testConfig) Config {
		cfg, err := testCompile(c.raw())
		if err != nil {
			t.Fatal(err)
		}
		return cfg
	}
	a, b := compile(public), compile(testConfig{Policy: "allow-all", Labels: map[string]string{}})
	b.Network.Reject = true
	if fields := fixedDifferences(a, b); len(fields) != 0 {
		t.Errorf("only what may differ does, but %q", fields)
	}
	b.Root, b.CPUs, b.Network.MTU = "/r", 3, 1400
	b.Labels, b.Env = map[string]string{"a": "b"}, map[string]string{"A": "b"}
	b.Patches, b.Mounts = []Patch{{Path: "/p"}}, []hv.Mount{{Target: "/m"}}
	b.Keep, b.Detached, b.MaxDuration, b.IdleTimeout, b.LogLevel = !a.Keep, true, time.Hour, time.Minute, slog.LevelDebug
	want := []string{
		"WithBindRootfs", "WithCPUs", "WithEnv", "WithLabels", "WithPatches and WithScripts", "WithMounts",
		"WithEphemeral", "WithDetached", "WithMaxDuration", "WithIdleTimeout", "WithLogLevel", "MTU",
	}
	if fields := fixedDifferences(a, b); !slices.Equal(fields, want) {
		t.Errorf("%q, want %q", fields, want)
	}
}

// TestExplain checks the stages of an explanation, with live names.
func TestExplain(t *testing.T) {
	t.Parallel()
	s := embed(t, testDirs(t), "explain", &hvtest.Fake{}, public).s
	for _, tt := range []struct {
		target string
		stages string // with their actions
	}{
		{"https://example.com", "dns allow, address allow"},
		{"tcp://10.0.0.1:80", "address deny"},
		{"dns://example.com", "dns allow"},
		{"in://:80", "address allow"},
	} {
		e, err := s.Explain(tt.target)
		var stages []string
		for _, stage := range e.Stages {
			stages = append(stages, stage.Stage+" "+stage.Action)
		}
		if got := strings.Join(stages, ", "); err != nil || got != tt.stages || e.Target != tt.target {
			t.Errorf("%s: %q, %v, want %q", tt.target, got, err, tt.stages)
		}
	}
	if _, err := s.Explain("nonsense"); kind(err) != control.KindArgument {
		t.Errorf("nonsense: %v", err)
	}
}

// TestFlows checks that open flows are listed.
func TestFlows(t *testing.T) {
	t.Parallel()
	s := embed(t, testDirs(t), "flows", &hvtest.Fake{}, public).s
	bound, err := s.Publish(control.Port{Protocol: "tcp", Host: netip.MustParseAddrPort("127.0.0.1:0"), GuestPort: 80})
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", bound.Host.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for { // until it has been accepted
		flows := s.Flows()
		if len(flows) == 0 {
			time.Sleep(time.Millisecond)
			continue
		}
		if f := flows[0]; f.Direction != "ingress" || f.Protocol != "tcp" || f.ID == 0 || f.Dst.Port() != 80 {
			t.Errorf("flow %+v", f)
		}
		return
	}
}
