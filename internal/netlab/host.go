package netlab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"testing"
)

// A Host is a machine of the lab: a network namespace behind the router. Its
// servers are closures of the test that made it and end with that test.
type Host struct {
	Name  string       // in the lab's DNS
	IP4   netip.Addr   // the first IPv4 address; not valid if it has none
	IP6   netip.Addr   // the first IPv6 address; not valid if it has none
	Addrs []netip.Addr // all

	t         testing.TB // nil for the lab's own
	lab       *Lab
	number    int // unique among the hosts that exist
	namespace string
	last      hop // the host itself, with what it is joined to

	mu      sync.Mutex     // guards closers
	closers []func() error // in the order of starting
	wg      sync.WaitGroup // the servers' goroutines
}

// Host makes a host for the time of a test. Without addresses it gets the next
// public IPv4 and IPv6 address; with them it gets exactly those, of whatever class
// they are. The name resolves to its addresses.
func (l *Lab) Host(t testing.TB, name string, addrs ...string) *Host {
	t.Helper()
	return l.DistantHost(t, 0, name, addrs...)
}

// DistantHost is Host with more routers on the way: a packet to it passes hops
// routers behind the lab's first one.
func (l *Lab) DistantHost(t testing.TB, hops int, name string, addrs ...string) *Host {
	t.Helper()
	h, err := l.addHost(t, hops, name, addrs)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.close(); err != nil {
			t.Errorf("host %s: %v", name, err)
		}
	})
	l.DNS.addHost(t, h)
	return h
}

func (l *Lab) addHost(t testing.TB, hops int, name string, addrs []string) (*Host, error) {
	h := &Host{Name: name, t: t, lab: l}
	for _, a := range addrs {
		addr, err := netip.ParseAddr(a)
		if err != nil {
			return nil, err
		}
		h.Addrs = append(h.Addrs, addr)
	}
	if err := l.claim(h); err != nil {
		return nil, err
	}
	if i := slices.IndexFunc(h.Addrs, netip.Addr.Is4); i >= 0 {
		h.IP4 = h.Addrs[i]
	}
	if i := slices.IndexFunc(h.Addrs, netip.Addr.Is6); i >= 0 {
		h.IP6 = h.Addrs[i]
	}
	if err := l.connect(h, hops); err != nil {
		return nil, errors.Join(err, h.close())
	}
	return h, nil
}

// claim gives the host a number, addresses if it has none, and makes sure that no
// two hosts of parallel tests share an address.
func (l *Lab) claim(h *Host) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	h.number = firstHost
	for l.numbers[h.number] {
		h.number++
	}
	if h.number > lastHost {
		return fmt.Errorf("host %s: the lab is full", h.Name)
	}
	if len(h.Addrs) == 0 {
		h.Addrs = []netip.Addr{nth(public4, h.number), nth(public6, h.number)}
	}
	for _, a := range h.Addrs {
		if owner, taken := l.owners[a]; taken {
			return fmt.Errorf("address %v of host %s is that of %s", a, h.Name, owner)
		}
	}
	l.numbers[h.number] = true
	for _, a := range h.Addrs {
		l.owners[a] = h.Name
	}
	h.namespace = fmt.Sprintf("n%d", h.number)
	return nil
}

func (l *Lab) release(h *Host) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.numbers, h.number)
	for _, a := range h.Addrs {
		delete(l.owners, a)
	}
}

// nth returns a prefix's address by the number of its host, at most 254.
func nth(p netip.Prefix, number int) netip.Addr {
	b := p.Addr().AsSlice()
	b[len(b)-1] = byte(number)
	a, _ := netip.AddrFromSlice(b)
	return a
}

// Listen opens a TCP listener ("tcp", "tcp4", "tcp6") on a port of the host; 0 is
// a free one. It is closed with the host.
func (h *Host) Listen(network string, port uint16) net.Listener {
	h.t.Helper()
	l, err := h.lab.agent.listen(h.t.Context(), h.namespace, network, net.JoinHostPort("", strconv.Itoa(int(port))))
	if err != nil {
		h.t.Fatal(err)
	}
	h.onClose(l.Close)
	return l
}

// ListenPacket opens a UDP socket ("udp4", "udp6") on a port of the host; 0 is a
// free one. One family each, so that a reply leaves from the address that was
// asked. It is closed with the host.
func (h *Host) ListenPacket(network string, port uint16) net.PacketConn {
	h.t.Helper()
	c, err := h.listenPacket(h.t.Context(), network, port)
	if err != nil {
		h.t.Fatal(err)
	}
	return c
}

func (h *Host) listenPacket(ctx context.Context, network string, port uint16) (net.PacketConn, error) {
	c, err := h.lab.agent.listenPacket(ctx, h.namespace, network, net.JoinHostPort("", strconv.Itoa(int(port))))
	if err == nil {
		h.onClose(c.Close)
	}
	return c, err
}

// Dial connects from the host to an address and port. The caller closes the
// connection. The error keeps the system's errno.
func (h *Host) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return h.lab.agent.dial(ctx, h.namespace, network, address)
}

// Command returns a command that will run on the host.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + namespacePath(h.namespace), name}, args...)...)
}

// Endpoint returns the host's address of a family, 4 or 6, with a port, for
// example "[2606:2800:220::a]:80".
func (h *Host) Endpoint(family int, port uint16) string {
	addr := h.IP4
	if family == 6 {
		addr = h.IP6
	}
	return netip.AddrPortFrom(addr, port).String()
}

// To matches packets to any of the host's addresses; see Watch.
func (h *Host) To() func(Packet) bool {
	return func(p Packet) bool { return slices.Contains(h.Addrs, p.Dst.Addr()) }
}

// onClose makes close a part of the host's; the last one added runs first.
func (h *Host) onClose(close func() error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closers = append(h.closers, close)
}

// onCloseLast makes close the last part of the host's.
func (h *Host) onCloseLast(close func() error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closers = slices.Insert(h.closers, 0, close)
}

// close ends the host's servers, waits for them, and takes the host off the net.
func (h *Host) close() error {
	h.mu.Lock()
	closers := h.closers
	h.closers = nil
	h.mu.Unlock()
	var errs []error
	for _, close := range slices.Backward(closers) {
		if err := close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	h.wg.Wait()
	h.lab.release(h)
	return errors.Join(errs...)
}
