package sandbox

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sluicenet/sluice/dns"
	"github.com/sluicenet/sluice/internal/control"
	"github.com/sluicenet/sluice/policy"
	"github.com/sluicenet/sluice/vnet"
)

// TestRecords compares the line of each type of event with a file: what is there
// may not change, only grow. With SLUICE_UPDATE=1 it writes the file.
func TestRecords(t *testing.T) {
	t.Parallel()
	ap := netip.MustParseAddrPort
	at := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	allow := policy.Verdict{Action: policy.Allow, Rule: 1, Source: "preset public-only", Text: "allow egress public", Group: policy.GroupPublic}
	deny := policy.Verdict{Rule: -1, Source: "default egress", Reason: "no rule matches", Group: policy.GroupPrivate}
	out := vnet.FlowInfo{
		ID: 7, Direction: policy.Egress, Protocol: policy.TCP,
		Src: ap("172.16.0.2:40000"), Dst: ap("93.184.216.34:443"), Dialed: ap("93.184.216.34:443"),
		Name: "example.com", NameFrom: "sni", Stage: policy.StageName,
	}
	closed := out
	closed.BytesOut, closed.BytesIn, closed.Duration, closed.End = 100, 2000, 1500*time.Millisecond, "fin"
	gateway := vnet.FlowInfo{
		ID: 8, Direction: policy.Egress, Protocol: policy.TCP,
		Src: ap("172.16.0.2:40001"), Dst: ap("172.16.0.1:8080"), Dialed: ap("127.0.0.1:8080"),
	}
	host := allow
	host.Group = policy.GroupHost
	denied := vnet.FlowInfo{ID: 9, Direction: policy.Egress, Protocol: policy.UDP, Src: ap("172.16.0.2:5000"), Dst: ap("10.0.0.1:53"), Response: "drop"}
	in := vnet.FlowInfo{ID: 10, Direction: policy.Ingress, Protocol: policy.TCP, Src: ap("127.0.0.1:50000"), Dst: ap("172.16.0.2:80")}
	port := control.Port{Protocol: "tcp", Host: ap("0.0.0.0:8080"), GuestPort: 80}
	var got bytes.Buffer
	r := &recorder{sandbox: "box"}
	for _, rec := range []record{
		networkRecord(vnet.Event{Type: "flow.open", Time: at, Generation: 1, Flow: out, Verdict: allow}),
		networkRecord(vnet.Event{Type: "flow.close", Time: at, Generation: 1, Flow: closed, Verdict: allow}),
		networkRecord(vnet.Event{Type: "flow.open", Time: at, Generation: 1, Flow: gateway, Verdict: host}),
		networkRecord(vnet.Event{Type: "flow.deny", Time: at, Generation: 2, Flow: denied, Verdict: deny}),
		networkRecord(vnet.Event{Type: "flow.open", Time: at, Generation: 1, Flow: in, Verdict: host}),
		networkRecord(vnet.Event{Type: "limit.hit", Time: at, Generation: 1, Flow: out, Limit: "tcp.flows"}),
		networkRecord(vnet.Event{Type: "limit.hit", Time: at, Limit: "buffer.bytes"}),
		resolverRecord(dns.Event{
			Type: dns.EventQuery, Time: at, Generation: 1, Name: "example.com", QType: "A", Protocol: policy.UDP, Verdict: allow, RCode: "NOERROR",
			Addrs: []netip.Addr{netip.MustParseAddr("93.184.216.34")}, Upstream: ap("192.0.2.1:53"), Duration: 12 * time.Millisecond,
		}),
		resolverRecord(dns.Event{Type: dns.EventQuery, Time: at, Generation: 1, Name: "evil.example", QType: "AAAA", Protocol: policy.TCP, Verdict: deny, RCode: "NXDOMAIN", Reason: "denied by policy"}),
		resolverRecord(dns.Event{Type: dns.EventLimit, Time: at, Limit: "dns.waiting", Count: 3}),
		resolverRecord(dns.Event{Type: dns.EventWarning, Time: at, Message: "no resolver"}),
		{Type: typePublish, Time: at, Port: &port, Message: "reachable from other machines"},
		{Type: typeUnpublish, Time: at, Port: &port},
		{Type: typeDropped, Time: at, Count: 5},
		{Type: typeWarning, Time: at, Message: "think about it"},
		{Type: typeLog, Time: at, Level: "WARN", Message: "odd", Attrs: map[string]any{"error": "cause"}},
		{Type: typeStarted, Time: at, Message: "namespace"},
		{Type: typeStopped, Time: at, Source: "guest", Denied: 2, Allowed: 3},
	} {
		line := r.line(rec)
		if !json.Valid(line) {
			t.Errorf("not JSON: %s", line)
		}
		got.Write(line)
	}
	path := filepath.Join("testdata", "events.jsonl")
	if os.Getenv("SLUICE_UPDATE") == "1" {
		if err := os.WriteFile(path, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	gotLines, wantLines := bytes.Split(got.Bytes(), []byte("\n")), bytes.Split(want, []byte("\n"))
	for i := range max(len(gotLines), len(wantLines)) {
		if i >= len(gotLines) || i >= len(wantLines) || !bytes.Equal(gotLines[i], wantLines[i]) {
			t.Errorf("line %d:\n got %s\nwant %s", i+1, lineAt(gotLines, i), lineAt(wantLines, i))
		}
	}
}

// lineAt returns line i, "" if there is none.
func lineAt(lines [][]byte, i int) []byte {
	if i < len(lines) {
		return lines[i]
	}
	return nil
}
