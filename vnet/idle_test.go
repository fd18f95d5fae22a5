package vnet

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"testing"
)

// TestIdleFlowMemory measures what an idle TCP flow holds, heap and stacks: the
// host's end is in a socket, the guest's in frames, so all of it is ours. As many
// stand as may by default, or nearly, and one more begins.
func TestIdleFlowMemory(t *testing.T) {
	const flows, most = 4000, 24 << 10
	for _, way := range []struct {
		name   string
		change []func(*Config)
	}{{"direct", nil}, {"stack", []func(*Config){throughStack}}} {
		t.Run(way.name, func(t *testing.T) {
			n := startNet(t, "allow egress public", way.change...)
			n.lab.addIdle(t, "93.184.216.34:80")
			n.deaf.Store(true)
			before := memory()
			for i := range flows {
				n.handshake(fmt.Sprintf("%s:%d", guest4, 1000+i), "93.184.216.34:80")
			}
			n.eventually("established", func() bool { s := n.Stats(); return s.TCPFlows == flows && s.HeldFlows == 0 })
			per := (memory() - before) / flows
			t.Logf("%d bytes per idle flow", per)
			if per > most {
				t.Errorf("%d bytes per idle flow, want at most %d", per, most)
			}
			n.handshake(guest4+":60000", "93.184.216.34:80")
			if hits := n.count("limit.hit"); hits > 0 {
				t.Errorf("%d limits were hit", hits)
			}
		})
	}
}

// memory returns the bytes of heap and stacks in use.
func memory() uint64 {
	var m runtime.MemStats
	for range 2 { // twice: pools give up their second generation
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}

// handshake opens a flow with nothing but frames, and returns the sequence number
// of our first byte.
func (n *testNet) handshake(src, dst string) uint32 {
	n.t.Helper()
	n.write(tcpSegment(src, dst, "S"))
	port := netip.MustParseAddrPort(src).Port()
	synAck := <-n.tcpSeen
	for binary.BigEndian.Uint16(synAck[etherLen+ipv4Len+2:]) != port {
		synAck = <-n.tcpSeen // a busy machine has one sent twice
	}
	theirs := binary.BigEndian.Uint32(synAck[etherLen+ipv4Len+4:]) + 1
	n.write(tcpSegment(src, dst, "A", func(w *wire) { w.tcp.Seq, w.tcp.Ack = 1001, theirs }))
	return theirs
}

// addIdle makes addr a listener whose connections do nothing, and cost the test
// next to nothing.
func (d *labDialer) addIdle(t *testing.T, addr string) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d.add(addr, l.Addr().String())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { c.Close() })
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
}
