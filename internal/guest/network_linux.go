package guest

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// maxGSO bounds a segmentation-offloaded frame in bytes. The links to the host
// carry no frame above 65550, and IPv6 jumbograms ("BIG TCP") would be one.
const maxGSO = 65536

// TuneKernel sets what the kernel of a guest does by itself in its network
// namespace. Call it while /proc/sys can be written, and before cards exist
// where that can be arranged; cards that exist are set too.
//
//   - IPv6 is on, whatever the host's default for new namespaces.
//   - No router advertisement is believed: routes are the agent's, and a second
//     source of default routes would outlive the host's word that a family is
//     not usable.
//   - No duplicate address detection: the guest is alone on its card, and a
//     tentative address can't be used for a second.
//   - ICMP echo sockets for every group, so that ping needs no privilege.
func TuneKernel() error {
	cards, err := filepath.Glob("/proc/sys/net/ipv6/conf/*")
	if err != nil {
		return err
	}
	for _, card := range cards { // none where the kernel has no IPv6
		for name, value := range map[string]string{"disable_ipv6": "0", "accept_ra": "0", "autoconf": "0", "accept_dad": "0", "dad_transmits": "0"} {
			if err := writeSysctl(filepath.Join(card, name), value); err != nil {
				return err
			}
		}
	}
	// The kernel wants group numbers that the user namespace maps.
	last, err := lastGroup()
	if err != nil {
		return err
	}
	return writeSysctl("/proc/sys/net/ipv4/ping_group_range", fmt.Sprintf("0 %d", last))
}

// writeSysctl writes a value to a file below /proc/sys.
func writeSysctl(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(value)
	return err
}

// lastGroup returns the last group of the first range that the user namespace
// maps, which begins at 0.
func lastGroup() (uint32, error) {
	text, err := os.ReadFile("/proc/self/gid_map")
	if err != nil {
		return 0, err
	}
	var inside, outside, size uint32
	if _, err := fmt.Sscan(string(text), &inside, &outside, &size); err != nil || inside != 0 || size == 0 {
		return 0, fmt.Errorf("read group map %q: it does not begin at group 0", strings.TrimSpace(string(text)))
	}
	return min(size-1, 1<<31-2), nil // 2^31-2 is the most the kernel takes
}

// loopbackUp brings up the loopback interface.
func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find loopback: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("bring up loopback: %w", err)
	}
	return nil
}

// configure makes the card what n says. It can be repeated: what is there
// stays, what is missing is added, default routes of an unusable family go.
//
// A kernel without IPv6 gets the IPv4 half.
func configure(n Network) error {
	if _, err := os.Stat("/proc/sys/net/ipv6"); errors.Is(err, os.ErrNotExist) {
		n = n.withoutIPv6()
	}
	card, err := findCard(n.Interface)
	if err != nil {
		return err
	}
	if err := bringUp(card, n.MTU); err != nil {
		return fmt.Errorf("bring up %s: %w", card.Attrs().Name, err)
	}
	for _, prefix := range n.Addrs {
		if err := addAddress(card, prefix); err != nil {
			return fmt.Errorf("add address %s: %w", prefix, err)
		}
	}
	for _, gateway := range n.Gateways {
		usable := n.Default4
		if gateway.Is6() {
			usable = n.Default6
		}
		if err := route(card, n, gateway, usable); err != nil {
			return fmt.Errorf("route by gateway %s: %w", gateway, err)
		}
	}
	return nil
}

// withoutIPv6 returns n without addresses and gateways of IPv6.
func (n Network) withoutIPv6() Network {
	n.Addrs = slices.DeleteFunc(slices.Clone(n.Addrs), func(p netip.Prefix) bool { return p.Addr().Is6() })
	n.Gateways = slices.DeleteFunc(slices.Clone(n.Gateways), netip.Addr.Is6)
	return n
}

// findCard returns the card of that name, or the only one but loopback.
func findCard(name string) (netlink.Link, error) {
	if name != "" {
		card, err := netlink.LinkByName(name)
		if err != nil {
			return nil, fmt.Errorf("find network card %q: %w", name, err)
		}
		return card, nil
	}
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list network cards: %w", err)
	}
	var card netlink.Link
	for _, l := range links {
		// A kernel with tunnels built in puts their fallback devices into every
		// namespace (tunl0, sit0, …); a card is of type Ethernet. libkrunfw's makes
		// a dummy0, which is too.
		if l.Attrs().Flags&net.FlagLoopback != 0 || l.Attrs().EncapType != "ether" || l.Type() == "dummy" {
			continue
		}
		if card != nil {
			return nil, fmt.Errorf("find network card: both %s and %s are one", card.Attrs().Name, l.Attrs().Name)
		}
		card = l
	}
	if card == nil {
		return nil, errors.New("find network card: there is none")
	}
	return card, nil
}

// bringUp sets the card's sizes and brings it up with a link-local address
// that is valid at once.
func bringUp(card netlink.Link, mtu int) error {
	if mtu != 0 {
		if err := netlink.LinkSetMTU(card, mtu); err != nil {
			return fmt.Errorf("set MTU %d: %w", mtu, err)
		}
	}
	// Only a card that can do segmentation has the setting.
	if err := netlink.LinkSetGSOMaxSize(card, maxGSO); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("set largest segment: %w", err)
	}
	if card.Attrs().Flags&net.FlagUp != 0 {
		return nil
	}
	// The kernel's own link-local address would be tentative; ours is the same
	// one, added without detection.
	err := netlink.LinkSetIP6AddrGenMode(card, addrGenModeNone)
	ipv6 := err == nil // an error: a kernel without IPv6
	if err := netlink.LinkSetUp(card); err != nil {
		return err
	}
	if mac := card.Attrs().HardwareAddr; ipv6 && len(mac) == 6 {
		return addAddress(card, netip.PrefixFrom(linkLocal([6]byte(mac)), 64))
	}
	return nil
}

// addrGenModeNone is IN6_ADDR_GEN_MODE_NONE of linux/if_link.h: the kernel makes
// no link-local address.
const addrGenModeNone = 1

// linkLocal returns the link-local address of a card: its EUI-64
// (https://www.rfc-editor.org/rfc/rfc4291#appendix-A).
func linkLocal(mac [6]byte) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80,
		8: mac[0] ^ 2, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5]})
}

// addAddress adds an address with its on-link route; it is never tentative.
func addAddress(card netlink.Link, p netip.Prefix) error {
	addr := &netlink.Addr{IPNet: ipNet(p)}
	if p.Addr().Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	return netlink.AddrReplace(card, addr)
}

// route makes gateway reachable on the link, and the default route of its
// family if that is usable. If it isn't, a default route is removed.
func route(card netlink.Link, n Network, gateway netip.Addr, usable bool) error {
	index := card.Attrs().Index
	onLink := false
	for _, p := range n.Addrs {
		onLink = onLink || p.Masked().Contains(gateway)
	}
	if !onLink {
		host := netip.PrefixFrom(gateway, gateway.BitLen())
		if err := netlink.RouteReplace(&netlink.Route{LinkIndex: index, Dst: ipNet(host), Scope: netlink.SCOPE_LINK}); err != nil {
			return fmt.Errorf("add on-link route: %w", err)
		}
	}
	if len(n.GatewayMAC) > 0 {
		neighbour := &netlink.Neigh{LinkIndex: index, IP: gateway.AsSlice(),
			HardwareAddr: net.HardwareAddr(n.GatewayMAC), State: netlink.NUD_PERMANENT}
		if err := netlink.NeighSet(neighbour); err != nil {
			return fmt.Errorf("add neighbour: %w", err)
		}
	}
	everything := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	if gateway.Is6() {
		everything = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	byGateway := &netlink.Route{LinkIndex: index, Dst: ipNet(everything), Gw: gateway.AsSlice()}
	if usable {
		return netlink.RouteReplace(byGateway)
	}
	if err := netlink.RouteDel(byGateway); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("remove default route: %w", err)
	}
	return nil
}

// ipNet returns p, its host bits kept, as netlink wants it.
func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
