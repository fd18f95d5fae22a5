package vnet

import (
	"errors"
	"net"
	"net/netip"
	"testing"
)

// TestPollerRefuses has a socket that the poller doesn't take leave the slots of
// others alone.
func TestPollerRefuses(t *testing.T) {
	t.Parallel()
	p, err := newPoller()
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
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
	if err := p.close(); err != nil {
		t.Fatal(err)
	}
	var second directSocket
	if _, err := second.dial(p, flow, to); !errors.Is(err, net.ErrClosed) {
		t.Errorf("dial after close: %v", err)
	}
	second.close(true)
	if p.flow(first.slot, p.slots[first.slot].turn) != flow {
		t.Error("the first socket's slot is free")
	}
}
