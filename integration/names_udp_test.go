package integration

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/sluicenet/sluice/internal/netlab"
	m "github.com/sluicenet/sluice/sdk"
)

// quicInitial returns a datagram that every server takes for a QUIC Initial packet,
// RFC 9000 section 17.2.2, of a version.
func quicInitial(version string) string {
	head := "\xc3" + version + "\x08dstconn!\x08srcconn!" + "\x00" + "\x44\x90"
	return head + strings.Repeat("q", 1200-len(head))
}

// TestDatagrams decides UDP and ICMP by the names of an address, and refuses QUIC
// where a name would have to be seen.
func TestDatagrams(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	const v1, v2 = "\x00\x00\x00\x01", "\x6b\x33\x43\xcf"
	initial := shared(t, "flight", quicInitial(v1))
	initial2 := shared(t, "flight", quicInitial(v2))
	plain := shared(t, "flight", "a datagram")
	const (
		allow   = "allow egress .ok.example"
		echoed  = "echoed"  // the answer came
		refused = "refused" // port unreachable, nothing left
		nothing = "nothing" // silence, nothing left
	)
	quicYes := policyFile(t, "rules: [{action: allow, destination: host, protocols: [udp, tcp], port: 53}, {action: allow, destination: .ok.example}]\ntls: {block_quic: false}\n")
	for _, row := range []struct {
		what  string
		flags []string
		known string // kinds of names
		port  int    // 0 is an echo request
		says  string
		want  string
		by    string // in flow.deny
	}{
		{"by name", []string{openDNS, allow + " udp 7"}, "ok", 7, plain, echoed, ""},
		{"by name, another port", []string{openDNS, allow + " udp 7"}, "ok", 8, plain, nothing, defaults},
		{"by name, another protocol", []string{openDNS, allow + " tcp"}, "ok", 7, plain, nothing, defaults},
		{"never resolved", []string{openDNS, allow + " udp 7"}, "", 7, plain, nothing, defaults},
		{"two names", []string{openDNS, allow + " udp 7"}, "ok else", 7, plain, nothing, defaults},
		{"denied name", []string{"deny egress .no.example udp", openDNS, public}, "no", 7, plain, nothing, "deny egress .no.example udp"},
		{"denied and another", []string{"deny egress .no.example udp", openDNS, public}, "no else", 7, plain, nothing, "deny egress .no.example udp"},
		{"another than denied", []string{"deny egress .no.example udp", openDNS, public}, "else", 7, plain, echoed, ""},
		{"ping by name", []string{openDNS, allow + " icmpv4,icmpv6"}, "ok", 0, "", echoed, ""},
		{"ping, never resolved", []string{openDNS, allow + " icmpv4,icmpv6"}, "", 0, "", nothing, defaults},
		{"ping, two names", []string{openDNS, allow + " icmpv4,icmpv6"}, "ok else", 0, "", nothing, defaults},
		{"ping, TCP only", []string{openDNS, allow + " tcp"}, "ok", 0, "", nothing, defaults},
		{"QUIC to 443", []string{openDNS, allow}, "ok", 443, initial, refused, ""},
		{"QUIC 2 to 443", []string{openDNS, allow}, "ok", 443, initial2, refused, ""},
		{"anything to 443", []string{openDNS, allow}, "ok", 443, plain, refused, ""},
		{"QUIC to another port", []string{openDNS, allow}, "ok", 7, initial, refused, ""},
		{"QUIC 2 to another port", []string{openDNS, allow}, "ok", 7, initial2, refused, ""},
		{"no QUIC to another port", []string{openDNS, allow}, "ok", 7, plain, echoed, ""},
		{"QUIC beside a denial", []string{"deny egress .no.example", openDNS, public}, "else", 443, initial, refused, ""},
		{"QUIC, no name known", []string{"deny egress .no.example", openDNS, public}, "", 443, initial, refused, ""},
		{"QUIC without names", []string{openDNS, public}, "else", 443, initial, echoed, ""},
		{"QUIC, a rule that lists it", []string{openDNS, allow + " udp 443"}, "ok", 443, initial, echoed, ""},
		{"QUIC wanted", []string{quicYes}, "ok", 443, initial, echoed, ""},
		{"QUIC wanted, another port", []string{quicYes}, "ok", 7, initial, echoed, ""},
		{"QUIC wanted, foreign", []string{quicYes}, "ok else", 443, initial, nothing, defaults},
	} {
		t.Run(row.what, func(t *testing.T) {
			t.Parallel()
			slug := strings.NewReplacer(" ", "-", ",", "").Replace(strings.ToLower(row.what))
			h := lab.Host(t, slug+".udp.example")
			for _, port := range []uint16{7, 443} {
				h.UDP(port, netlab.EchoDatagram)
			}
			var flags []string
			for _, f := range row.flags {
				if strings.HasSuffix(f, ".yaml") {
					flags = append(flags, "--policy", f)
				} else {
					flags = append(flags, "--rule", f)
				}
			}
			g := startGuest(t, flags...)
			for kind := range strings.FieldsSeq(row.known) {
				name := slug + "." + kind + ".example"
				lab.DNS.A(t, name, h.IP4.String())
				lab.DNS.A(t, name, h.IP6.String())
				g.want("dig +short "+name+" A "+name+" AAAA", h.IP6.String())
			}
			var lines []string
			for _, f := range families {
				line := fmt.Sprintf("socat -d -d -t 0.5 STDIO UDP:%s <%s", h.Endpoint(f, uint16(row.port)), row.says)
				if row.port == 0 {
					line = fmt.Sprintf("ping -n -%d -c 1 -W 1 %v", f, map[int]netip.Addr{4: h.IP4, 6: h.IP6}[f])
				}
				lines = append(lines, line)
			}
			wire := lab.Watch(t)
			for i, r := range g.together(lines) {
				got := nothing
				switch {
				case strings.Contains(r.out, "Connection refused"):
					got = refused
				case strings.Contains(r.out, "a datagram") || strings.Contains(r.out, "qqqq") || strings.Contains(r.out, " 0% packet loss"):
					got = echoed
				}
				if got != row.want {
					t.Errorf("%s: %s, want %s\n%+v", lines[i], got, row.want, r)
				}
			}
			if row.want == echoed {
				return
			}
			wire.None(t, h.To())
			for _, addr := range h.Addrs {
				denied := g.occurred(row.by != "", m.EventFlowDeny, addr, uint16(row.port))
				if row.by != "" && len(denied) == 0 {
					t.Errorf("no flow.deny for %v", addr)
				}
				for _, e := range denied {
					if v := e.Verdict; row.by != "" && v.Text != row.by && v.Source != row.by {
						t.Errorf("%v: denied by %q (%s), want by %s", addr, v.Text, v.Source, row.by)
					}
				}
			}
		})
	}
}
