package netlab

import "fmt"

// Drop makes the router lose what is on its way to the host's ports, TCP and UDP;
// without ports, everything for the host: a black hole.
func (h *Host) Drop(ports ...uint16) {
	h.t.Helper()
	h.filter("blackhole", ports)
}

// Prohibit makes the router answer with ICMP administratively prohibited instead.
// Linux may overlook the answer to a first IPv6 SYN, because here it comes before
// the system call that sent it has returned; the second SYN follows after 1 s.
func (h *Host) Prohibit(ports ...uint16) {
	h.t.Helper()
	h.filter("prohibit", ports)
}

// Unreachable makes the router answer with ICMP net unreachable (IPv6: no route)
// instead.
func (h *Host) Unreachable(ports ...uint16) {
	h.t.Helper()
	h.filter("unreachable", ports)
}

// filter adds the router's rules for the time of the test. What is allowed needs
// none: a port without a server is closed, and the host answers with a reset or
// ICMP port unreachable.
func (h *Host) filter(action string, ports []uint16) {
	h.t.Helper()
	selectors := []string{""}
	if len(ports) > 0 {
		selectors = nil
	}
	for _, port := range ports {
		for _, proto := range []string{"tcp", "udp"} {
			selectors = append(selectors, fmt.Sprintf(" ipproto %s dport %d", proto, port))
		}
	}
	for _, addr := range h.Addrs {
		var add, del []string
		for _, s := range selectors {
			rule := fmt.Sprintf("to %s/%d%s %s pref 100", addr, addr.BitLen(), s, action)
			add = append(add, "rule add "+rule)
			del = append(del, "rule del "+rule)
		}
		family := "-4"
		if addr.Is6() {
			family = "-6"
		}
		h.onClose(func() error { return ip(routerNS, family, del...) })
		if err := ip(routerNS, family, add...); err != nil {
			h.t.Fatal(err)
		}
	}
}
