package integration

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/sluicenet/sluice/internal/netlab"
	m "github.com/sluicenet/sluice/sdk"
)

// What becomes of a flow, on both sides.
const (
	passes   = "passes"         // the server heard all, the guest was welcomed
	bare     = "bare handshake" // the server was dialled and heard nothing; the guest was reset
	withheld = "withheld"       // the guest's handshake was completed, nothing left; the guest was reset
	atSYN    = "denied at SYN"  // the guest never connected, nothing left
)

// Rules of the tables, and what decides without one.
const (
	openDNS  = "allow egress host udp,tcp 53"
	okRule   = "allow egress .ok.example tcp 4443"
	noRule   = "deny egress .no.example tcp 4443"
	public   = "allow egress public"
	defaults = "default egress"
)

// A nameRow is a flow to an address of its own. Its names are of the kinds ok, ok2,
// no, no2, else and else2, made for the row: a name of kind no is below no.example.
type nameRow struct {
	what  string
	known string // kinds of the names that the guest looks up and that have the row's address
	says  string // the flight
	names string // kinds of the names in it
	want  string // what becomes of it
	by    string // the rule's text that decides, or its source
	from  string // where the record has the flow's name from: the flight (sni, http), the kinds known (dns), or nowhere
}

// evidenceTable holds the policies, as rules, and the rows under each.
var evidenceTable = []struct {
	name  string
	rules []string
	rows  []nameRow
}{
	{"allow list", []string{openDNS, okRule}, []nameRow{
		{"allowed name at its address", "ok", "sni", "ok", passes, okRule, "sni"},
		{"allowed name at a foreign address", "", "sni", "ok", atSYN, defaults, ""},
		{"allowed name at another's address", "else", "sni", "ok", atSYN, defaults, "dns"},
		{"allowed name that was looked up for another address", "ok2", "sni", "ok", bare, defaults, "sni"},
		{"foreign name at an allowed address", "ok", "sni", "else", bare, defaults, "sni"},
		{"two names, the allowed one", "ok else", "sni", "ok", passes, okRule, "sni"},
		{"two names, the other one", "ok else", "sni", "else", withheld, defaults, "sni"},
		{"two names, none", "ok else", "no sni", "", withheld, defaults, "dns"},
		{"two names, opaque", "ok else", "opaque", "", withheld, defaults, "dns"},
		{"two names, SSH", "ok else", "ssh", "", withheld, defaults, "dns"},
		{"two allowed names, none", "ok ok2", "no sni", "", passes, okRule, "dns"},
		{"two allowed names, the other one", "ok ok2", "sni", "ok2", passes, okRule, "sni"},
		{"no SNI", "ok", "no sni", "", passes, okRule, "dns"},
		{"opaque", "ok", "opaque", "", passes, okRule, "dns"},
		{"SSH", "ok", "ssh", "", passes, okRule, "dns"},
		{"TLS 1.0", "ok", "sni 1.0", "ok", passes, okRule, "sni"},
		{"TLS 1.2", "ok", "sni 1.2", "ok", passes, okRule, "sni"},
		{"a dot at the end", "ok", "sni dot", "ok", passes, okRule, "sni"},
		{"capitals", "ok", "sni capitals", "ok", passes, okRule, "sni"},
		{"several records", "ok", "sni two records", "ok", passes, okRule, "sni"},
		{"several records, foreign", "ok", "sni two records", "else", bare, defaults, "sni"},
		{"many records, foreign", "ok", "sni three bytes each", "else", bare, defaults, "sni"},
		{"a long hello", "ok", "sni long", "ok", passes, okRule, "sni"},
		{"a long hello, foreign", "ok", "sni long", "else", bare, defaults, "sni"},
		{"ECH, outer allowed", "ok", "ech", "ok else", passes, okRule, "sni"},
		{"ECH, inner allowed", "ok", "ech", "else ok", bare, defaults, "sni"},
		{"two SNI extensions", "ok", "sni twice", "ok else", bare, okRule, "dns"},
		{"SNI an address", "ok", "sni address", "", bare, okRule, "dns"},
		{"SNI with NUL", "ok", "sni NUL", "ok", bare, okRule, "dns"},
		{"SSLv2", "ok", "sslv2", "", bare, okRule, "dns"},
		{"SSLv2 of TLS", "ok", "sslv2 of tls", "", bare, okRule, "dns"},
		{"a TLS alert first", "ok", "tls alert", "", bare, okRule, "dns"},
		{"TLS junk", "ok", "tls junk", "", bare, okRule, "dns"},
		{"unfinished", "ok", "sni unfinished", "ok", bare, okRule, "dns"},
		{"unfinished, two names", "ok else", "sni unfinished", "ok", withheld, okRule, "dns"},
		{"Host", "ok", "http", "ok", passes, okRule, "http"},
		{"Host with port", "ok", "http port", "ok", passes, okRule, "http"},
		{"absolute form", "ok", "http absolute", "ok", passes, okRule, "http"},
		{"foreign Host", "ok", "http", "else", bare, defaults, "http"},
		{"two names, the other Host", "ok else", "http", "else", withheld, defaults, "http"},
		{"absolute form, another Host", "ok", "http absolute, another host", "ok else", bare, okRule, "dns"},
		{"two Hosts", "ok", "http two hosts", "ok else", bare, okRule, "dns"},
		{"no Host", "ok", "http without host", "", passes, okRule, "dns"},
		{"Host another address", "ok", "http another address", "", bare, okRule, "dns"},
		{"bare line feeds", "ok", "http bare LF", "ok", bare, okRule, "dns"},
		{"version in lower case", "ok", "http lower case", "ok", bare, okRule, "dns"},
	}},
	{"deny list", []string{"deny egress .no.example", openDNS, public}, []nameRow{
		{"other name, looked up", "else", "sni", "else", passes, public, "sni"},
		{"denied name at a hard-coded address", "", "sni", "no", bare, "deny egress .no.example", "sni"},
		{"denied name at another's address", "else", "sni", "no", bare, "deny egress .no.example", "sni"},
		{"denied name, TLS 1.0", "", "sni 1.0", "no", bare, "deny egress .no.example", "sni"},
		{"denied name, a dot at the end", "", "sni dot", "no", bare, "deny egress .no.example", "sni"},
		{"denied name, capitals", "", "sni capitals", "no", bare, "deny egress .no.example", "sni"},
		{"denied name, many records", "", "sni three bytes each", "no", bare, "deny egress .no.example", "sni"},
		{"denied name, a long hello", "", "sni long", "no", bare, "deny egress .no.example", "sni"},
		{"foreign name at a hard-coded address", "", "sni", "else", passes, public, "sni"},
		{"ECH, outer denied", "", "ech", "no else", bare, "deny egress .no.example", "sni"},
		{"ECH, inner denied", "", "ech", "else no", passes, public, "sni"},
		{"no SNI", "else", "no sni", "", passes, public, "dns"},
		{"no SNI, hard-coded", "", "no sni", "", passes, public, ""},
		{"opaque", "", "opaque", "", passes, public, ""},
		{"SSH", "", "ssh", "", passes, public, ""},
		{"two SNI extensions", "", "sni twice", "else no", bare, "deny egress .no.example", ""},
		{"SSLv2", "", "sslv2", "", bare, "deny egress .no.example", ""},
		{"TLS junk", "", "tls junk", "", bare, "deny egress .no.example", ""},
		{"unfinished", "", "sni unfinished", "else", bare, "deny egress .no.example", ""},
		{"Host", "", "http", "else", passes, public, "http"},
		{"denied Host", "", "http", "no", bare, "deny egress .no.example", "http"},
		{"denied Host with port", "", "http port", "no", bare, "deny egress .no.example", "http"},
		{"denied Host, absolute form", "", "http absolute", "no", bare, "deny egress .no.example", "http"},
		{"absolute form, another Host", "", "http absolute, another host", "else no", bare, "deny egress .no.example", ""},
		{"two Hosts", "", "http two hosts", "else no", bare, "deny egress .no.example", ""},
		{"no Host", "", "http without host", "", passes, public, ""},
		{"bare line feeds", "", "http bare LF", "else", bare, "deny egress .no.example", ""},
	}},
	// A denial with a port leaves the name's query alone, so the guest can know it.
	{"deny list with a port", []string{noRule, openDNS, public}, []nameRow{
		{"denied name, looked up", "no", "sni", "no", atSYN, noRule, "dns"},
		{"other name at its address", "no", "sni", "else", atSYN, noRule, "dns"},
		{"two names, the other one", "no else", "sni", "else", passes, public, "sni"},
		{"two names, the denied one", "no else", "sni", "no", withheld, noRule, "sni"},
		{"two names, a third", "no else", "sni", "else2", withheld, noRule, "sni"},
		{"two names, none", "no else", "no sni", "", withheld, noRule, "dns"},
		{"two names, opaque", "no else", "opaque", "", withheld, noRule, "dns"},
		{"two names, malformed", "no else", "sslv2", "", withheld, noRule, "dns"},
		{"two names, the other Host", "no else", "http", "else", passes, public, "http"},
		{"two names, the denied Host", "no else", "http", "no", withheld, noRule, "http"},
		{"two names, no Host", "no else", "http without host", "", withheld, noRule, "dns"},
		{"denied name, hard-coded", "", "sni", "no", bare, noRule, "sni"},
	}},
	{"allow list behind a denial", []string{noRule, openDNS, "allow egress .example tcp 4443"}, []nameRow{
		{"allowed name", "ok", "sni", "ok", passes, "allow egress .example tcp 4443", "sni"},
		{"denied name", "no", "sni", "no", atSYN, noRule, "dns"},
		{"allowed and denied, the allowed one", "ok no", "sni", "ok", passes, "allow egress .example tcp 4443", "sni"},
		{"allowed and denied, the denied one", "ok no", "sni", "no", withheld, noRule, "sni"},
		{"allowed and denied, none", "ok no", "no sni", "", withheld, noRule, "dns"},
		{"denied name at an allowed address", "ok", "sni", "no", bare, noRule, "sni"},
		{"malformed", "ok", "sslv2", "", bare, noRule, "dns"},
	}},
	// Case a: what an address rule decides first, no name changes.
	{"address first", []string{openDNS, "allow egress public tcp 4443", "allow egress .ok.example udp"}, []nameRow{
		{"any name", "", "sni", "no", passes, "allow egress public tcp 4443", "sni"},
		{"no SNI", "", "no sni", "", passes, "allow egress public tcp 4443", ""},
		{"malformed", "", "sslv2", "", passes, "allow egress public tcp 4443", ""},
		{"unfinished", "", "sni unfinished", "no", passes, "allow egress public tcp 4443", ""},
		{"opaque", "", "opaque", "", passes, "allow egress public tcp 4443", ""},
		{"two Hosts", "", "http two hosts", "else no", passes, "allow egress public tcp 4443", ""},
	}},
	// A rule whose protocol or port doesn't fit is no at every stage.
	{"rules that don't fit", []string{"deny egress .no.example udp", "deny egress .no.example tcp 443", "allow egress .ok.example udp", "allow egress .ok.example tcp 443", openDNS, "allow egress .else.example tcp 4443"}, []nameRow{
		{"allowed on another port", "ok", "sni", "ok", atSYN, defaults, "dns"},
		{"denied on another port", "no else", "sni", "else", passes, "allow egress .else.example tcp 4443", "sni"},
		{"denied on another port, its name", "no else", "sni", "no", withheld, defaults, "sni"},
		{"malformed", "else", "sslv2", "", bare, "allow egress .else.example tcp 4443", "dns"},
	}},
}

// TestEvidence sends flights to addresses of which the guest knows names.
func TestEvidence(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	for i, table := range evidenceTable {
		t.Run(table.name, func(t *testing.T) {
			t.Parallel()
			testEvidence(t, lab, 100+i, table.rules, table.rows)
		})
	}
}

// A trial is a row over one IP version.
type trial struct {
	nameRow
	looked, said []string // the names
	addr         netip.Addr
	sent         string
	line         string
}

const evidencePort = 4443

func testEvidence(t *testing.T, lab *netlab.Lab, net int, rules []string, rows []nameRow) {
	c := newCrowd(t, lab, net, len(rows))
	c.serve(evidencePort, welcome)
	var flags []string
	for _, r := range rules {
		flags = append(flags, "--rule", r)
	}
	g := startGuest(t, flags...)
	var queries, lines []string
	var trials []trial
	for i, row := range rows {
		pair := c.pair()
		name := func(kind string) string {
			base := strings.TrimRight(kind, "2")
			return fmt.Sprintf("%s-%d-%d.%s.example", kind, net, i, base)
		}
		var looked, said []string
		for kind := range strings.FieldsSeq(row.known) {
			looked = append(looked, name(kind))
			c.named(name(kind), pair[:]...)
			queries = append(queries, fmt.Sprintf("dig +short %s A %s AAAA", name(kind), name(kind)))
		}
		for kind := range strings.FieldsSeq(row.names) {
			said = append(said, name(kind))
		}
		sent := flight(t, row.says, said...)
		file := shared(t, "flight", sent)
		for _, addr := range pair {
			line := fmt.Sprintf("socat -d -d -t 12 STDIO TCP:%v,shut-none,connect-timeout=2 <%s", netip.AddrPortFrom(addr, evidencePort), file)
			trials = append(trials, trial{row, looked, said, addr, sent, line})
			lines = append(lines, line)
		}
	}
	for i, r := range g.together(queries) {
		if len(strings.Fields(r.out)) != 2 {
			t.Fatalf("%s: %q", queries[i], r.out)
		}
	}
	wire := lab.Watch(t)
	results := g.together(lines)
	seen := wire.Packets(t)
	for i, tr := range trials {
		if got := tr.outcome(c, results[i], seen); got != tr.want {
			t.Errorf("%s, %v: %s, want %s\n%s: %+v", tr.what, tr.addr, got, tr.want, tr.line, results[i])
		}
		tr.wantEvents(t, g)
	}
}

// outcome says what became of a trial by what both sides saw.
func (tr *trial) outcome(c *crowd, r result, seen map[netlab.Packet]int) string {
	left := 0
	for p, n := range seen {
		if p.Dst.Addr() == tr.addr {
			left += n
		}
	}
	connected := strings.Contains(r.out, "starting data transfer loop")
	welcomed := strings.Contains(r.out, "welcome")
	reset := strings.Contains(r.out, "Connection reset by peer")
	visits := c.came(tr.addr, evidencePort)
	heard := ""
	for _, v := range visits {
		heard += v.heard()
	}
	switch {
	case connected && welcomed && !reset && len(visits) == 1 && heard == tr.sent:
		return passes
	case connected && !welcomed && len(visits) == 1 && heard == "" && reset:
		return bare
	case connected && !welcomed && left == 0 && reset:
		return withheld
	case !connected && left == 0 && strings.Contains(r.out, "timed out"):
		return atSYN
	}
	return fmt.Sprintf("(connected %t, welcomed %t, reset %t, %d visits, %d bytes heard, %d packets left, exit code %d)",
		connected, welcomed, reset, len(visits), len(heard), left, r.code)
}

// wantEvents checks the record of a trial.
func (tr *trial) wantEvents(t *testing.T, g *guest) {
	t.Helper()
	denied := g.occurred(tr.want != passes, m.EventFlowDeny, tr.addr, evidencePort)
	if tr.want == passes {
		if len(denied) > 0 {
			t.Errorf("%s, %v: %+v", tr.what, tr.addr, denied[0].Verdict)
		}
		closed := g.occurred(true, m.EventFlowClose, tr.addr, evidencePort)
		if len(closed) != 1 {
			t.Errorf("%s, %v: %d flow.close, want 1", tr.what, tr.addr, len(closed))
			return
		}
		tr.wantVerdict(t, closed[0])
		return
	}
	// A repeated SYN is no news, unless another generation of rules decides it: a
	// sandbox that starts beside this one makes one.
	generations := make(map[uint64]bool)
	for _, e := range denied {
		if generations[e.Policy.Generation] {
			t.Errorf("%s, %v: %d flow.deny, want 1", tr.what, tr.addr, len(denied))
		}
		generations[e.Policy.Generation] = true
		tr.wantVerdict(t, e)
	}
	if len(denied) == 0 {
		t.Errorf("%s, %v: no flow.deny", tr.what, tr.addr)
	}
}

// wantVerdict checks who decided, and about which name.
func (tr *trial) wantVerdict(t *testing.T, e m.Event) {
	t.Helper()
	v, dst := e.Verdict, e.Flow.Dst
	if v.Text != tr.by && v.Source != tr.by {
		t.Errorf("%s, %v: %s by %q (%s) because %q, want by %s", tr.what, tr.addr, v.Action, v.Text, v.Source, v.Reason, tr.by)
	}
	names := tr.said
	switch tr.from {
	case "":
		names = []string{""}
	case "dns":
		names = tr.looked
	case "sni", "http":
		names = names[:1]
	}
	if dst.Name != "" && dst.NameFrom != tr.from || !slices.Contains(names, dst.Name) {
		t.Errorf("%s, %v: recorded name %q from %q, want one of %q from %q", tr.what, tr.addr, dst.Name, dst.NameFrom, names, tr.from)
	}
}
