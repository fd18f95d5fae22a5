package policy

import (
	"slices"
	"strings"
	"testing"
)

// Warnings of the contract that no single rule shows.
func TestWarnings(t *testing.T) {
	t.Parallel()
	const (
		metadata = "opens the cloud's metadata services, such as "
		wayOut   = "every name can be looked up, though public addresses can't all be reached"
		noQuery  = "addresses can be reached, but no name can be looked up"
		nothing  = "nothing may leave the sandbox"
		host     = "opens every service on the host's loopback"
		quic     = "so QUIC passes, whose name is not seen"
	)
	for _, row := range []struct {
		rules string
		want  []string // each begins with the field
	}{
		{"allow public", nil},
		{"allow host udp,tcp 53; allow public; allow private", nil},
		{"allow a.test tcp 443", nil},
		{"deny 1.1.1.1; deny a.test; allow public", nil},
		{"deny loopback; deny 224.0.0.0/4; deny fe80::/10 tcp; allow public", nil},

		// Metadata opened by whatever does not name it.
		{"allow *", []string{"Rules[0] " + metadata + "169.254.169.254"}},
		{"default allow", []string{"DefaultEgress " + metadata + "169.254.169.254"}},
		{"preset allow-all", []string{"Policy " + metadata + "169.254.169.254"}},
		{"deny metadata; default allow", nil},
		{"deny metadata tcp; default allow", []string{"DefaultEgress " + metadata + "169.254.169.254"}},
		{"allow public; allow 169.254.0.0/16", []string{"Rules[1] " + metadata + "169.254.169.254"}},
		{"allow public; allow 100.64.0.0/10 tcp 80", []string{"Rules[1] " + metadata + "100.100.100.200"}},
		{"allow public; allow fd00::/8", []string{"Rules[1] " + metadata + "fd20:ce::254"}},
		{"allow public; allow 169.254.169.254 tcp 80", nil},
		{"allow public; allow 169.254.169.254/31 tcp 80", []string{"Rules[1] " + metadata + "169.254.169.254"}},
		{"allow public; allow metadata", nil},
		{"allow public; allow ingress *", nil},

		// Names that may be looked up, and addresses that may be reached.
		{"allow host udp,tcp 53; allow a.test", []string{"Rules[0] " + wayOut}},
		{"allow host udp,tcp 53", []string{"Rules[0] " + wayOut}},
		{"allow * udp 53", []string{"Rules[0] " + metadata + "169.254.169.254", "Rules[0] " + wayOut}},
		{"allow host udp,tcp 53; allow 1.0.0.0/8", []string{"Rules[0] " + wayOut}},
		{"allow host udp 53; allow a.test", []string{"Rules[0] " + wayOut}},
		{"allow host tcp 53; allow a.test", []string{"Rules[0] " + wayOut}},
		{"deny 1.1.1.1; deny 100.64.0.0/10; allow 0.0.0.0/1; allow 128.0.0.0/1; allow host udp,tcp 53", []string{"Rules[3] " + metadata}},
		{"allow 0.0.0.0/0 udp 53; allow ::/0 udp 53; deny 192.0.2.1; allow host udp,tcp 53",
			[]string{"Rules[0] " + metadata, "Rules[1] " + metadata, "Rules[3] " + wayOut}},
		{"allow public 53-60", nil},
		{"allow host udp,tcp 53; allow 2000::/3; deny 192.0.2.0/24", nil},
		{"deny public; default allow; deny metadata", []string{"DefaultEgress " + wayOut}},
		{"allow public tcp 443", nil},
		{"allow public udp 53", []string{"Rules[0] " + wayOut}},
		{"allow private", []string{"Rules " + noQuery}},
		{"allow 1.1.1.1 tcp 443", []string{"Rules " + noQuery}},
		{"allow private; allow a.test", nil},
		{"deny host udp,tcp 53; allow public", []string{"Rules " + noQuery}},
		{"allow host tcp 8080", nil}, // its names are always answered

		// Nothing may leave.
		{"", []string{"Rules " + nothing}},
		{"deny public", []string{"Rules " + nothing}},
		{"allow loopback", []string{"Rules[0] allows only what is always denied", "Rules " + nothing}},
		{"allow ingress *", []string{"Rules " + nothing}},

		// The host without ports, QUIC, both directions.
		{"allow host; allow public", []string{"Rules[0] " + host}},
		{"allow host tcp; allow public", []string{"Rules[0] " + host}},
		{"allow host udp; allow public", []string{"Rules[0] " + host}},
		{"allow host tcp 8080; allow host icmpv4; allow ingress host; deny host; allow public", nil},
		{"allow a.test udp 443", []string{"Rules[0] lists udp and port 443, " + quic}},
		{"deny a.test tcp,udp 400-500; allow public", []string{"Rules[0] lists udp and port 443, " + quic}},
		{"allow a.test udp 443; quic pass", nil},
		{"allow a.test udp 443; quic refuse", nil},
		{"allow a.test udp 123; allow a.test udp; allow b.test 443", nil},
		{"allow public; deny any 10.0.0.0/8 80", []string{"Rules[1].Direction the port is the remote one for egress and the guest's for ingress"}},
		{"allow any a.test", []string{"Rules[0].Direction a domain is matched for egress only"}},
	} {
		var got []string
		for _, p := range parseConfig(t, row.rules).Check() {
			got = append(got, p.Field+" "+p.Message)
			if !p.Warning {
				t.Errorf("%s: %v is no warning", row.rules, p)
			}
		}
		ok := slices.EqualFunc(got, row.want, strings.HasPrefix)
		if !ok {
			t.Errorf("%s:\ngot  %q\nwant %q", row.rules, got, row.want)
		}
	}
}

// A warning shows what it is about.
func TestWarningText(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ rules, want string }{
		{"default allow; ingress deny", "DefaultEgress: \"allow\": opens the cloud's metadata services, such as 169.254.169.254; put `deny metadata` before it, or allow the address by itself"},
		{"allow host udp,tcp 53; allow a.test", `Rules[0]: "allow egress host tcp,udp 53": every name can be looked up, though public addresses can't all be reached: ` +
			`DNS itself is a way out; allow names instead; each may then be looked up`},
	} {
		if got := lintTexts(t, row.rules); len(got) != 1 || got[0] != "w "+row.want {
			t.Errorf("%s: %q, want %q", row.rules, got, row.want)
		}
	}
}

// The presets say nothing but what allow-all opens, and New keeps warnings.
func TestPresetWarnings(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]int{PresetNone: 0, PresetPublicOnly: 0, PresetNonLocal: 0, PresetAllowAll: 1} {
		c, err := Preset(name)
		if err != nil {
			t.Fatal(err)
		}
		p, err := New(c)
		if err != nil || len(p.Warnings()) != want {
			t.Errorf("%s: %v, %v", name, p.Warnings(), err)
		}
	}
}

// What is not the whole rule's fault names its field; errors come with it.
func TestCheckErrors(t *testing.T) {
	t.Parallel()
	c := Config{Rules: []Rule{
		{Action: Allow, Direction: Ingress, Destination: DomainDestination("a.test"), Source: "Rules[0]"},
		{Action: Allow, Direction: Any, Protocols: ProtocolsOf(ICMPv4), Source: "Rules[1]"},
		{Action: Allow, Protocols: ProtocolsOf(ICMPv6), Ports: []PortRange{{1, 2}}, Source: "Rules[2]"},
	}}
	var got []string
	for _, p := range c.Check().Errors() {
		got = append(got, p.Field)
	}
	if want := []string{"Rules[0].Destination", "Rules[1].Direction", "Rules[2].Ports"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q: %v", got, want, c.Check())
	}
	if w := c.Check().Warnings(); len(w) != 1 || w[0].Field != "Rules[1]" {
		t.Errorf("warnings beside the errors: %v", w)
	}
	if len(Problems{}.Warnings()) != 0 || (Problems{}).Err() != nil {
		t.Error("no problem is a problem")
	}
}

func TestProblemError(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		p    Problem
		want string
	}{
		{Problem{Message: "odd"}, "odd"},
		{Problem{Field: "Rules[2].Ports[0]", Value: "0", Message: "no port", Fix: "write 1"}, `Rules[2].Ports[0]: "0": no port; write 1`},
		{Problem{Field: "Rules", Message: "odd"}, "Rules: odd"},
	} {
		if got := row.p.Error(); got != row.want {
			t.Errorf("got %s, want %s", got, row.want)
		}
	}
}
