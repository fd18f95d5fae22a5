package sdk

import (
	"context"
	"net/netip"
	"time"
)

// A Flow is a flow of the guest that is open.
type Flow struct {
	ID        uint64 // as events name it
	Direction PolicyDirection
	Protocol  PolicyProtocol
	Src, Dst  netip.AddrPort // ports are 0 for ICMP
	Dialed    netip.AddrPort // where the host's socket went, if not to Dst; else invalid
	Name      string         // what the guest called the peer; "" if it isn't known
	NameFrom  string         // dns, sni or http
	BytesOut  uint64         // from the guest so far
	BytesIn   uint64         // to the guest so far
	Age       time.Duration
}

// Flows returns the flows that are open.
func (s *Sandbox) Flows(ctx context.Context) ([]Flow, error) {
	open, err := ask(ctx, s, "list flows of", s.client.Flows)
	if err != nil {
		return nil, err
	}
	flows := make([]Flow, len(open))
	for i, f := range open {
		flows[i] = Flow{
			ID:        f.ID,
			Direction: PolicyDirection(f.Direction),
			Protocol:  PolicyProtocol(f.Protocol),
			Src:       f.Src,
			Dst:       f.Dst,
			Dialed:    f.Dialed,
			Name:      f.Name,
			NameFrom:  f.NameFrom,
			BytesOut:  f.BytesOut,
			BytesIn:   f.BytesIn,
			Age:       time.Duration(f.Seconds * float64(time.Second)),
		}
	}
	return flows, nil
}

// NetworkStats is what a sandbox's network has counted since its start.
type NetworkStats struct {
	FramesFromGuest, BytesFromGuest uint64            // of Ethernet
	FramesToGuest, BytesToGuest     uint64            // of Ethernet
	Drops                           map[string]uint64 // frames that went no further, by reason
	DNS                             map[string]uint64 // the resolver's counters, by name
	TCPFlows                        int               // open now
	HeldFlows                       int               // of these, without an answer of the host yet
	Allowed                         uint64            // flows
	Denied                          uint64            // flows and queries
}

// NetworkStats returns what the network has counted.
func (s *Sandbox) NetworkStats(ctx context.Context) (*NetworkStats, error) {
	st, err := ask(ctx, s, "count network of", s.client.Stats)
	if err != nil {
		return nil, err
	}
	return &NetworkStats{
		FramesFromGuest: st.FramesFromGuest,
		BytesFromGuest:  st.BytesFromGuest,
		FramesToGuest:   st.FramesToGuest,
		BytesToGuest:    st.BytesToGuest,
		Drops:           st.Drops,
		DNS:             st.DNS,
		TCPFlows:        st.TCPFlows,
		HeldFlows:       st.HeldFlows,
		Allowed:         st.Allowed,
		Denied:          st.Denied,
	}, nil
}
