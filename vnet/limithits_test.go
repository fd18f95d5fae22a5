package vnet

import (
	"fmt"
	"testing"
	"time"
)

// TestLimitHits tells of each bound once a second, and loses no count.
func TestLimitHits(t *testing.T) {
	t.Parallel()
	var l limitHits
	start := time.Unix(1000, 0)
	var got []string
	tell := func(e Event, ok bool) {
		if ok {
			got = append(got, fmt.Sprintf("%s %d", e.Limit, e.Count))
		}
	}
	hit := func(name string, at time.Duration) { tell(l.add(Event{Limit: name, Time: start.Add(at)})) }
	for range 5 {
		hit("a", 0)
	}
	hit("b", 500*time.Millisecond)
	hit("a", 999*time.Millisecond)
	hit("a", 1000*time.Millisecond)
	hit("a", 1100*time.Millisecond)
	for _, e := range l.flush(start.Add(1900 * time.Millisecond)) {
		tell(e, true)
	}
	for range 2 {
		for _, e := range l.flush(start.Add(2 * time.Second)) {
			tell(e, true)
		}
	}
	if want := "[a 1 b 1 a 6 a 1]"; fmt.Sprint(got) != want {
		t.Errorf("told %v, want %s", got, want)
	}
}

// TestFlowsPerSecond drops flows that come too fast, of TCP and UDP alike, and
// tells of all in two events.
func TestFlowsPerSecond(t *testing.T) {
	t.Parallel()
	n := startNet(t, "allow egress public", func(c *Config) { c.Limits.FlowsPerSecond = 1 })
	n.deaf.Store(true)
	for i := range 10 {
		n.write(tcpSegment(fmt.Sprintf("%s:%d", guest4, 1000+i), "93.184.216.34:80", "S"))
		n.write(udp(fmt.Sprintf("%s:%d", guest4, 1000+i), "93.184.216.34:81", "x"))
	}
	n.eventually("handled", func() bool { return n.Stats().FramesFromGuest == 20 })
	s := n.Stats()
	if s.Drops["flow-rate"] < 15 || s.TCPFlows > 5 {
		t.Errorf("%d dropped, %d flows", s.Drops["flow-rate"], s.TCPFlows)
	}
	n.Close()
	var told uint64
	events := 0
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, e := range n.events {
		if e.Limit == "FlowsPerSecond" {
			told += e.Count
			events++
		}
	}
	if told < 10 || events > 5 {
		t.Errorf("%d of %d told, in %d events", told, s.Drops["flow-rate"], events)
	}
}
