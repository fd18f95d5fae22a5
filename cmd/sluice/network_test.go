package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	m "github.com/sluicenet/sluice/sdk"
)

// parseNetwork reads a command line's network flags.
func parseNetwork(args string) (*m.NetworkConfig, *networkFlags, error) {
	var f networkFlags
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	f.register(flags)
	if err := flags.Parse(strings.Fields(args)); err != nil {
		return nil, nil, err
	}
	n, err := f.config()
	return n, &f, err
}

// rules prints a configuration's rules in a line.
func rules(n *m.NetworkConfig) string {
	var words []string
	for _, r := range n.Rules {
		text := string(r.Action) + " " + r.Destination
		for _, p := range r.Protocols {
			text += " " + string(p)
		}
		for _, p := range r.Ports {
			text += " " + p
		}
		words = append(words, text)
	}
	return strings.Join(words, "; ")
}

// TestNetworkFlags checks what flags become: the preset that is left, the rules,
// and the default for egress.
func TestNetworkFlags(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "p.yaml")
	if err := os.WriteFile(file, []byte("version: 1\npolicy: non-local\ndns: {query_timeout_ms: 5}\nrules: [{action: allow, destination: x.example}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const public = "allow host tcp udp 53; allow public"
	for _, tt := range []struct {
		args   string
		preset m.NetworkPolicyPreset
		rules  string
		egress m.PolicyAction
	}{
		{"", "", "", ""},
		{"--network public", "public-only", "", ""},
		{"--network all", "allow-all", "", ""},
		{"--network non-local", "non-local", "", ""},
		{"--network none", "none", "", ""},
		{"--allow a.example", "", "allow a.example", ""},
		{"--allow a.example:443,10.0.0.0/8 --allow host:80-90", "", "allow a.example 443; allow 10.0.0.0/8; allow host 80-90", ""},
		{"--network public --allow 10.0.0.1:80", "public-only", "allow 10.0.0.1 80", ""},
		{"--deny ads.example", "", "deny ads.example; " + public, "deny"},
		{"--network non-local --deny 10.0.0.1", "", "deny 10.0.0.1; " + public + "; allow private", "deny"},
		{"--network all --deny 10.0.0.1", "", "deny 10.0.0.1", "allow"},
		{"--allow a.example --deny b.example", "", "deny b.example; allow a.example", ""},
		{"--policy " + file, "non-local", "allow x.example", ""},
		{"--policy " + file + " --allow y.example", "non-local", "allow x.example; allow y.example", ""},
		{"--policy " + file + " --deny z.example", "", "deny z.example; " + public + "; allow private; allow x.example", "deny"},
	} {
		n, _, err := parseNetwork(tt.args)
		if err != nil {
			t.Errorf("%s: %v", tt.args, err)
			continue
		}
		if n.Policy != tt.preset || rules(n) != tt.rules || n.DefaultEgress != tt.egress {
			t.Errorf("%s:\n got %q, %q, %q\nwant %q, %q, %q", tt.args, n.Policy, rules(n), n.DefaultEgress, tt.preset, tt.rules, tt.egress)
		}
		if _, _, err := n.Compile(); err != nil {
			t.Errorf("%s: %v", tt.args, err)
		}
	}
}

// TestNetworkFlagsErrors checks flags that make no sense.
func TestNetworkFlagsErrors(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"--network lan":                      `--network "lan": want none, public-only, non-local or allow-all`,
		"--network public --policy p.yaml":   "exclude each other",
		"--policy missing.yaml":              "no such file",
		"--network none --deny x.example":    "--network none leaves nothing to rule",
		"--allow meta":                       "no such group",
		"--allow a.example:http":             `"http": no such protocol`,
		"--allow https://a.example/":         "is a URL; write its HOST[:PORT]",
		"--dns ,":                            "is empty",
		"--publish 0":                        "a port is a number",
		"--allow a.example:0":                "no port",
		"--deny ,":                           "names nothing",
		"--max-connections many":             "want a number from 0 to 65536",
		"--max-connections -1":               "want a number from 0 to 65536",
		"--rule allow":                       "a rule has an action and a destination",
		"--allow 2001:db8::1:80x":            "no port",
		"--publish 80 --network public --no": "unknown flag",
	} {
		if _, _, err := parseNetwork(args); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", args, err, want)
		}
	}
}

// TestOtherNetworkFlags checks the flags beside rules.
func TestOtherNetworkFlags(t *testing.T) {
	t.Parallel()
	n, f, err := parseNetwork("--max-connections 0 --dns 10.0.0.1,ns.example:53 --dns ::1 --deny-response reject --ipv4-pool 10.9.0.0/16 --ipv6-pool fd09::/48")
	if err != nil {
		t.Fatal(err)
	}
	if n.MaxConnections == nil || *n.MaxConnections != 0 || n.DenyResponse != "reject" || n.IPv4Pool != "10.9.0.0/16" || n.IPv6Pool != "fd09::/48" {
		t.Errorf("%+v", n)
	}
	if got := strings.Join(n.DNS.Nameservers, " "); got != "10.0.0.1 ns.example:53 ::1" {
		t.Errorf("nameservers %q", got)
	}
	if !f.implicit() {
		t.Error("no flag is about the policy, and it isn't implicit")
	}
}

// TestSplitTarget checks how hosts and ports are told apart.
func TestSplitTarget(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][2]string{
		"a.example":          {"a.example", ""},
		"a.example:443":      {"a.example", "443"},
		".example:80-90":     {".example", "80-90"},
		"10.0.0.1":           {"10.0.0.1", ""},
		"10.0.0.1:80":        {"10.0.0.1", "80"},
		"10.0.0.0/8:80":      {"10.0.0.0/8", "80"},
		"2001:db8::1":        {"2001:db8::1", ""},
		"2001:db8::/32":      {"2001:db8::/32", ""},
		"[2001:db8::1]":      {"2001:db8::1", ""},
		"[2001:db8::1]:80":   {"2001:db8::1", "80"},
		"[2001:db8::/32]:80": {"2001:db8::/32", "80"},
		"host":               {"host", ""},
		"host:8080":          {"host", "8080"},
		"*:53":               {"*", "53"},
	} {
		if host, port := splitTarget(text); host != want[0] || port != want[1] {
			t.Errorf("%s is %q and %q, want %q", text, host, port, want)
		}
	}
}

// TestParsePublish checks the forms of --publish.
func TestParsePublish(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]m.PortBinding{
		"80":              {GuestPort: 80},
		"8080:80":         {HostPort: 8080, GuestPort: 80},
		"0:80":            {GuestPort: 80},
		":80":             {GuestPort: 80},
		"53:53/udp":       {HostPort: 53, GuestPort: 53, Protocol: "udp"},
		"80/tcp":          {GuestPort: 80, Protocol: "tcp"},
		"0.0.0.0:8080:80": {Bind: "0.0.0.0", HostPort: 8080, GuestPort: 80},
		"127.0.0.1::80":   {Bind: "127.0.0.1", GuestPort: 80},
		"[::1]:8080:80":   {Bind: "::1", HostPort: 8080, GuestPort: 80},
		"[::]::80/udp":    {Bind: "::", GuestPort: 80, Protocol: "udp"},
	} {
		if got, err := parsePublish(text); err != nil || got != want {
			t.Errorf("%s is %+v, %v, want %+v", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"":                   "a port is a number",
		"0":                  "a port is a number",
		"http:80":            "a port is a number",
		"8080:http":          "a port is a number",
		"99999:80":           "a port is a number",
		"127.0.0.1:99999:80": "a port is a number",
		"80:80:80:80":        `"80:80" is no address`,
		"nowhere:80:80":      `"nowhere" is no address`,
		"80/sctp":            `"sctp" is no protocol; write [ADDR:][HOSTPORT]:PORT[/udp]`,
	} {
		if got, err := parsePublish(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s is %+v, %v, want %q", text, got, err, want)
		}
	}
}

// TestMemory checks the forms of --memory.
func TestMemory(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]mebibytes{"512": 512, "512m": 512, "2g": 2048, "2G": 2048, "0": 0} {
		var got mebibytes
		if err := got.Set(text); err != nil || got != want {
			t.Errorf("%s is %d, %v, want %d", text, got, err, want)
		}
	}
	for _, bad := range []string{"", "m", "-1", "1t", "1.5g", "9999999", "9999999999999999999g"} {
		if err := new(mebibytes).Set(bad); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

// TestSplitArgs checks what is image and what command.
func TestSplitArgs(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		args  string
		dash  int
		image string
		cmd   string
		err   string
	}{
		{"true", 0, "", "true", ""},
		{"alpine sh -c x", 1, "alpine", "sh -c x", ""},
		{"alpine", -1, "alpine", "", ""},
		{"", -1, "", "", ""},
		{"alpine", 1, "alpine", "", ""},
		{"alpine sh", -1, "", "", `"sh": there is one IMAGE at most`},
		{"alpine debian sh", 2, "", "", `"debian": there is one IMAGE at most`},
	} {
		image, cmd, err := splitArgs(strings.Fields(tt.args), tt.dash)
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%q: %v, want %q", tt.args, err, tt.err)
			}
			continue
		}
		if err != nil || image != tt.image || strings.Join(cmd, " ") != tt.cmd {
			t.Errorf("%q: %q, %q, %v", tt.args, image, cmd, err)
		}
	}
}

// TestEnvironmentFlags checks what --env passes on.
func TestEnvironmentFlags(t *testing.T) {
	t.Setenv("TERM", "dumb")
	t.Setenv("KEY", "value")
	env, err := environment([]string{"KEY", "A=b=c", "EMPTY="})
	if want := "map[A:b=c EMPTY: KEY:value TERM:dumb]"; err != nil || fmt.Sprint(env) != want {
		t.Errorf("environment %v, %v, want %s", env, err, want)
	}
	for _, bad := range []string{"=x", "", "SURELY_NOT_SET"} {
		if _, err := environment([]string{bad}); err == nil {
			t.Errorf("--env %q was read", bad)
		}
	}
}
