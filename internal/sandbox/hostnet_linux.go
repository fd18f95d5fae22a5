package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// readHostNet reads all routing tables: every address of type local in one of
// them is the host's own, whatever interface it is on. See hostNet.
func readHostNet() (hostNet, error) {
	routes, err := allRoutes()
	if err != nil {
		return hostNet{}, fmt.Errorf("list routes: %w", err)
	}
	var h hostNet
	for _, r := range routes {
		p, ok := destination(r)
		if !ok {
			continue
		}
		switch r.Type {
		case unix.RTN_LOCAL:
			h.addLocal(p)
		case unix.RTN_UNICAST:
			if !onLoopback(r) {
				h.addRoute(p)
			}
		}
	}
	return h.sorted(), nil
}

// allRoutes returns the routes of all tables. A list that changed while it was
// read is read again, a few times; after that what came is good enough, since
// the change is announced too.
func allRoutes() ([]netlink.Route, error) {
	for attempt := 1; ; attempt++ {
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL,
			&netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		if !errors.Is(err, netlink.ErrDumpInterrupted) || attempt == 4 {
			if errors.Is(err, netlink.ErrDumpInterrupted) {
				err = nil
			}
			return routes, err
		}
	}
}

// destination returns where a route leads; a default route has no destination,
// only a family.
func destination(r netlink.Route) (netip.Prefix, bool) {
	if r.Dst == nil || r.Dst.IP == nil {
		switch r.Family {
		case unix.AF_INET:
			return netip.PrefixFrom(netip.IPv4Unspecified(), 0), true
		case unix.AF_INET6:
			return netip.PrefixFrom(netip.IPv6Unspecified(), 0), true
		}
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(r.Dst.IP)
	if !ok {
		return netip.Prefix{}, false
	}
	ones, bits := r.Dst.Mask.Size()
	a = a.Unmap()
	if bits != a.BitLen() {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(a, ones), true
}

// loopbackIndex is the loopback interface's, in every network namespace.
const loopbackIndex = 1

// onLoopback reports whether a route leads to the host itself.
func onLoopback(r netlink.Route) bool { return r.LinkIndex == loopbackIndex }

// watchHostNet listens to the kernel's announcements (rtnetlink(7)). See
// hostNet.
func watchHostNet(ctx context.Context, changed func()) (<-chan struct{}, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open routing socket: %w", err)
	}
	f := os.NewFile(uintptr(fd), "rtnetlink")
	if err := unix.Bind(fd, &unix.SockaddrNetlink{
		Family: unix.AF_NETLINK,
		Groups: unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR | unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_ROUTE,
	}); err != nil {
		return nil, errors.Join(fmt.Errorf("watch routes: %w", err), f.Close())
	}
	done := make(chan struct{})
	go followFile(ctx, f, changed, done)
	return done, nil
}
