package dns

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

const (
	dnsPort = 53

	// maxServers bounds the nameservers of one list. glibc asks three; more than
	// eight would never be reached within a query's time.
	maxServers = 8

	// maxDomains bounds the domains that have resolvers of their own.
	maxDomains = 256
)

// upstreams says whom to ask for which name. The zero value has nobody.
type upstreams struct {
	servers []netip.AddrPort // in the order to be asked
	domains []domainServers  // resolvers for parts of the name space
	// beyond tells what lies behind the servers, if one of them is a stub of
	// this host. It is compared only: when it changes, answers may have.
	beyond string
}

// domainServers are the resolvers for a domain and all below it.
type domainServers struct {
	domain  string // in text form
	servers []netip.AddrPort
}

// equal reports whether u and v say the same.
func (u upstreams) equal(v upstreams) bool {
	return u.beyond == v.beyond && slices.Equal(u.servers, v.servers) &&
		slices.EqualFunc(u.domains, v.domains, func(a, b domainServers) bool {
			return a.domain == b.domain && slices.Equal(a.servers, b.servers)
		})
}

// pick returns the servers for name: those of the longest domain that it is in,
// else the general ones. The caller must not change them.
func (u upstreams) pick(name string) []netip.AddrPort {
	best := -1 // in domains, of which there are few
	for i, d := range u.domains {
		if inDomain(name, d.domain) && (best < 0 || len(d.domain) > len(u.domains[best].domain)) {
			best = i
		}
	}
	if best >= 0 {
		return u.domains[best].servers
	}
	return u.servers
}

// inDomain reports whether name is domain or lies below it.
func inDomain(name, domain string) bool {
	rest, ok := strings.CutSuffix(name, domain)
	return ok && (rest == "" || strings.HasSuffix(rest, "."))
}

// parseResolvConf reads the nameserver lines of a resolv.conf(5). The search
// list and the options are for the host's programs; the guest has its own. A
// file without nameservers means this machine, as it does to the C library.
func parseResolvConf(text string) []netip.AddrPort {
	var servers []netip.AddrPort
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		// What is no address is passed over, as the C library does. A link-local
		// one has its zone: without it nobody knows on which link to ask.
		if addr, err := netip.ParseAddr(fields[1]); err == nil {
			servers = addServer(servers, netip.AddrPortFrom(addr.Unmap(), dnsPort))
		}
	}
	if len(servers) == 0 {
		// resolv.conf(5): "If no nameserver entries are present, the default is
		// to use the name server on the local machine."
		local4, local6 := netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()
		return []netip.AddrPort{netip.AddrPortFrom(local4, dnsPort), netip.AddrPortFrom(local6, dnsPort)}
	}
	return servers
}

// addServer appends s unless it is there or the list is full.
func addServer(list []netip.AddrPort, s netip.AddrPort) []netip.AddrPort {
	if len(list) >= maxServers || slices.Contains(list, s) {
		return list
	}
	return append(list, s)
}

// parseScutil reads what macOS's "scutil --dns" prints: the host's resolvers,
// with those for single domains (VPNs, /etc/resolver). The second half of that
// output, "for scoped queries", repeats them per interface for programs that
// bind to one.
func parseScutil(text string) upstreams {
	var u upstreams
	var r scutilResolver
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "DNS configuration (for scoped") {
			break
		}
		if strings.HasPrefix(line, "resolver #") { // the head of the next block
			r.addTo(&u)
			r = scutilResolver{}
			continue
		}
		// "nameserver[0] : 192.0.2.1"; the number is the order they stand in.
		key, value, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		value = strings.TrimSpace(value)
		key, _, _ = strings.Cut(strings.TrimSpace(key), "[")
		switch key := strings.TrimSpace(key); key {
		case "domain":
			r.domain = value
		case "nameserver":
			if addr, err := netip.ParseAddr(value); err == nil {
				r.addrs = append(r.addrs, addr.Unmap())
			}
		case "port":
			if port, err := strconv.ParseUint(value, 10, 16); err == nil {
				r.port = uint16(port)
			}
		case "options":
			r.mdns = strings.Contains(value, "mdns")
		}
	}
	r.addTo(&u)
	return u
}

// A scutilResolver is one block of scutil's output.
type scutilResolver struct {
	domain string
	addrs  []netip.Addr
	port   uint16 // 0 if not given
	mdns   bool   // multicast, which never leaves through us
}

// addTo adds the resolver to u. scutil prints resolvers in the order of their
// use, the first without a domain being the general one.
func (r scutilResolver) addTo(u *upstreams) {
	if len(r.addrs) == 0 || r.mdns {
		return
	}
	var servers []netip.AddrPort
	for _, addr := range r.addrs { // all have the port, which may follow them
		port := r.port
		if port == 0 {
			port = dnsPort
		}
		servers = addServer(servers, netip.AddrPortFrom(addr, port))
	}
	if r.domain == "" {
		if len(u.servers) == 0 { // the others are of interfaces that come second
			u.servers = servers
		}
		return
	}
	domain, ok := textName(r.domain)
	if !ok || len(u.domains) >= maxDomains {
		return
	}
	for _, d := range u.domains {
		if d.domain == domain {
			return // an earlier one is used before
		}
	}
	u.domains = append(u.domains, domainServers{domain, servers})
}
