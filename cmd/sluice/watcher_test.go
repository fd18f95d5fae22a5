package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	m "github.com/sluicenet/sluice/sdk"
)

// newTestConsole returns a console that writes to files, and what reads them.
func newTestConsole(t *testing.T) (c *console, out, err func() string) {
	t.Helper()
	open := func(name string) (*os.File, func() string) {
		f, err := os.Create(filepath.Join(t.TempDir(), name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f, func() string {
			text, err := os.ReadFile(f.Name())
			if err != nil {
				t.Fatal(err)
			}
			return string(text)
		}
	}
	outFile, out := open("out")
	errFile, err := open("err")
	return newConsole(nil, outFile, errFile), out, err
}

// parseEvents reads events as a sandbox writes them, without what is the same in
// all.
func parseEvents(t *testing.T, lines ...string) []m.Event {
	t.Helper()
	var events []m.Event
	for _, line := range lines {
		var e m.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		events = append(events, e)
	}
	return events
}

// denial returns the line of a denied flow; verdict is the inside of its verdict.
func denial(dst, verdict string) string {
	return fmt.Sprintf(`{"type":"flow.deny","flow":{"id":1,"direction":"egress","protocol":"tcp","src":{"addr":"172.16.0.2","port":1},"dst":{%s}},"verdict":{"action":"deny",%s}}`, dst, verdict)
}

// tlsFailure returns the line of a TLS connection that came to nothing.
func tlsFailure(name, fix string) string {
	return fmt.Sprintf(`{"type":"tls.fail","tls":{"name":%q,"leg":"guest","reason":"r","fix":"%s"}}`, name, fix)
}

const byDefault = `"rule":-1,"source":"default egress","reason":"no rule matches"`

// TestNotices checks what is said of events, letter by letter.
func TestNotices(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, flags, event string
		want               string // without its head; "" is nothing
	}{
		{"implicit policy", "", denial(`"addr":"10.0.0.1","port":80,"group":"private"`, byDefault), "denied tcp 10.0.0.1:80 (private): default egress (no rule matches); to allow it: --network public-only --allow 10.0.0.1:80"},
		{"allow list", "--allow x.example", denial(`"addr":"10.0.0.1","port":80,"group":"private"`, byDefault), "denied tcp 10.0.0.1:80 (private): default egress (no rule matches); to allow it: --allow 10.0.0.1:80"},
		{"a name", "--network none", denial(`"addr":"1.2.3.4","port":443,"name":"api.example","group":"public"`, byDefault), "denied tcp api.example:443 (public): default egress (no rule matches); to allow it: --allow api.example:443"},
		{"IPv6", "--network none", denial(`"addr":"fd00::1","port":443,"group":"private"`, byDefault), "denied tcp [fd00::1]:443 (private): default egress (no rule matches); to allow it: --allow [fd00::1]:443"},
		{"the host", "--network none", denial(`"addr":"172.16.0.1","port":8080,"group":"host"`, byDefault), "denied tcp 172.16.0.1:8080 (host): default egress (no rule matches); to allow it: --allow host:8080"},
		{"a rule", "", denial(`"addr":"1.2.3.4","port":443,"group":"public"`, `"rule":0,"source":"Rules[0]","text":"deny egress 1.2.3.4"`), `denied tcp 1.2.3.4:443 (public): Rules[0] says "deny egress 1.2.3.4"`},
		{"always", "", denial(`"addr":"127.0.0.1","port":80,"group":"loopback"`, `"rule":-1,"source":"always denied","reason":"loopback"`), "denied tcp 127.0.0.1:80 (loopback): always denied (loopback)"},
		{"no group", "--network none", denial(`"addr":"240.0.0.1","port":80`, byDefault), "denied tcp 240.0.0.1:80: default egress (no rule matches); to allow it: --allow 240.0.0.1:80"},
		{"a hostile name", "", denial(`"addr":"1.2.3.4","port":443,"name":"a\u001b[31m"`, byDefault), `denied tcp "a\x1b[31m:443": default egress (no rule matches)`},
		{"echo", "--network none", `{"type":"flow.deny","flow":{"direction":"egress","protocol":"icmpv4","dst":{"addr":"10.0.0.1","group":"private"}},"verdict":{"action":"deny",` + byDefault + `}}`, "denied icmpv4 10.0.0.1 (private): default egress (no rule matches); to allow it: --allow 10.0.0.1"},
		{"inbound", "", `{"type":"flow.deny","flow":{"direction":"ingress","protocol":"tcp","src":{"addr":"10.0.0.9","port":5,"group":"private"},"dst":{"addr":"172.16.0.2","port":80}},"verdict":{"action":"deny","rule":-1,"source":"default ingress"}}`, "denied tcp 10.0.0.9 to guest port 80 (private): default ingress"},
		{"a query", "--allow x.example", `{"type":"dns.query","dns":{"name":"y.example","qtype":"A","rcode":"NXDOMAIN"},"verdict":{"action":"deny","rule":-1,"source":"default egress","reason":"no rule permits the name"}}`, "denied dns y.example: default egress (no rule permits the name); to allow it: --allow y.example"},
		{"a query for a shell", "--allow x.example", `{"type":"dns.query","dns":{"name":";curl${IFS}x|sh;.y","qtype":"A"},"verdict":{"action":"deny","rule":-1,"source":"default egress"}}`, "denied dns ;curl${IFS}x|sh;.y: default egress"},
		{"a query for a list", "--allow x.example", `{"type":"dns.query","dns":{"name":"x.y,public","qtype":"A"},"verdict":{"action":"deny","rule":-1,"source":"default egress"}}`, "denied dns x.y,public: default egress"},
		{"a query for a group", "--allow x.example", `{"type":"dns.query","dns":{"name":"public","qtype":"A"},"verdict":{"action":"deny","rule":-1,"source":"default egress"}}`, "denied dns public: default egress"},
		{"a query for all", "--allow x.example", `{"type":"dns.query","dns":{"name":"*.com","qtype":"A"},"verdict":{"action":"deny","rule":-1,"source":"default egress"}}`, "denied dns *.com: default egress"},
		{"a hostile SNI", "--network none", denial(`"addr":"1.2.3.4","port":443,"name":"$(x).example"`, byDefault), "denied tcp $(x).example:443: default egress (no rule matches)"},
		{"pinned", "", tlsFailure("a.example", `if its program pins certificates, set Bypass: [\"a.example\"]`), "TLS of a.example: r; if its program pins certificates, add --tls-bypass a.example"},
		{"pinned, hostile", "", tlsFailure("a;b.example", `set Bypass: [\"a;b.example\"]`), `TLS of a;b.example: r; set tls.bypass of a --policy file: ["a;b.example"]`},
		{"no issuer", "", tlsFailure("a.example", `add its issuer to UpstreamCACerts, or ScopedVerifyUpstream {\"a.example\", false} to trust it unseen`), `TLS of a.example: r; add its issuer to tls.upstream_ca_certs of a --policy file, or tls.scoped_verify_upstream {"a.example", false} to trust it unseen`},
		{"an allowed query", "", `{"type":"dns.query","dns":{"name":"y.example","qtype":"A","rcode":"NOERROR"},"verdict":{"action":"allow","rule":-1,"source":"x"}}`, ""},
		{"an allowed flow", "", `{"type":"flow.open","flow":{"direction":"egress","protocol":"tcp","dst":{"addr":"1.2.3.4","port":80}},"verdict":{"action":"allow","rule":0,"source":"x"}}`, ""},
		{"a limit", "", `{"type":"limit.hit","limit":"Inbound"}`, "the guest ran into the limit Inbound"},
		{"a flag's limit", "", `{"type":"limit.hit","limit":"MaxConnections"}`, "the guest ran into the limit MaxConnections; --max-connections raises it"},
		{"lost events", "", `{"type":"events.dropped","count":7}`, "7 events were lost: the machine was too busy to write them"},
		{"a warning", "", `{"type":"warning","message":"think"}`, "warning: think"},
		{"a remark", "", `{"type":"sandbox.log","level":"WARN","message":"odd"}`, ""},
	} {
		c, _, stderr := newTestConsole(t)
		f := &runFlags{}
		_, network, err := parseNetwork(tt.flags)
		if err != nil {
			t.Fatal(err)
		}
		f.network = *network
		w, err := newWatcher(c, f)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second says nothing new
			w.event(parseEvents(t, tt.event)[0])
		}
		want := ""
		if tt.want != "" {
			want = "sluice: " + tt.want + "\n"
		}
		if got := stderr(); got != want && got != want+want {
			t.Errorf("%s:\n got %swant %s", tt.name, got, want)
		} else if strings.Contains(tt.event, "deny") && strings.Count(got, "\n") > 1 {
			t.Errorf("%s: is said twice", tt.name)
		}
	}
}

// TestManyNotices checks that a guest that scans a network fills no log.
func TestManyNotices(t *testing.T) {
	t.Parallel()
	c, _, stderr := newTestConsole(t)
	w, err := newWatcher(c, &runFlags{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 * maxRows {
		w.event(parseEvents(t, denial(fmt.Sprintf(`"addr":"10.0.%d.%d","port":80`, i/256, i%256), byDefault))[0])
	}
	lines := strings.Split(strings.TrimSpace(stderr()), "\n")
	if len(lines) != maxNotices+1 || !strings.HasPrefix(lines[maxNotices], "sluice: denied more than 100 targets") {
		t.Errorf("%d lines, the last %q", len(lines), lines[len(lines)-1])
	}
	if w.summary.denials != 3*maxRows || len(w.summary.rows) != maxRows || w.summary.other != 2*maxRows {
		t.Errorf("summary has %d denials in %d rows, and %d others", w.summary.denials, len(w.summary.rows), w.summary.other)
	}
}

// TestSummary checks the summary in each format.
func TestSummary(t *testing.T) {
	t.Parallel()
	open := func(id int, name string) string {
		return fmt.Sprintf(`{"type":"flow.open","flow":{"id":%d,"direction":"egress","protocol":"tcp","dst":{"addr":"1.2.3.4","port":443,"name":%q}},"verdict":{"action":"allow","rule":1,"source":"preset public-only","text":"allow egress public"}}`, id, name)
	}
	closed := func(id int, out, in int) string {
		return fmt.Sprintf(`{"type":"flow.close","flow":{"id":%d,"direction":"egress","protocol":"tcp","dst":{"addr":"1.2.3.4","port":443,"name":"learnt.example"},"bytes_out":%d,"bytes_in":%d,"end":"fin"},"verdict":{"action":"allow"}}`, id, out, in)
	}
	events := parseEvents(t,
		open(1, "a.example"), closed(1, 10, 20), open(2, "a.example"), closed(2, 1, 2), open(3, "b|c.example"),
		denial(`"addr":"10.0.0.1","port":80,"group":"private"`, byDefault),
	)
	for format, want := range map[string]string{
		"": "sluice: 3 flows allowed, 1 denied\n" +
			"  denied  1×  tcp  10.0.0.1:80  default egress (no rule matches)\n",
		"text": "sluice: 3 flows allowed, 1 denied\n" +
			"  denied   1×  tcp  10.0.0.1:80      default egress (no rule matches)\n" +
			"  allowed  2×  tcp  a.example:443    preset public-only says \"allow egress public\"\n" +
			"  allowed  1×  tcp  b|c.example:443  preset public-only says \"allow egress public\"\n",
		"md": "### sluice: 3 flows allowed, 1 denied\n\n" +
			"| | count | protocol | target | bytes out | bytes in | rule |\n|---|---:|---|---|---:|---:|---|\n" +
			"| denied | 1 | tcp | `10.0.0.1:80` | 0 | 0 | default egress (no rule matches) |\n" +
			"| allowed | 2 | tcp | `a.example:443` | 11 | 22 | preset public-only says \"allow egress public\" |\n" +
			"| allowed | 1 | tcp | `b\\|c.example:443` | 0 | 0 | preset public-only says \"allow egress public\" |\n",
		"json": `{"allowed":3,"denied":1,"other":0,"rows":[` +
			`{"verdict":"denied","protocol":"tcp","target":"10.0.0.1:80","count":1,"bytes_out":0,"bytes_in":0,"rule":"default egress (no rule matches)"},` +
			`{"verdict":"allowed","protocol":"tcp","target":"a.example:443","count":2,"bytes_out":11,"bytes_in":22,"rule":"preset public-only says \"allow egress public\""},` +
			`{"verdict":"allowed","protocol":"tcp","target":"b|c.example:443","count":1,"bytes_out":0,"bytes_in":0,"rule":"preset public-only says \"allow egress public\""}]}` + "\n",
	} {
		c, _, stderr := newTestConsole(t)
		var s summary
		for _, e := range events {
			s.add(e)
		}
		s.print(c, format)
		if got := stderr(); got != want {
			t.Errorf("format %q:\n got %s\nwant %s", format, got, want)
		}
	}
	c, _, stderr := newTestConsole(t)
	new(summary).print(c, "") // nothing denied
	if got := stderr(); got != "" {
		t.Errorf("nothing to say: %q", got)
	}
}

// TestSummaryCompletes checks that what no event told of is counted all the same.
func TestSummaryCompletes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		end    m.SandboxStopResult
		listed bool
		want   string
	}{
		{"all was told", m.SandboxStopResult{Allowed: 0, Denied: 1}, true, "0 flows allowed, 1 denied"},
		{"flows weren't asked for", m.SandboxStopResult{Allowed: 9, Denied: 1}, false, "9 flows allowed, 1 denied"},
		{"flows were lost", m.SandboxStopResult{Allowed: 9, Denied: 1}, true, "9 flows allowed, 1 denied, 9 of them not listed"},
		{"denials were lost", m.SandboxStopResult{Allowed: 9, Denied: 3}, false, "9 flows allowed, 3 denied, 2 of them not listed"},
		{"a crash", m.SandboxStopResult{}, true, "0 flows allowed, 1 denied"},
	} {
		var s summary
		s.add(parseEvents(t, denial(`"addr":"10.0.0.1","port":80`, byDefault))[0])
		s.complete(&tt.end, tt.listed)
		if got := s.headline(); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

// TestWatchedTypes checks that flows are read of only where something tells them.
func TestWatchedTypes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		flags runFlags
		all   bool
		flows bool
	}{
		{"by default", runFlags{}, false, false},
		{"a summary", runFlags{summary: "md"}, false, true},
		{"events", runFlags{events: os.DevNull}, true, true},
		{"verbose", runFlags{verbose: true, summary: "text"}, true, true},
	} {
		c, _, _ := newTestConsole(t)
		w, err := newWatcher(c, &tt.flags)
		if err != nil {
			t.Fatal(err)
		}
		types := w.types()
		if all := len(types) == 0; all != tt.all || !all && slices.Contains(types, m.EventFlowOpen) != tt.flows {
			t.Errorf("%s: %q", tt.name, types)
		}
		if err := w.close(nil); err != nil {
			t.Error(err)
		}
	}
}

// TestConsole checks heads, colours and quiet.
func TestConsole(t *testing.T) {
	t.Parallel()
	c, _, stderr := newTestConsole(t)
	if c.colour {
		t.Error("a file is no terminal")
	}
	c.colour = true
	c.errorf("a %d", 1)
	c.quiet = true
	c.notef("never")
	c.quiet, c.terminal = false, true
	c.notef("b\nc")
	if got, want := stderr(), "\x1b[31msluice:\x1b[0m a 1\n\x1b[33msluice:\x1b[0m b\r\nc\r\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	for text, want := range map[string]string{
		"plain": "plain", "ümläut": "ümläut", "a\nb": `"a\nb"`, "\x1b[0m": `"\x1b[0m"`, "a\xff": `"a\xff"`, "a\u202eb": "\"a\\u202eb\"",
	} {
		if got := printable(text); got != want {
			t.Errorf("printable(%q) is %s, want %s", text, got, want)
		}
	}
}

// TestEventsFlag checks where events go, and that a failure to write is told.
func TestEventsFlag(t *testing.T) {
	t.Parallel()
	c, _, _ := newTestConsole(t)
	if _, err := newWatcher(c, &runFlags{events: t.TempDir() + "/none/x"}); err == nil {
		t.Error("a file in a directory that isn't there was created")
	}
	w, err := newWatcher(c, &runFlags{events: "/dev/full"})
	if err != nil {
		t.Skipf("no /dev/full: %v", err)
	}
	w.event(m.Event{Type: m.EventWarning})
	if err := w.close(&m.SandboxStopResult{}); err == nil || !strings.HasPrefix(err.Error(), "--events: ") {
		t.Errorf("a full disk: %v", err)
	}
}
