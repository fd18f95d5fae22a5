package vnet

import (
	"net"
	"net/netip"
	"testing"
	"time"
)

// TestPollerRefuses has a socket that the poller doesn't take leave the slots of
// others alone.
func TestPollerRefuses(t *testing.T) {
	t.Parallel()
	p := startPoller(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	to := netip.MustParseAddrPort(listener.Addr().String())
	flow := new(directFlow)
	var first directSocket
	if _, err := first.dial(p, flow, to); err != nil {
		t.Fatal(err)
	}
	defer first.close(true)
	if slot, err := p.add(flow, -1, pollAlways); slot >= 0 || err == nil {
		t.Errorf("no descriptor has slot %d, %v", slot, err)
	}
	if p.flow(first.slot, p.slots[first.slot].turn) != flow {
		t.Error("the first socket's slot is free")
	}
}

// TestPollerWakes has a waiting poller return for a call from elsewhere, and not
// again when that is taken.
func TestPollerWakes(t *testing.T) {
	t.Parallel()
	p := startPoller(t)
	for _, p.brief = range []bool{false, true, false} {
		p.wake()
		p.wake()
		if events, err := p.wait(-1); err != nil || len(events) != 1 || events[0].Fd != slotCalls {
			t.Fatalf("woken by %v, %v", events, err)
		}
		p.woken()
		if events, err := p.wait(time.Nanosecond); err != nil || len(events) != 0 {
			t.Errorf("again by %v, %v", events, err)
		}
	}
}

// TestPollerForgets takes an event of a slot's earlier owner for nobody's.
func TestPollerForgets(t *testing.T) {
	t.Parallel()
	p := startPoller(t)
	p.slots = []pollSlot{{flow: new(directFlow)}}
	p.remove(0)
	slot, err := p.add(new(directFlow), p.calls, pollAlways)
	if err == nil || slot != -1 {
		t.Fatalf("a descriptor is watched twice: slot %d, %v", slot, err)
	}
	if p.flow(0, 0) != nil || p.flow(0, 1) != nil || p.flow(0, 2) != nil {
		t.Error("the slot has an owner")
	}
	if len(p.free) != 1 {
		t.Errorf("%d slots are free", len(p.free))
	}
}

// startPoller returns a poller of a card that never has anything.
func startPoller(t *testing.T) *poller {
	t.Helper()
	card := new(playLink)
	card.open(t)
	p, err := newPoller(card)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.close)
	return p
}
