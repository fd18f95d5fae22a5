package integration

import (
	"strings"
	"testing"

	"github.com/sluicenet/sluice/internal/netlab"
)

// TestPolicyCheck compares what policy check and policy explain say with what
// happens.
func TestPolicyCheck(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	c := newCrowd(t, lab, 116, 2)
	seen, other := c.pair(), c.pair()
	c.named("check.ok.example", seen[:]...)
	c.named("check.no.example", other[:]...)
	c.HTTPS(443, hello)
	c.HTTP(80, hello)
	c.serve(22, greet)
	const curl = "curl -sS -k --max-time 60 "
	targets := []struct{ target, line, prints string }{
		{"https://check.ok.example/", curl + "https://check.ok.example/", "hello"},
		{"https://check.no.example/", curl + "https://check.no.example/", "hello"},
		{"http://check.ok.example/", curl + "http://check.ok.example/", "hello"},
		{"http://check.no.example/", curl + "http://check.no.example/", "hello"},
		{"tcp://check.ok.example:22", "nc -w 1 check.ok.example 22", greeting},
		{"tcp://check.no.example:22", "nc -w 1 check.no.example 22", greeting},
		{"icmp://check.ok.example", "ping -n -c 1 -W 2 check.ok.example", " 0% packet loss"},
		{"icmp://check.no.example", "ping -n -c 1 -W 2 check.no.example", " 0% packet loss"},
		{"dns://check.ok.example", "dig check.ok.example", "NOERROR"},
		{"dns://check.no.example", "dig check.no.example", "NOERROR"},
		{"tcp://" + seen[0].String() + ":22", "nc -n -w 1 " + seen[0].String() + " 22", greeting},
		{"tcp://[" + seen[1].String() + "]:22", "nc -n -w 1 " + seen[1].String() + " 22", greeting},
	}
	for _, flags := range [][]string{
		{"--network", "allow-all"},
		{"--network", "public-only"},
		{"--deny", ".no.example"},
		{"--deny", "check.no.example:443"},
		{"--allow", ".ok.example"},
		{"--allow", "check.ok.example:443"},
		{"--rule", openDNS, "--rule", "deny egress .no.example tcp 443", "--rule", "allow egress .example tcp"},
		{"--rule", "allow egress 93.184.216.0/24 tcp 22", "--rule", "allow egress .ok.example icmpv4,icmpv6"},
	} {
		t.Run(strings.Join(flags, " "), func(t *testing.T) {
			t.Parallel()
			argv := append([]string{"policy", "check"}, flags...)
			var lines []string
			for _, x := range targets {
				argv = append(argv, x.target)
				lines = append(lines, x.line)
			}
			// An address that names are known of is another matter than one without:
			// policy check means the latter, so a guest of its own connects to it.
			byName, byAddr := len(lines)-2, startGuest(t, append(flags, "--deny-response", "reject")...)
			results := append(startGuest(t, append(flags, "--deny-response", "reject")...).together(lines[:byName]), byAddr.together(lines[byName:])...)
			said, _ := runSluice(t, argv...)
			var verdicts []string
			for line := range strings.Lines(said) {
				if verdict, _, ok := strings.Cut(line, " "); ok && (verdict == "allow" || verdict == "deny") {
					verdicts = append(verdicts, verdict)
				}
			}
			if len(verdicts) != len(targets) {
				t.Fatalf("policy check says of %d targets\n%s", len(targets), said)
			}
			for i, x := range targets {
				happened := "deny"
				if strings.Contains(results[i].out, x.prints) {
					happened = "allow"
				}
				if verdicts[i] != happened {
					t.Errorf("policy check says %s of %s, but %s: %+v", verdicts[i], x.target, x.line, results[i])
				}
				explained, code := runSluice(t, append(append([]string{"policy", "explain"}, flags...), x.target)...)
				if (code == 0) != (happened == "allow") {
					t.Errorf("policy explain exits with %d for %s, want %s\n%s", code, x.target, happened, explained)
				}
			}
		})
	}
}

// TestDeadRules shows that a denial which can't do anything is an error that says
// what to do.
func TestDeadRules(t *testing.T) {
	t.Parallel()
	netlab.New(t)
	for _, row := range []struct {
		flags []string
		code  int
		says  string
	}{
		{[]string{"--network", "public-only", "--rule", "deny egress evil.example"}, 125, "drop Policy and write Rules"},
		{[]string{"--network", "allow-all", "--rule", "allow *", "--rule", "deny egress 10.0.0.0/8"}, 125, "Rules[1]"},
		{[]string{"--rule", "allow egress public", "--rule", "deny egress evil.example"}, 125, "Rules[1]"},
		{[]string{"--rule", "allow egress .example", "--rule", "deny egress evil.example tcp 443"}, 125, "Rules[1]"},
		{[]string{"--rule", "deny egress evil.example", "--rule", "allow egress public"}, 0, ""},
		{[]string{"--deny", "evil.example"}, 0, ""},
		{[]string{"--rule", "allow egress public tcp 443", "--rule", "deny egress evil.example"}, 0, ""},
		{[]string{"--rule", "allow egress *.example"}, 125, ".example"},
		{[]string{"--rule", "allow egress meta"}, 125, "metadata"},
		{[]string{"--rule", "allow ingress evil.example"}, 125, "ngress"},
		{[]string{"--rule", "allow egress evil.example icmpv4 80"}, 125, "port"},
	} {
		argv := append(append([]string{"run", "--backend", "namespace"}, row.flags...), "--", "true")
		if out, code := runSluice(t, argv...); code != row.code || !strings.Contains(out, row.says) {
			t.Errorf("sluice run %q: exit code %d, want %d and %q in\n%s", row.flags, code, row.code, row.says, out)
		}
		checked, code := runSluice(t, append(append([]string{"policy", "check"}, row.flags...), "dns://x.example")...)
		if (row.code != 0) != (code == 2) {
			t.Errorf("sluice policy check %q: exit code %d\n%s", row.flags, code, checked)
		}
	}
}
