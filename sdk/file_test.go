package sdk

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestParseNetworkConfig checks files that are read.
func TestParseNetworkConfig(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, text string
		want       NetworkConfig
	}{
		{"preset", "version: 1\npolicy: none\n", NetworkConfig{Policy: "none"}},
		{"version alone", "version: 1", NetworkConfig{}},
		{"comments", "# ours\nversion: 1 # first\n", NetworkConfig{}},
		{"rules", "version: 1\nrules:\n- action: allow\n  destination: .example.com\n  port: 443\n  protocols: [tcp]\n", NetworkConfig{Rules: []PolicyRule{{Action: "allow", Destination: ".example.com", Port: "443", Protocols: []PolicyProtocol{"tcp"}}}}},
		{"ports as numbers", "version: 1\nrules: [{action: deny, ports: [80, 90-99]}]", NetworkConfig{Rules: []PolicyRule{{Action: "deny", Ports: []string{"80", "90-99"}}}}},
		{"published", "version: 1\nports: {8080: 80}\nport_bindings: [{bind: '::', host_port: 1, guest_port: 2, protocol: udp}]", NetworkConfig{Ports: map[uint16]uint16{8080: 80}, PortBindings: []PortBinding{{"::", 1, 2, "udp"}}}},
		{"an address with colons", "version: 1\nrules: [{action: allow, destination: '2001:db8::1'}]", NetworkConfig{Rules: []PolicyRule{{Action: "allow", Destination: "2001:db8::1"}}}},
		{"booleans", "version: 1\ndns: {rebind_protection: false}", NetworkConfig{DNS: &DNSConfig{RebindProtection: ptr(false)}}},
		{"zero", "version: 1\nmax_connections: 0", NetworkConfig{MaxConnections: ptr(uint(0))}},
		{"duration", "version: 1\nrate_limiter: {egress: {ops: {size: 5, refill_time: 1m40s}}}", NetworkConfig{RateLimiter: &NetworkRateLimiterConfig{Egress: &RateLimiterConfig{Ops: &TokenBucketConfig{Size: 5, RefillTime: 100 * time.Second}}}}},
		{"JSON", `{"version": 1, "deny_domains": ["ads.example"], "tls": {"block_quic": true}}`, NetworkConfig{DenyDomains: []string{"ads.example"}, TLS: &TLSConfig{BlockQUIC: ptr(true)}}},
	} {
		got, err := ParseNetworkConfig([]byte(tt.text))
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if diff := cmp.Diff(tt.want, *got); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", tt.name, diff)
		}
	}
}

// TestParseNetworkConfigErrors checks what is said of files that are refused,
// letter by letter.
func TestParseNetworkConfigErrors(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, text, want string }{
		{"empty", "", "is empty; write version: 1 and the fields of the network's configuration"},
		{"no mapping", "x", "line 1, column 1: string was used where mapping is expected"},
		{"no version", "policy: none", "has no version; write version: 1 at its top"},
		{"another version", "version: 2", `version: "2": this sluice reads version 1`},
		{"unknown key", "version: 1\nzzz: 1", `line 2, column 1: "zzz": no such key`},
		{"near key", "version: 1\nPolicy: x", `line 2, column 1: "Policy": no such key; did you mean "policy"?`},
		{"near key of a rule", "version: 1\nrules:\n  - acton: allow", `line 3, column 5: "acton": no such key; did you mean "action"?`},
		{"a key of elsewhere", "version: 1\naction: allow", `line 2, column 1: "action": no such key`},
		{"near key far below", "version: 1\nrate_limiter:\n  egress:\n    ops: {size: 5, refill_tme: 1s}", `line 4, column 20: "refill_tme": no such key; did you mean "refill_time"?`},
		{"near key in JSON", `{"version": 1, "rule": []}`, `line 1, column 16: "rule": no such key; did you mean "rules"?`},
		{"key twice", "version: 1\nmtu: 1400\nmtu: 1500", `line 3, column 1: mapping key "mtu" already defined at [2:1]`},
		{"two documents", "version: 1\n---\nversion: 1", "holds more than one document; keep one"},
		{"number too large", "version: 1\nmtu: 99999", `line 2, column 6: "99999": not a whole number from 0 to 65535`},
		{"negative", "version: 1\ndns: {query_timeout_ms: -1}", `line 2, column 25: "-1": not a whole number from 0 to 18446744073709551615`},
		{"list for a number", "version: 1\nmtu: [1]", "line 2, column 6: not a whole number from 0 to 65535"},
		{"text for a boolean", "version: 1\ndns: {rebind_protection: maybe}", "line 2, column 26: not true or false"},
		{"text for a port", "version: 1\nports: {http: 80}", "line 2, column 9: not a whole number from 0 to 65535"},
		{"text for a mapping", "version: 1\ntls: on", "line 2, column 6: string was used where mapping is expected"},
		{"bad duration", "version: 1\nrate_limiter: {egress: {ops: {size: 1, refill_time: soon}}}", ""},
		{"anchor", "version: 1\nrules:\n- &a {action: allow}\n- *a", "line 3, column 3: tags, anchors and aliases are not read; write the value itself"},
		{"alias of itself", "version: 1\nrules: &a [*a]", "line 2, column 8: tags, anchors and aliases are not read; write the value itself"},
		{"merge", "version: 1\n<<: {policy: none}", "line 2, column 1: tags, anchors and aliases are not read; write the value itself"},
		{"tag", "version: 1\nrules: [{action: allow, ports: !x 0}]", "line 2, column 32: tags, anchors and aliases are not read; write the value itself"},
		{"unclosed list", "version: 1\nrules: [x", "line 2, column 8: sequence end token ']' not found"},
		{"too long", strings.Repeat("#\n", maxFile), "is longer than 1048576 bytes"},
	} {
		_, err := ParseNetworkConfig([]byte(tt.text))
		if err == nil {
			t.Errorf("%s: was read", tt.name)
			continue
		}
		if !IsKind(err, ErrInvalidConfig) {
			t.Errorf("%s: kind of %v: want %v", tt.name, err, ErrInvalidConfig)
		}
		if tt.want != "" && err.Error() != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.name, err, tt.want)
		}
	}
}

// TestLoadNetworkConfig checks that errors name the file.
func TestLoadNetworkConfig(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "p.yaml")
	if err := os.WriteFile(path, []byte("version: 1\nmtus: 1"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := LoadNetworkConfig(path)
	if want := "read policy file " + path + `: line 2, column 1: "mtus": no such key; did you mean "mtu"?`; err == nil || err.Error() != want {
		t.Errorf("error:\n got %v\nwant %s", err, want)
	}
	if _, err := LoadNetworkConfig(path + ".none"); !IsKind(err, ErrPathNotFound) {
		t.Errorf("a file that isn't there: %v", err)
	}
}

// TestNearest checks what counts as near.
func TestNearest(t *testing.T) {
	t.Parallel()
	keys := []string{"policy", "port", "ports", "rules"}
	for word, want := range map[string]string{
		"polcy": "policy", "Ports": "ports", "prot": "port", "rule": "rules", "pol": "policy", "x": "", "interface": "", "": "",
	} {
		if got := nearest(word, keys); got != want {
			t.Errorf("nearest to %q is %q, want %q", word, got, want)
		}
	}
}

// FuzzParseNetworkConfig checks that no file makes the parser panic, and that
// what it reads survives being written as JSON, which is YAML.
func FuzzParseNetworkConfig(f *testing.F) {
	f.Add("version: 1\npolicy: none\n")
	f.Add("version: 1\nrules:\n- action: allow\n  ports: [1, 2-3]\n")
	f.Add(`{"version": 1, "dns": {"nameservers": ["::1"]}, "rate_limiter": {"ingress": {"ops": {"size": 1, "refill_time": "1ms"}}}}`)
	f.Add("version: 1\nrules: &a [*a]\n")
	f.Add("version: 1\nports: {1: 2}\nzz: {")
	f.Fuzz(func(t *testing.T, text string) {
		n, err := ParseNetworkConfig([]byte(text))
		if err != nil {
			return
		}
		first, err := json.Marshal(n)
		if err != nil {
			t.Fatalf("%+v can't be written: %v", n, err)
		}
		again, err := ParseNetworkConfig(append([]byte(`{"version": 1, `), first[1:]...))
		if string(first) == "{}" {
			again, err = ParseNetworkConfig([]byte(`{"version": 1}`))
		}
		if err != nil {
			t.Fatalf("%s can't be read: %v", first, err)
		}
		second, err := json.Marshal(again)
		if err != nil {
			t.Fatal(err)
		}
		if string(first) != string(second) {
			t.Errorf("reading and writing changes\n%s to\n%s", first, second)
		}
		_, _, _ = n.Compile() // whatever it says, it doesn't panic
	})
}
