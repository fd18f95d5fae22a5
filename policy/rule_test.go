package policy

import (
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestParseRule(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ text, want string }{
		{"allow egress api.example.com tcp 443", "allow egress api.example.com tcp 443"},
		{"deny any 10.0.0.0/8 tcp,udp 80,8000-9000", "deny any 10.0.0.0/8 tcp,udp 80,8000-9000"},
		{"allow api.example.com", "allow egress api.example.com"},
		{"  allow\tAPI.Example.COM. ", "allow egress api.example.com"},
		{"allow *", "allow egress *"},
		{"allow * 443", "allow egress * 443"},
		{"allow * 9", "allow egress * 9"},
		{"allow ingress * 443-443", "allow ingress * 443"},
		{"allow host udp,tcp 53", "allow egress host tcp,udp 53"},
		{"allow host.docker.internal tcp 8080", "allow egress host tcp 8080"},
		{"deny link-local icmpv4,icmpv6", "deny egress link-local icmpv4,icmpv6"},
		{"allow .internal tcp 8000-9000", "allow egress .internal tcp 8000-9000"},
		{"allow meta.", "allow egress meta."},
		{"allow egress.", "allow egress egress."},
		{"allow bücher.example", "allow egress xn--bcher-kva.example"},
		{"allow 10.1.2.3/8", "allow egress 10.0.0.0/8"},
		{"allow 10.1.2.3/32", "allow egress 10.1.2.3"},
		{"allow 2606::1", "allow egress 2606::1"},
		{"allow 2606::1/16", "allow egress 2606::/16"},
		{"allow ::ffff:10.0.0.5", "allow egress 10.0.0.5"},
		{"allow ::ffff:10.0.0.0/104", "allow egress 10.0.0.0/8"},
		{"allow ::ffff:0:0/96", "allow egress 0.0.0.0/0"},
		{"allow ::ffff:0:0/95", "allow egress ::fffe:0:0/95"},
		{"allow 0.0.0.0/0", "allow egress 0.0.0.0/0"},
		{"allow ::/0", "allow egress ::/0"},
	} {
		r, err := ParseRule(row.text)
		if err != nil || r.String() != row.want {
			t.Errorf("ParseRule(%q) = %q, %v, want %q", row.text, r, err, row.want)
		}
	}
}

func TestParseRuleErrors(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ text, want string }{
		{"", "a rule has an action and a destination"},
		{"allow", "a rule has an action and a destination"},
		{"allow egress", "a rule has an action and a destination"},
		{"permit *", `Action: "permit": no such action; write allow or deny`},
		{"Allow *", `Action: "Allow"`},
		{"allow out *", `Protocols[0]: "*": no such protocol`},
		{"allow * icmp", `Protocols[0]: "icmp": no such protocol; write tcp, udp, icmpv4 or icmpv6`},
		{"allow * tcp,", `Protocols[1]`},
		{"allow * tcp 0", `Ports[0]: "0": no port; write a number from 1 to 65535, or a range such as 8000-9000`},
		{"allow * tcp 80,65536", `Ports[1]: "65536"`},
		{"allow * tcp 9000-8000", `Ports[0]: "9000-8000"`},
		{"allow * tcp 080", `Ports[0]: "080"`},
		{"allow * tcp +80", `Ports[0]: "+80"`},
		{"allow * tcp 80-65536", `Ports[0]: "80-65536"`},
		{"allow * tcp 80-", `Ports[0]: "80-"`},
		{"allow * tcp 1-2-3", `Ports[0]: "1-2-3"`},
		{"allow * tcp 80 90", "nothing follows a rule's ports"},
		{"allow * tcp 80, 90", "nothing follows a rule's ports"},
		{"allow * icmpv4 80", "Ports: ICMP has no ports"},
		{"allow ingress * icmpv4", "Direction: \"ingress\": there is no inbound ICMP"},
		{"allow any * tcp,icmpv6", "Direction: \"any\": there is no inbound ICMP"},
		{"allow ingress a.test", `Destination: "a.test": peers have no names`},
		{"allow *.example.com", "for the subdomains write .example.com"},
		{"allow a.*.com", "a domain can't hold `*`; a name is written out"},
		{"allow *.a.*", "a domain can't hold `*`; a name is written out"},
		{"allow meta", "group `metadata`? for a host name write `meta.`"},
		{"allow Public", "group `public`? for a host name write `Public.`"},
		{"allow localhost", "group `host`?"},
		{"allow loop", "group `loopback`?"},
		{"allow hosts", "group `host`?"},
		{"allow intranet", "no such group; groups are public, private"},
		{"allow reserved", "no such group"},
		{"allow 127.1", "neither an address in four decimal parts nor a domain name"},
		{"allow 0x7f.1", "neither an address"},
		{"allow 10.0.0.0/33", "no address range; write it as 10.0.0.0/8"},
		{"allow 10.0.0/8", "no address range"},
		{"allow 1.1.1.1:53", "no address; a port goes into the rule's ports"},
		{"allow fe80::1%eth0", "an address of a rule has no zone; write fe80::1"},
		{"allow .", "no domain name"},
		{"allow ..", "no domain name"},
		{"permit out * tcp 0", "nothing follows"},
	} {
		r, err := ParseRule(row.text)
		if err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("ParseRule(%q) = %v, %v, want %q", row.text, r, err, row.want)
		}
	}
	// All at once.
	_, err := ParseRule("permit meta icmp 0")
	for _, want := range []string{"Action", "Destination", "Protocols[0]", "Ports[0]"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not name %s", err, want)
		}
	}
}

// Single and plural fields give the union; none gives any.
func TestRuleSpec(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		spec RuleSpec
		want string
	}{
		{RuleSpec{Action: "deny"}, "deny egress *"},
		{RuleSpec{Action: "allow", Protocol: "tcp", Protocols: []string{"udp"}}, "allow egress * tcp,udp"},
		{RuleSpec{Action: "allow", Protocol: "tcp", Protocols: []string{"tcp"}}, "allow egress * tcp"},
		{RuleSpec{Action: "allow", Port: "80", Ports: []string{"443", "1-2"}}, "allow egress * 80,443,1-2"},
		{RuleSpec{Action: "allow", Direction: "any", Destination: "private"}, "allow any private"},
		{RuleSpec{Action: "deny", Protocols: []string{"icmpv6", "icmpv4"}}, "deny egress * icmpv4,icmpv6"},
	} {
		r, problems := row.spec.Rule()
		if len(problems.Errors()) > 0 || r.String() != row.want {
			t.Errorf("%+v is %q, %v, want %q", row.spec, r, problems, row.want)
		}
		if back, _ := r.Spec().Rule(); !reflect.DeepEqual(back, r) {
			t.Errorf("%q comes back as %q", r, back)
		}
	}
	for _, row := range []struct {
		spec RuleSpec
		want string
	}{
		{RuleSpec{}, `Action: no such action; write allow or deny`},
		{RuleSpec{Action: "allow", Port: "80,443"}, `Port: "80,443": no port`},
		{RuleSpec{Action: "allow", Ports: []string{"80", ""}}, `Ports[1]: no port`},
		{RuleSpec{Action: "allow", Ports: []string{" 80"}}, `Ports[0]: " 80": no port`},
		{RuleSpec{Action: "allow", Protocol: "sctp"}, `Protocol: "sctp": no such protocol`},
		{RuleSpec{Action: "allow", Direction: "out"}, `Direction: "out": no such direction; write egress, ingress or any`},
	} {
		if _, problems := row.spec.Rule(); problems.Err() == nil || !strings.Contains(problems.Err().Error(), row.want) {
			t.Errorf("%+v: %v, want %q", row.spec, problems, row.want)
		}
	}
}

func TestRuleWarnings(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ text, want string }{
		{"allow any a.test", "a domain is matched for egress only"},
		{"allow any * 80", "the port is the remote one for egress and the guest's for ingress"},
		{"allow any *", ""},
		{"allow a.test 80", ""},
	} {
		r, err := ParseRule(row.text)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, p := range r.check() {
			got = append(got, p.Message)
			if !p.Warning {
				t.Errorf("%s: %v is no warning", row.text, p)
			}
		}
		if strings.Join(got, "; ") != row.want {
			t.Errorf("%s: %q, want %q", row.text, got, row.want)
		}
	}
}

func TestStrings(t *testing.T) {
	t.Parallel()
	var got []string
	add := func(list ...interface{ String() string }) {
		for _, s := range list {
			got = append(got, s.String())
		}
	}
	add(TCP, UDP, ICMPv4, ICMPv6, Protocol(0), Protocol(9), Egress, Ingress, Any, Direction(0), Deny, Allow, Action(7))
	add(StageAddress, StageNoName, StageName, StageMalformed, Stage(9), RefuseNone, RefuseQUIC, RefuseAll, Refusal(9))
	add(GroupNone, GroupPublic, GroupHost, Group(8), ProtocolSet(0), ProtocolsOf(UDP, TCP), PortRange{1, 1}, PortRange{1, 2}, Destination{}, Rule{})
	want := strings.Split("tcp|udp|icmpv4|icmpv6|Protocol(0)|Protocol(9)|egress|ingress|any|Direction(0)|deny|allow|Action(7)|"+
		"address|no-name|name|malformed|Stage(9)|none|quic|all|Refusal(9)|"+
		"reserved|public|host|Group(8)||tcp,udp|1|1-2|*|deny egress *", "|")
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// What parses prints as something that parses to the same rule.
func FuzzParseRule(f *testing.F) {
	for _, s := range []string{
		"allow egress api.example.com tcp 443", "deny any 10.0.0.0/8 tcp,udp 80,8000-9000", "allow meta.", "allow .com", "allow ::ffff:10.0.0.0/104",
		"allow bücher.example", "deny ingress host 1-65535", "allow * icmpv6", "allow ::ffff:0:0/90", "allow ｈｏｓｔ", "allow ⒈com", "allow xn--a.test",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ParseRule(text)
		if err != nil {
			return
		}
		back, err := ParseRule(r.String())
		if err != nil || !reflect.DeepEqual(back, r) || back.String() != r.String() {
			t.Fatalf("%q is %q, which is %q, %v", text, r, back, err)
		}
		if again, problems := r.Spec().Rule(); len(problems.Errors()) > 0 || !reflect.DeepEqual(again, r) {
			t.Fatalf("%q is %+v, which is %q, %v", text, r.Spec(), again, problems)
		}
		if !r.Destination.valid() {
			t.Fatalf("%q has no valid destination: %v", text, r.Destination)
		}
		compile(Config{Rules: []Rule{r}}).lint()
	})
}

// A canonical name is its own canonical form, has labels of legal length and is
// nothing that net/netip reads; what a configuration says is canonical as well.
func FuzzNames(f *testing.F) {
	for _, s := range []string{"a.test", "A.TEST.", "127.1", "0x7f.1", "1.2.3.4", "::1", "xn--zz-", "bücher.example", `a\.b`, "a..b", "１２７.1", "a。b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		name, ok := CanonicalName(s)
		if again, okAgain := CanonicalName(name); ok && (!okAgain || again != name) {
			t.Fatalf("%q is %q, which is %q", s, name, again)
		}
		if ok {
			checkName(t, s, name)
		}
		if parsed, err := ParseName(s); err == nil {
			checkName(t, s, parsed)
			if wire, ok := CanonicalName(parsed); !ok || wire != parsed {
				t.Fatalf("%q parses as %q, on the wire %q", s, parsed, wire)
			}
		}
	})
}

func checkName(t *testing.T, in, name string) {
	t.Helper()
	if looksLikeAddr(name) || strings.ToLower(name) != name || len(name) > maxName {
		t.Fatalf("%q gives %q", in, name)
	}
	for _, label := range strings.Split(name, ".") {
		if label == "" || len(label) > maxLabel || strings.ContainsAny(label, " \x00\\:") {
			t.Fatalf("%q gives %q with label %q", in, name, label)
		}
	}
}
