package sandbox

import (
	"encoding/json"
	"math"
	"net/netip"
	"strconv"
	"time"

	"github.com/sluicenet/sluice/policy"
	"github.com/sluicenet/sluice/vnet"
)

// appendNetwork appends an event of the network as JSON: what json.Marshal makes
// of a record with its fields, at a tenth of the cost. A guest causes two of them
// with each flow; no other type comes in such numbers.
func appendNetwork(b []byte, e *vnet.Event, seq int64, sandbox string) []byte {
	b = append(b, `{"v":`...)
	b = strconv.AppendInt(b, recordVersion, 10)
	b = append(b, `,"ts":"`...)
	b = e.Time.AppendFormat(b, time.RFC3339Nano)
	b = append(b, `","seq":`...)
	b = strconv.AppendInt(b, seq, 10)
	b = appendString(append(b, `,"type":`...), e.Type)
	b = appendString(append(b, `,"sandbox":`...), sandbox)
	if e.Generation != 0 {
		b = strconv.AppendUint(append(b, `,"policy":{"gen":`...), e.Generation, 10)
		b = append(b, '}')
	}
	if e.Flow.Src.IsValid() { // some bounds are no single flow's
		b = appendFlow(append(b, `,"flow":`...), &e.Flow, e.Verdict.Group)
	}
	if e.Limit == "" && e.Text == "" {
		b = appendVerdict(append(b, `,"verdict":`...), &e.Verdict, &e.Flow)
	}
	b = appendText(b, `,"limit":`, e.Limit)
	b = appendCount(b, `,"count":`, e.Count)
	b = appendText(b, `,"message":`, e.Text)
	return append(b, '}')
}

func appendFlow(b []byte, f *vnet.FlowInfo, group policy.Group) []byte {
	b = strconv.AppendUint(append(b, `{"id":`...), f.ID, 10)
	b = appendString(append(b, `,"direction":`...), f.Direction.String())
	b = appendString(append(b, `,"protocol":`...), f.Protocol.String())
	srcGroup, dstGroup := policy.GroupNone, group
	if f.Direction == policy.Ingress {
		srcGroup, dstGroup = group, policy.GroupNone
	}
	b = appendEnd(append(b, `,"src":`...), f.Src, "", "", srcGroup)
	b = appendEnd(append(b, `,"dst":`...), f.Dst, f.Name, f.NameFrom, dstGroup)
	if f.Dialed.IsValid() && f.Dialed != f.Dst {
		b = appendEnd(append(b, `,"dialed":`...), f.Dialed, "", "", policy.GroupNone)
	}
	b = appendCount(b, `,"bytes_out":`, f.BytesOut)
	b = appendCount(b, `,"bytes_in":`, f.BytesIn)
	if f.Duration != 0 {
		b = appendSeconds(append(b, `,"duration_s":`...), f.Duration)
	}
	b = appendText(b, `,"end":`, f.End)
	return append(b, '}')
}

func appendEnd(b []byte, a netip.AddrPort, name, from string, group policy.Group) []byte {
	b = append(b, `{"addr":"`...)
	if a.Addr().IsValid() {
		b = a.Addr().AppendTo(b)
	}
	b = append(b, '"')
	b = appendCount(b, `,"port":`, uint64(a.Port()))
	b = appendText(b, `,"name":`, name)
	b = appendText(b, `,"name_from":`, from)
	b = appendText(b, `,"group":`, groupName(group))
	return append(b, '}')
}

func appendVerdict(b []byte, v *policy.Verdict, f *vnet.FlowInfo) []byte {
	b = appendString(append(b, `{"action":`...), v.Action.String())
	b = strconv.AppendInt(append(b, `,"rule":`...), int64(v.Rule), 10)
	b = appendString(append(b, `,"source":`...), v.Source)
	b = appendText(b, `,"text":`, v.Text)
	b = appendText(b, `,"stage":`, f.Stage.String())
	b = appendText(b, `,"reason":`, v.Reason)
	b = appendText(b, `,"response":`, f.Response)
	return append(b, '}')
}

// appendText appends a field unless it is empty.
func appendText(b []byte, key, value string) []byte {
	if value == "" {
		return b
	}
	return appendString(append(b, key...), value)
}

// appendCount appends a field unless it is zero.
func appendCount(b []byte, key string, value uint64) []byte {
	if value == 0 {
		return b
	}
	return strconv.AppendUint(append(b, key...), value, 10)
}

// appendSeconds appends a duration as encoding/json writes a float64.
func appendSeconds(b []byte, d time.Duration) []byte {
	seconds := d.Seconds()
	if math.Abs(seconds) >= 1e-6 {
		return strconv.AppendFloat(b, seconds, 'f', -1, 64)
	}
	text, _ := json.Marshal(seconds) // a finite number never fails
	return append(b, text...)
}

// appendString appends a string. What needs no escape, and nearly all does, is
// copied.
func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			text, _ := json.Marshal(s) // a string never fails
			return append(b, text...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}
