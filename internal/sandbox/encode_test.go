package sandbox

import (
	"encoding/json"
	"net/netip"
	"testing"
	"time"

	"github.com/sluicenet/sluice/policy"
	"github.com/sluicenet/sluice/vnet"
)

// expandNetwork returns the fields of an event of the network: what appendNetwork
// writes, for encoding/json.
func expandNetwork(e *vnet.Event) record {
	f := e.Flow
	flow := &recordFlow{
		ID:        f.ID,
		Direction: f.Direction.String(),
		Protocol:  f.Protocol.String(),
		Src:       end(f.Src),
		Dst:       end(f.Dst),
		BytesOut:  f.BytesOut,
		BytesIn:   f.BytesIn,
		Duration:  f.Duration.Seconds(),
		End:       f.End,
	}
	flow.Dst.Name, flow.Dst.NameFrom = f.Name, f.NameFrom
	peer := &flow.Dst
	if f.Direction == policy.Ingress {
		peer = &flow.Src
	}
	peer.Group = groupName(e.Verdict.Group)
	if f.Dialed.IsValid() && f.Dialed != f.Dst {
		dialed := end(f.Dialed)
		flow.Dialed = &dialed
	}
	r := record{Type: e.Type, Time: e.Time, Policy: generation(e.Generation), Limit: e.Limit, Count: e.Count, Message: e.Text}
	if f.Src.IsValid() { // some bounds are no single flow's
		r.Flow = flow
	}
	if e.Limit == "" && e.Text == "" {
		r.Verdict = verdict(e.Verdict, f.Stage.String(), f.Response)
	}
	return r
}

// FuzzAppendNetwork compares the encoder with encoding/json.
func FuzzAppendNetwork(f *testing.F) {
	f.Add("flow.open", "box", "example.com", "sni", "no rule matches", uint64(3), int64(1500), []byte{93, 184, 216, 34}, uint16(443), uint8(1))
	f.Add("limit.hit", "b<o>x", "a\"b\\\u2028\xff", "", "", uint64(0), int64(-1), []byte{}, uint16(0), uint8(2))
	f.Add("flow.close", "", "", "http", "é&", uint64(1<<63), int64(1), make([]byte, 16), uint16(1), uint8(7))
	f.Fuzz(func(t *testing.T, typ, box, name, from, reason string, n uint64, d int64, addr []byte, port uint16, bits uint8) {
		a, _ := netip.AddrFromSlice(addr)
		at := netip.AddrPortFrom(a, port)
		e := vnet.Event{
			Type: typ, Time: time.Unix(int64(n%(1<<35)), d&0xfffff).UTC(), Generation: n >> 3, Count: n % 3,
			Flow: vnet.FlowInfo{
				ID: n, Direction: policy.Direction(1 + bits&1), Protocol: policy.TCP, Src: at, Dst: netip.AddrPortFrom(a, port/2), Dialed: at,
				Name: name, NameFrom: from, Stage: policy.Stage(bits % 4), Response: from,
				BytesOut: n / 2, BytesIn: n % 2, Duration: time.Duration(d), End: from,
			},
			Verdict: policy.Verdict{Action: policy.Action(bits & 1), Rule: int(d % 100), Source: name, Text: reason, Reason: reason, Group: policy.Group(bits % 8)},
		}
		if bits&8 != 0 {
			e.Limit, e.Text = name, reason
		}
		got := appendNetwork(nil, &e, d, box)
		rec := expandNetwork(&e)
		rec.Version, rec.Seq, rec.Sandbox = recordVersion, d, box
		want, err := json.Marshal(rec)
		if err != nil {
			t.Skip(err) // a year that JSON has no room for
		}
		if string(got) != string(want) {
			t.Errorf("\ngot  %s\nwant %s", got, want)
		}
	})
}

// BenchmarkLine measures what a flow's event costs the recorder.
func BenchmarkLine(b *testing.B) {
	a := netip.MustParseAddrPort("93.184.216.34:443")
	rec := networkRecord(vnet.Event{Type: "flow.close", Time: time.Unix(1, 0), Generation: 1, Flow: vnet.FlowInfo{ID: 7, Direction: policy.Egress,
		Protocol: policy.TCP, Src: a, Dst: a, Name: "example.com", NameFrom: "sni", BytesOut: 100, Duration: time.Second, End: "fin"},
		Verdict: policy.Verdict{Action: policy.Allow, Source: "preset public-only", Text: "allow egress public", Group: policy.GroupPublic}})
	r := &recorder{sandbox: "box"}
	var line []byte
	for b.Loop() {
		line = r.appendLine(line[:0], rec)
	}
}
