package netlab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
)

// connect makes a host's namespace and joins it to the router, through as many
// further routers as hops says. Closing the host undoes it.
func (l *Lab) connect(h *Host, hops int) error {
	behind := h.Addrs
	var chain []hop
	for i := hops; i >= 1; i-- {
		own := []netip.Addr{nth(hops4(i), h.number), nth(hops6(i), h.number)}
		behind = append(own, behind...)
		chain = append([]hop{{namespace: fmt.Sprintf("%sh%d", h.namespace, i), own: own, behind: behind}}, chain...)
	}
	chain = append(chain, hop{namespace: h.namespace, own: h.Addrs, behind: h.Addrs})
	up := routerNS
	for _, next := range chain {
		next.up = up
		// Registered first: what a failed join leaves is taken away too.
		h.onClose(func() error { return next.unjoin(h.number) })
		if err := next.join(h.number); err != nil {
			return err
		}
		if next.namespace != h.namespace {
			if err := l.forward(next.namespace); err != nil {
				return err
			}
		}
		h.last = next
		up = next.namespace
	}
	return nil
}

// A hop is a namespace on the way to a host, or the host itself.
type hop struct {
	up        string // the namespace that it is joined to
	namespace string
	own       []netip.Addr // its addresses: those that a traceroute prints
	behind    []netip.Addr // those and the ones that it leads to
}

// hops4 and hops6 are the networks of the routers at a distance.
func hops4(distance int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{93, 184, byte(224 + distance), 0}), 24)
}

func hops6(distance int) netip.Prefix {
	b := public6.Addr().As16()
	b[7] = byte(0x80 + distance)
	return netip.PrefixFrom(netip.AddrFrom16(b), 64)
}

// join makes the hop's namespace and joins it by a veth pair.
func (h hop) join(number int) error {
	iface := fmt.Sprintf("r%d", number)
	if err := ip("", "",
		"netns add "+h.namespace,
		fmt.Sprintf("link add %s netns %s type veth peer name eth0 netns %s", iface, h.up, h.namespace),
	); err != nil {
		return err
	}
	return h.configure(iface)
}

// configure gives both ends of the hop's link, which above is called iface, their
// addresses and routes. The ends share no subnet, and routes of both families go by
// way of the link-local addresses, so any address can be anybody's.
func (h hop) configure(iface string) error {
	above := []string{
		"link set " + iface + " up addrgenmode none",
		"addr add fe80::1/64 dev " + iface + " nodad",
	}
	for _, a := range h.behind {
		above = append(above, fmt.Sprintf("route add %s via inet6 fe80::2 dev %s", a, iface))
	}
	if err := ip(h.up, "", above...); err != nil {
		return err
	}
	below := []string{
		"link set lo up",
		"link set eth0 up addrgenmode none",
		"addr add fe80::2/64 dev eth0 nodad",
	}
	for _, a := range h.own {
		below = append(below, addAddr(a))
	}
	return ip(h.namespace, "", append(below,
		"route add 0.0.0.0/0 via inet6 fe80::1 dev eth0",
		"route add ::/0 via fe80::1 dev eth0",
	)...)
}

// addAddr returns the command that gives eth0 an address, usable at once.
func addAddr(a netip.Addr) string {
	if a.Is4() {
		return fmt.Sprintf("addr add %s/32 dev eth0", a)
	}
	return fmt.Sprintf("addr add %s/128 dev eth0 nodad", a)
}

// unjoin undoes join. The interface goes first: a namespace lives on while a
// socket in it is open, and its routes with it.
func (h hop) unjoin(number int) error {
	return errors.Join(
		ip(h.up, "", fmt.Sprintf("link del r%d", number)),
		ip("", "", "netns del "+h.namespace),
	)
}

// forward makes a namespace a router, with no bound on the errors that it sends.
func (l *Lab) forward(namespace string) error {
	for _, s := range []struct{ file, value string }{
		{"ipv4/ip_forward", "1"},
		{"ipv6/conf/all/forwarding", "1"},
		{"ipv4/icmp_ratelimit", "0"}, // a test may be answered by a thousand a second
		// All of a router's errors together: a scan beside it takes a test's away. A
		// kernel before 6.12 has these for the machine as a whole only.
		{"ipv4/icmp_msgs_per_sec", "1000000"},
		{"ipv4/icmp_msgs_burst", "100000"},
		{"ipv6/icmp/ratelimit", "0"},
	} {
		if err := l.agent.sysctl(context.Background(), namespace, s.file, s.value); err != nil {
			return err
		}
	}
	return nil
}
