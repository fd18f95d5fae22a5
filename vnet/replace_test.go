package vnet

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/sluicenet/sluice/policy"
)

// helloOf returns a ClientHello for a name.
func helloOf(t testing.TB, name string) []byte {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	go func() { tls.Client(b, &tls.Config{ServerName: name, InsecureSkipVerify: true}).Handshake(); b.Close() }()
	buf := make([]byte, 16<<10)
	k, err := a.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return buf[:k]
}

// TestReplaceResponse replaces what denied flows get, with the policy or without.
func TestReplaceResponse(t *testing.T) {
	t.Parallel()
	n := startNet(t, "allow egress public tcp 443")
	var want []string
	replace := func(reject bool, change func(*policy.Policy)) {
		change(policyOf(t, "allow egress public tcp 443"))
		want = append(want, map[bool]string{true: "rst", false: "drop"}[reject])
		if _, err := n.dial("93.184.216.34:80"); err == nil || strings.Contains(err.Error(), "refused") != reject {
			t.Errorf("the guest saw %v, rejected should be %t", err, reject)
		}
		a := n.admitDatagram(natFlow{proto: policy.UDP, guest: netip.MustParseAddrPort("10.0.0.2:1000"), remote: netip.MustParseAddrPort("93.184.216.34:80")}, time.Now())
		if a.allow || (a.answer == icmpProhibited) != reject {
			t.Errorf("a datagram is answered %v, rejected should be %t", a.answer, reject)
		}
	}
	replace(true, func(p *policy.Policy) { n.SetRules(p, true) })
	replace(true, n.SetPolicy) // leaves it as it is
	replace(false, func(p *policy.Policy) { n.SetRules(p, false) })
	n.mu.Lock()
	defer n.mu.Unlock()
	var got []string
	for _, e := range n.events {
		if e.Type == "flow.deny" && e.Flow.Protocol == policy.TCP {
			got = append(got, e.Flow.Response)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("recorded %q, want %q", got, want)
	}
}

// TestReplaceUnfinishedFlight replaces the policy between two halves of a first
// flight that nobody held: the name is for the new rules to decide.
func TestReplaceUnfinishedFlight(t *testing.T) {
	t.Parallel()
	n := startNet(t, "allow egress public")
	var got bytes.Buffer
	done := make(chan struct{})
	n.serve("93.184.216.34:443", func(c *net.TCPConn) { io.Copy(&got, c); close(done) })
	hello := helloOf(t, "bad.example")
	c := n.mustDial("93.184.216.34:443")
	c.Write(hello[:100])
	n.eventually("first half", func() bool { return n.tcpBytesOut() == 100 })
	n.SetPolicy(policyOf(t, "deny egress bad.example; allow egress public"))
	c.Write(hello[100:])
	c.SetReadDeadline(time.Now().Add(patience))
	if _, err := c.Read(make([]byte, 1)); !isReset(err) {
		t.Errorf("the guest saw %v, want a reset", err)
	}
	c.Close()
	<-done
	if got.Len() > 100 {
		t.Errorf("the host got %d bytes, want 100", got.Len())
	}
	if e := n.waitEvent("flow.deny"); e.Generation != 2 || e.Flow.Name != "bad.example" {
		t.Errorf("recorded %+v", e)
	}
}

// TestReplaceReleasesSilent lets a flow that waits for its name go at once when
// the new rules need none: a server that speaks first must be heard.
func TestReplaceReleasesSilent(t *testing.T) {
	t.Parallel()
	names := tableOfNames{netip.MustParseAddr("93.184.216.34"): {"good.example", "other.example"}}
	n := startNet(t, "allow egress good.example", func(c *Config) { c.Names = names })
	n.serve("93.184.216.34:22", func(c *net.TCPConn) { c.Write([]byte("SSH-2.0-x\r\n")); io.Copy(io.Discard, c) })
	c := n.mustDial("93.184.216.34:22")
	n.SetPolicy(policyOf(t, "allow egress public"))
	c.SetReadDeadline(time.Now().Add(holdTimeout / 2))
	if _, err := io.ReadFull(c, make([]byte, 11)); err != nil {
		t.Errorf("no banner: %v", err)
	}
}

// TestReplaceWhileAdmitting replaces policies as fast as it goes while flows come
// and go. Every verdict is of the generation that its event says, and no flow
// outlives a policy that denies it.
func TestReplaceWhileAdmitting(t *testing.T) {
	t.Parallel()
	n := startNet(t, "allow egress public")
	n.serve("93.184.216.34:80", func(c *net.TCPConn) { io.Copy(c, c) })
	stop := make(chan struct{})
	var work sync.WaitGroup
	work.Go(func() {
		for g := 2; ; g++ {
			select {
			case <-stop:
				return
			default:
			}
			verb := []string{"allow", "deny"}[g%2]
			// The generation is encoded in a rule that decides nothing else.
			p, err := policy.New(policy.Config{Rules: rulesOf(t, fmt.Sprintf("%s egress 93.184.216.34 tcp 80,%d", verb, 10000+g%50000))})
			if err != nil {
				t.Error(err)
				return
			}
			n.SetPolicy(p)
			time.Sleep(time.Millisecond / 2)
		}
	})
	for range 8 {
		work.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if c, err := n.dial("93.184.216.34:80"); err == nil {
					c.Write([]byte("x"))
					c.Close()
				}
			}
		})
	}
	time.Sleep(2 * time.Second)
	close(stop)
	work.Wait()
	n.SetPolicy(policyOf(t, "deny egress 203.0.113.1"))
	n.eventually("all cut", func() bool { return n.Stats().TCPFlows == 0 })
	n.mu.Lock()
	defer n.mu.Unlock()
	decisions := 0
	for _, e := range n.events {
		if e.Verdict.Text == "" {
			continue
		}
		decisions++
		if want := fmt.Sprint(10000 + e.Generation%50000); e.Generation > 1 && !strings.Contains(e.Verdict.Text, want) && e.Verdict.Text != "allow egress public" {
			t.Fatalf("%s of generation %d was decided by %q", e.Type, e.Generation, e.Verdict.Text)
		}
	}
	t.Logf("%d decisions", decisions)
}

// namesFunc is a table of names that a test watches being asked.
type namesFunc func(netip.Addr) []string

func (f namesFunc) AppendNames(dst []string, addr netip.Addr, _ time.Time) []string {
	return append(dst, f(addr)...)
}

// TestReplaceAtAdmission replaces the policy in the middle of an admission: the
// flow is decided by the new one.
func TestReplaceAtAdmission(t *testing.T) {
	t.Parallel()
	var n *testNet
	var once sync.Once
	deny := policyOf(t, "deny egress public")
	ready := make(chan struct{})
	names := namesFunc(func(netip.Addr) []string {
		<-ready
		once.Do(func() { n.SetPolicy(deny) })
		return nil
	})
	n = startNet(t, "allow egress public", func(c *Config) { c.Names, c.Reject = names, true })
	close(ready)
	accepted := n.serve("93.184.216.34:80", func(c *net.TCPConn) { io.Copy(io.Discard, c) })
	if c, err := n.dial("93.184.216.34:80"); err == nil {
		c.Close()
		t.Error("admitted by a policy that was replaced")
	}
	if e := n.waitEvent("flow.deny"); e.Generation != 2 || e.Verdict.Text != "deny egress public" {
		t.Errorf("recorded %+v", e)
	}
	if accepted.Load() != 0 || n.count("flow.open") != 0 {
		t.Error("the host was dialled")
	}
}

// TestReplaceRecords checks that a flow that a new policy cuts says which rule
// did, and one that stays says which rule keeps it.
func TestReplaceRecords(t *testing.T) {
	t.Parallel()
	n := startNet(t, "allow egress public")
	n.serve("93.184.216.34:80", func(c *net.TCPConn) { io.Copy(c, c) })
	n.serve("93.184.216.34:81", func(c *net.TCPConn) { io.Copy(c, c) })
	kept, cut := n.mustDial("93.184.216.34:80"), n.mustDial("93.184.216.34:81")
	n.eventually("established", func() bool { return n.Stats().HeldFlows == 0 })
	n.SetPolicy(policyOf(t, "deny egress public tcp 81; allow egress public"))
	cut.Read(make([]byte, 1))
	for _, typ := range []string{"flow.deny", "flow.close"} {
		if e := n.waitEvent(typ); e.Generation != 2 || e.Verdict.Text != "deny egress public tcp 81" || e.Flow.Dst.Port() != 81 {
			t.Errorf("%s: generation %d, %q, %v", typ, e.Generation, e.Verdict.Text, e.Flow.Dst)
		}
	}
	kept.Close()
	n.eventually("closed", func() bool { return n.count("flow.close") == 2 })
	n.mu.Lock()
	defer n.mu.Unlock()
	if e := n.events[len(n.events)-1]; e.Generation != 2 || e.Verdict.Text != "allow egress public" {
		t.Errorf("kept: generation %d, %q", e.Generation, e.Verdict.Text)
	}
}

// TestReplaceSpliced resets HTTP that was spliced under the old rules when the
// new ones would read its requests, and leaves other protocols alone.
func TestReplaceSpliced(t *testing.T) {
	t.Parallel()
	request := "GET / HTTP/1.1\r\nHost: other.example\r\n\r\n"
	tests := []struct {
		name, before, sent string
		cut                bool
	}{
		{"never held", "allow egress public", request, true},
		{"held, and decided by address", "allow egress good.example; allow egress public", request, true},
		{"preface of HTTP/2", "allow egress public", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", true},
		{"tunnel", "allow egress public", "CONNECT other.example:443 HTTP/1.1\r\n\r\n", true},
		{"opaque", "allow egress public", "\x00\x01\x02\x03", false},
		{"TLS", "allow egress public", string(helloOf(t, "other.example")), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			n := startNet(t, tt.before)
			n.serve("93.184.216.34:80", func(c *net.TCPConn) { io.Copy(io.Discard, c) })
			c := n.mustDial("93.184.216.34:80")
			c.Write([]byte(tt.sent))
			n.eventually("forwarded", func() bool { return n.tcpBytesOut() == uint64(len(tt.sent)) })
			n.SetPolicy(policyOf(t, "deny egress bad.example; allow egress public"))
			c.SetReadDeadline(time.Now().Add(time.Second / 2))
			if _, err := c.Read(make([]byte, 1)); isReset(err) != tt.cut {
				t.Errorf("the guest saw %v", err)
			}
		})
	}
}

// TestReplaceCases moves a flow whose first flight is not there yet from each of
// the contract's cases to each other.
func TestReplaceCases(t *testing.T) {
	t.Parallel()
	names := tableOfNames{netip.MustParseAddr("93.184.216.34"): {"good.example", "other.example"}}
	rules := map[string]string{
		"a": "allow egress public",
		"b": "deny egress bad.example; allow egress public",
		"c": "allow egress good.example",
		"d": "allow egress private",
	}
	for from, before := range rules {
		for to, after := range rules {
			if from == "d" {
				continue
			}
			for _, name := range []string{"good.example", "bad.example"} {
				t.Run(from+" to "+to+" "+name, func(t *testing.T) {
					t.Parallel()
					n := startNet(t, before, func(c *Config) { c.Names = names })
					got := make(chan int64, 1)
					n.serve("93.184.216.34:443", func(c *net.TCPConn) {
						k, _ := io.Copy(io.Discard, c)
						got <- k
					})
					c := n.mustDial("93.184.216.34:443")
					n.SetPolicy(policyOf(t, after))
					hello := helloOf(t, name)
					c.Write(hello)
					c.CloseWrite()
					if to == "a" || to != "d" && name == "good.example" {
						if k := <-got; k != int64(len(hello)) {
							t.Errorf("the host got %d bytes", k)
						}
						return
					}
					n.waitEvent("flow.deny")
					if n.tcpBytesOut() > 0 {
						t.Error("the host got some of it")
					}
				})
			}
		}
	}
}

// TestReplaceStreams cuts a connection of HTTP/2 when the new rules deny the name
// of any of its streams, not only of the last.
func TestReplaceStreams(t *testing.T) {
	t.Parallel()
	n := startNet(t, "deny egress bad.example; allow egress public")
	n.serve("93.184.216.34:80", func(c *net.TCPConn) { io.Copy(io.Discard, c) })
	c := n.mustDial("93.184.216.34:80")
	c.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
	sent := 24
	for i, name := range []string{"one.example", "two.example", "three.example"} {
		f := h2Headers(uint32(1+2*i), name)
		sent += len(f)
		c.Write(f)
	}
	n.eventually("forwarded", func() bool { return n.tcpBytesOut() == uint64(sent) })
	n.SetPolicy(policyOf(t, "deny egress bad.example; deny egress four.example; allow egress public"))
	c.SetReadDeadline(time.Now().Add(time.Second / 4))
	if _, err := c.Read(make([]byte, 1)); isReset(err) {
		t.Errorf("no stream is denied: %v", err)
	}
	n.SetPolicy(policyOf(t, "deny egress two.example; allow egress public"))
	c.SetReadDeadline(time.Now().Add(patience))
	if _, err := c.Read(make([]byte, 1)); !isReset(err) {
		t.Errorf("the guest saw %v, want a reset", err)
	}
}

// h2Headers returns a HEADERS frame that opens a stream and asks for a host.
func h2Headers(stream uint32, host string) []byte {
	var block bytes.Buffer
	e := hpack.NewEncoder(&block)
	for _, f := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":path", "/"}, {":authority", host}} {
		e.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	head := []byte{0, 0, byte(block.Len()), 1, 0x4 | 0x1}
	return append(binary.BigEndian.AppendUint32(head, stream), block.Bytes()...)
}

func (f namesFunc) Hold(netip.Addr, []string, time.Time) func(time.Time) { return func(time.Time) {} }
