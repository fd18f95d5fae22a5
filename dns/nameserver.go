package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"github.com/sluicenet/sluice/policy"
)

// A Nameserver is an upstream of a configuration: an address, or a host that
// this machine's own resolver knows. The zero Nameserver is not valid; make one
// with ParseNameserver.
type Nameserver struct {
	Addr netip.Addr // valid iff Host is empty; may have a zone
	Host string     // canonical
	Port uint16
}

// ParseNameserver reads IP, IP:PORT, HOST or HOST:PORT; the port is 53 where
// none is given. An IPv6 address with a port stands in brackets.
func ParseNameserver(s string) (Nameserver, error) {
	// Addresses first: of "::1:53" the last part is no port, as of every IPv6
	// address without brackets.
	if addr, err := netip.ParseAddr(s); err == nil {
		return nameserverAt(s, netip.AddrPortFrom(addr, dnsPort))
	}
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return nameserverAt(s, ap)
	}
	host, port := s, uint64(dnsPort)
	if h, p, err := net.SplitHostPort(s); err == nil {
		if port, err = strconv.ParseUint(p, 10, 16); err != nil || port == 0 {
			return Nameserver{}, fmt.Errorf("parse nameserver %q: port %q is not in 1…65535", s, p)
		}
		host = h
	}
	// Not resolved here: who parses a configuration may have no network, and the
	// addresses may change while the sandbox runs.
	name, err := policy.ParseName(host)
	if err != nil {
		return Nameserver{}, fmt.Errorf("parse nameserver %q: neither IP, IP:PORT, HOST nor HOST:PORT: %w", s, err)
	}
	return Nameserver{Host: name, Port: uint16(port)}, nil
}

// nameserverAt returns the Nameserver at an address that can be asked.
func nameserverAt(s string, ap netip.AddrPort) (Nameserver, error) {
	addr := ap.Addr().Unmap()
	switch { // what could only be a slip, or would ask this host itself in disguise
	case ap.Port() == 0:
		return Nameserver{}, fmt.Errorf("parse nameserver %q: port 0 is not in 1…65535", s)
	case addr.IsUnspecified(), addr.IsMulticast():
		return Nameserver{}, fmt.Errorf("parse nameserver %q: %s is not the address of one host", s, addr)
	}
	return Nameserver{Addr: addr, Port: ap.Port()}, nil
}

// String returns the text that ParseNameserver reads.
func (n Nameserver) String() string {
	port := strconv.Itoa(int(n.Port))
	if n.Host != "" {
		return net.JoinHostPort(n.Host, port)
	}
	return net.JoinHostPort(n.Addr.String(), port)
}

// loadNameservers returns the loader of configured upstreams. The error of a
// host that can't be resolved matters only if no other upstream is left. lookup
// is this machine's resolver: to ask ourselves would be to ask for the one whom
// we need to answer.
func loadNameservers(list []Nameserver, lookup func(context.Context, string) ([]netip.Addr, error)) loader {
	return func(ctx context.Context) (upstreams, error) {
		var u upstreams
		var errs []error
		for _, n := range list {
			if n.Host == "" {
				u.servers = addServer(u.servers, netip.AddrPortFrom(n.Addr, n.Port))
				continue
			}
			// All of its addresses, in the place where it stands in the list.
			addrs, err := lookup(ctx, n.Host)
			if err != nil {
				// The others can still be asked; this one is tried again soon.
				errs = append(errs, fmt.Errorf("resolve nameserver %q: %w", n.Host, err))
			}
			for _, addr := range addrs {
				u.servers = addServer(u.servers, netip.AddrPortFrom(addr.Unmap(), n.Port))
			}
		}
		if len(u.servers) == 0 {
			return u, errors.Join(errs...)
		}
		return u, nil
	}
}

// hasHost reports whether a nameserver of list is given by name, and so may move.
func hasHost(list []Nameserver) bool {
	for _, n := range list {
		if n.Host != "" {
			return true
		}
	}
	return false
}
