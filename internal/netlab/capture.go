package netlab

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"
)

// A Packet is what is remembered of a packet that left here.
type Packet struct {
	Protocol uint8 // IP protocol: 1, 6, 17, 58, …; for IPv6 behind the extension headers
	Src      netip.Addr
	Dst      netip.AddrPort // the port is zero for other than TCP and UDP, and for fragments after the first
}

// A capture counts the packets on one interface. It sees each before a route or
// rule of the router does.
type capture struct {
	file *os.File      // an AF_PACKET socket
	done chan struct{} // closed when run has ended

	// flush sends a packet that the capture sees after all earlier ones, and
	// returns how it looks.
	flush func() (Packet, error)

	flushing sync.Mutex // held by one synchronisation at a time

	mu     sync.Mutex // guards the following fields
	seen   *sync.Cond // something was counted, or run ended
	counts map[Packet]int
	lost   int // packets that found no room in the socket
	ended  bool
}

func newCapture(file *os.File, flush func() (Packet, error)) *capture {
	c := &capture{file: file, done: make(chan struct{}), flush: flush, counts: make(map[Packet]int)}
	c.seen = sync.NewCond(&c.mu)
	go c.run()
	return c
}

// run counts until the socket is closed.
func (c *capture) run() {
	defer close(c.done)
	frame := make([]byte, 256) // headers; the rest is cut off
	for {
		n, err := c.file.Read(frame)
		if err != nil {
			break
		}
		if p, ok := parsePacket(frame[:n]); ok {
			c.mu.Lock()
			c.counts[p]++
			c.mu.Unlock()
			c.seen.Broadcast()
		}
	}
	c.mu.Lock()
	c.ended = true
	c.mu.Unlock()
	c.seen.Broadcast()
}

// close ends the capture and waits for its goroutine.
func (c *capture) close() error {
	err := c.file.Close()
	<-c.done
	return err
}

// sync waits until every packet that was sent before the call is counted.
func (c *capture) sync() error {
	c.flushing.Lock()
	defer c.flushing.Unlock()
	before, _ := c.snapshot()
	p, err := c.flush()
	if err != nil {
		return fmt.Errorf("flush the capture: %w", err)
	}
	late := false
	timeout := time.AfterFunc(flushPatience, func() {
		c.mu.Lock()
		late = true
		c.mu.Unlock()
		c.seen.Broadcast()
	})
	defer timeout.Stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.counts[p] == before[p] && !late && !c.ended {
		c.seen.Wait()
	}
	if c.ended {
		return fmt.Errorf("flush the capture: %w", net.ErrClosed)
	}
	if late {
		return fmt.Errorf("flush the capture: %w", os.ErrDeadlineExceeded)
	}
	lost, err := captureLost(c.file)
	c.lost += lost
	return err
}

// snapshot returns what was counted until now, and how many packets weren't.
func (c *capture) snapshot() (counts map[Packet]int, lost int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.counts), c.lost
}

// watch returns a Watch that begins now.
func (c *capture) watch(t testing.TB) *Watch {
	t.Helper()
	if err := c.sync(); err != nil {
		t.Fatal(err)
	}
	w := &Watch{capture: c}
	w.before, w.lostBefore = c.snapshot()
	return w
}

// A Watch counts the packets that left here since it was made. What answers them
// isn't counted. Its methods may be called concurrently.
type Watch struct {
	capture    *capture
	before     map[Packet]int
	lostBefore int
}

// Packets returns what was seen, with how often. It waits for what is still on
// its way, and fails t if the kernel couldn't hand over everything: then nothing
// can be said of what wasn't seen.
func (w *Watch) Packets(t testing.TB) map[Packet]int {
	t.Helper()
	if err := w.capture.sync(); err != nil {
		t.Fatal(err)
	}
	now, lost := w.capture.snapshot()
	if lost > w.lostBefore {
		t.Fatalf("the capture lost %d packets", lost-w.lostBefore)
	}
	for p, n := range w.before {
		if now[p] -= n; now[p] == 0 {
			delete(now, p)
		}
	}
	maps.DeleteFunc(now, func(p Packet, _ int) bool { return p.Dst.Port() == flushPort })
	return now
}

// Count returns how many packets match.
func (w *Watch) Count(t testing.TB, match func(Packet) bool) int {
	t.Helper()
	total := 0
	for p, n := range w.Packets(t) {
		if match(p) {
			total += n
		}
	}
	return total
}

// None fails t if a packet was seen for which match is true, and says which.
func (w *Watch) None(t testing.TB, match func(Packet) bool) {
	t.Helper()
	for p, n := range w.Packets(t) {
		if match(p) {
			t.Errorf("%d packets of protocol %d left for %v, want none", n, p.Protocol, p.Dst)
		}
	}
}

// To matches packets to any of the addresses or prefixes, for example
// "169.254.169.254" or "10.0.0.0/8".
func To(dst ...string) func(Packet) bool {
	var prefixes []netip.Prefix
	for _, s := range dst {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			a := netip.MustParseAddr(s)
			p = netip.PrefixFrom(a, a.BitLen())
		}
		prefixes = append(prefixes, p)
	}
	return func(p Packet) bool {
		for _, prefix := range prefixes {
			if prefix.Contains(p.Dst.Addr()) {
				return true
			}
		}
		return false
	}
}

// ToPort matches packets to a port, of any protocol that has ports.
func ToPort(port uint16) func(Packet) bool {
	return func(p Packet) bool { return p.Dst.Port() == port }
}

// flushPatience is how long a flush may take: on a busy machine, a long time.
const flushPatience = 10 * time.Second

// flushPort is the UDP port that only a capture's own packets go to: discard.
const flushPort = 9

// flushTo returns a flush that sends a datagram to addr from here.
func flushTo(addr netip.Addr) func() (Packet, error) {
	dst := netip.AddrPortFrom(addr, flushPort)
	return func() (Packet, error) {
		c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(dst))
		if err != nil {
			return Packet{}, err
		}
		defer c.Close()
		src := c.LocalAddr().(*net.UDPAddr).AddrPort().Addr()
		if _, err := c.Write([]byte("flush")); err != nil {
			return Packet{}, err
		}
		return Packet{Protocol: 17, Src: src, Dst: dst}, nil
	}
}

// parsePacket reads the headers of an Ethernet frame; ok reports whether there is
// an IP packet in it.
func parsePacket(frame []byte) (p Packet, ok bool) {
	if len(frame) < 14+20 {
		return Packet{}, false
	}
	b := frame[14:]
	switch binary.BigEndian.Uint16(frame[12:]) {
	case 0x0800:
		ihl := int(b[0]&15) * 4
		src, dst := netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
		first := binary.BigEndian.Uint16(b[6:])&0x1fff == 0
		return Packet{b[9], src, netip.AddrPortFrom(dst, dstPort(b[9], b, ihl, first))}, true
	case 0x86dd:
		if len(b) < 40 {
			return Packet{}, false
		}
		src, dst := netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
		proto, offset, first := skipExtensions(b)
		return Packet{proto, src, netip.AddrPortFrom(dst, dstPort(proto, b, offset, first))}, true
	}
	return Packet{}, false
}

func dstPort(proto uint8, b []byte, offset int, first bool) uint16 {
	if (proto != 6 && proto != 17) || !first || offset+4 > len(b) {
		return 0
	}
	return binary.BigEndian.Uint16(b[offset+2:])
}

// skipExtensions returns the transport protocol of an IPv6 packet, its offset, and
// whether this is a first or only fragment.
func skipExtensions(b []byte) (proto uint8, offset int, first bool) {
	proto, offset, first = b[6], 40, true
	for offset+8 <= len(b) {
		switch proto {
		case 0, 43, 60: // hop-by-hop, routing, destination options
			proto, offset = b[offset], offset+8+int(b[offset+1])*8
		case 44: // fragment
			first = first && binary.BigEndian.Uint16(b[offset+2:])&^7 == 0
			proto, offset = b[offset], offset+8
		default:
			return proto, offset, first
		}
	}
	return proto, offset, first
}
