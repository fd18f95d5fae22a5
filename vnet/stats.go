package vnet

import (
	"cmp"
	"slices"
	"sync/atomic"
	"time"

	"github.com/sluicenet/sluice/vnet/link"
)

// counters counts frames and bytes at the edge to the guest, and what was
// dropped, by reason. Any goroutine may add.
type counters struct {
	framesOut, bytesOut atomic.Uint64 // from the guest
	framesIn, bytesIn   atomic.Uint64 // to the guest
	drops               [numDrops]atomic.Uint64
}

func (c *counters) drop(d drop)          { c.drops[d].Add(1) }
func (c *counters) add(d drop, n uint64) { c.drops[d].Add(n) }
func (c *counters) frame(n int)          { c.framesOut.Add(1); c.bytesOut.Add(uint64(n)) }

// sent counts frames that the link was given.
func (c *counters) sent(frames []link.Frame) {
	n := 0
	for i := range frames {
		n += len(frames[i].Data)
		for _, b := range frames[i].More {
			n += len(b)
		}
	}
	c.framesIn.Add(uint64(len(frames)))
	c.bytesIn.Add(uint64(n))
}

// Stats is what a network has counted since it began.
type Stats struct {
	FramesFromGuest uint64
	BytesFromGuest  uint64 // of Ethernet frames
	FramesToGuest   uint64 // what the link had no room for included
	BytesToGuest    uint64
	// Drops counts frames that went no further, by reason; reasons that never
	// occurred are left out.
	Drops map[string]uint64
	// TCPFlows are the guest's TCP flows at this moment; HeldFlows those of
	// them whose host has not answered yet.
	TCPFlows  int
	HeldFlows int
}

// Stats returns the counts at this moment.
func (n *Network) Stats() Stats {
	s := Stats{
		FramesFromGuest: n.counters.framesOut.Load(),
		BytesFromGuest:  n.counters.bytesOut.Load(),
		FramesToGuest:   n.counters.framesIn.Load(),
		BytesToGuest:    n.counters.bytesIn.Load(),
		Drops:           make(map[string]uint64),
	}
	for d := range n.counters.drops {
		if v := n.counters.drops[d].Load(); v > 0 {
			s.Drops[drop(d).String()] = v
		}
	}
	if v := n.cfg.Link.Dropped(); v > 0 {
		s.Drops["link-full"] = v
	}
	s.TCPFlows, s.HeldFlows = n.tcp.counts()
	return s
}

// Flows returns the flows of this moment, oldest first, with their bytes and
// duration so far.
func (n *Network) Flows() []FlowInfo {
	now := time.Now()
	var all []FlowInfo
	n.tcp.each(func(f *tcpFlow) {
		info := f.info()
		info.Duration = now.Sub(f.opened)
		all = append(all, info)
	})
	all = n.udp.appendFlows(all, now)
	all = n.icmp.local.appendFlows(n.icmp.remote.appendFlows(all, now), now)
	all = n.inbound.appendFlows(all, now)
	slices.SortFunc(all, func(a, b FlowInfo) int { return cmp.Compare(a.ID, b.ID) })
	return all
}
