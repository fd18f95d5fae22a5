package main

import "testing"

// TestPolicyFilePlace checks where fields of the configuration stand in a file.
func TestPolicyFilePlace(t *testing.T) {
	t.Parallel()
	file := policyFile(`version: 1
rules:
  - {action: permit, destination: example.com, port: "0"}
  - action: allow
    destination: "*.example.com"
dns:
  nameservers: [1.1.1.1, "x y"]
tls: {intercepted_ports: [0]}
ipv4_pool: nowhere
`)
	for field, want := range map[string]string{
		"Rules[0].Action":         "line 3: rules[0].action",
		"Rules[0].Ports[0]":       "line 3: rules[0].ports[0]",
		"Rules[1].Destination":    "line 5: rules[1].destination",
		"Rules[1]":                "line 4: rules[1]",
		"Rules[2].Action":         "", // a flag's
		"Rules":                   "line 3: rules",
		"DNS.Nameservers[1]":      "line 7: dns.nameservers[1]",
		"TLS.InterceptedPorts[0]": "line 8: tls.intercepted_ports[0]",
		"IPv4Pool":                "line 9: ipv4_pool",
		"MTU":                     "",
		"WithImage":               "",
		"Rules[0].Action.More":    "",
		"":                        "",
	} {
		if got := file.place(field); got != want {
			t.Errorf("%s: %q, want %q", field, got, want)
		}
	}
	if got := policyFile(nil).place("MTU"); got != "" {
		t.Errorf("no file: %q", got)
	}
}
