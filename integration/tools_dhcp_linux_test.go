package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluicenet/sluice/internal/netlab"
	m "github.com/sluicenet/sluice/sdk"
)

// udhcpcScript does what the script of a distribution does with a lease.
const udhcpcScript = `#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr replace "$ip/$mask" dev "$interface"
ip link set "$interface" mtu "$mtu"
ip -4 route del default
[ -z "$router" ] || ip route add default via "$router"
for server in $dns; do echo "nameserver $server"; done > /etc/resolv.conf
`

// udhcpc returns a command line that asks for a lease and goes by it. It may be run
// again.
func udhcpc(t *testing.T) string {
	t.Helper()
	netlab.Tool(t, "busybox")
	script := filepath.Join(t.TempDir(), "udhcpc")
	if err := os.WriteFile(script, []byte(udhcpcScript), 0o755); err != nil {
		t.Fatal(err)
	}
	return "busybox udhcpc -f -n -q -t 5 -i eth0 -O mtu -s " + script
}

// TestToolsDHCP lets the DHCP clients of common systems configure a machine that
// nobody else has told anything, and its kernel hear the router advertisement: then
// it resolves names and reaches a host over both families.
func TestToolsDHCP(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ name, tool, line string }{
		{"udhcpc", "busybox", udhcpc(t)},
		{"dhclient", "dhclient", "dhclient -4 -1 -v -pf /run/dhclient.pid -lf /run/dhclient.leases eth0"},
	} {
		t.Run(row.name, func(t *testing.T) {
			lab := netlab.New(t)
			h := lab.Host(t, row.name+".dhcp.example")
			h.HTTP(80, hello)
			netlab.Tool(t, row.tool)
			c := startMachine(t, &m.NetworkConfig{MTU: 1400})
			c.want("ip link set eth0 mtu 1500 up", "")
			c.want(row.line, "")
			own, gateway := c.addrs[0], c.gateways[0]
			c.want("ip -4 -o addr show dev eth0", fmt.Sprintf("inet %v ", own))
			c.want("ip -4 route show default", fmt.Sprintf("default via %v dev eth0", gateway))
			c.want("cat /etc/resolv.conf", fmt.Sprintf("nameserver %v", gateway))
			c.want("ip link show eth0", "mtu 1400")
			// An advertisement answers the kernel's solicitation; its address takes a
			// second to be known as nobody else's.
			c.eventually("ip -6 -o addr show dev eth0 scope global -tentative", "inet6 "+strings.TrimSuffix(c.addrs[1].Masked().Addr().String(), "::"))
			c.eventually("ip -6 route show default", "default via fe80::")
			c.want("cat /proc/sys/net/ipv6/conf/eth0/mtu", "1400")
			for _, f := range families {
				c.want(fmt.Sprintf("curl -sS -%d --max-time 60 http://%s/", f, h.Name), "hello")
			}
		})
	}
}

// TestToolsDHCPv6 asks for what a stateless DHCPv6 server tells: the nameserver.
func TestToolsDHCPv6(t *testing.T) {
	t.Parallel()
	netlab.New(t)
	netlab.Tool(t, "dhclient")
	c := startMachine(t, &m.NetworkConfig{})
	c.want("ip link set eth0 up", "")
	c.eventually("ip -6 -o addr show dev eth0 scope global -tentative", "inet6 ")
	c.want("dhclient -6 -S -1 -v -pf /run/dhclient6.pid -lf /run/dhclient6.leases eth0", "")
	c.want("cat /etc/resolv.conf", fmt.Sprintf("nameserver %v", c.gateways[1]))
}

// networkd prepares a machine for systemd-networkd: a state of its own, and a /sys that
// nobody writes to, by which it knows that it needn't wait for udev.
const networkd = `mount -t tmpfs none /run && mount -t sysfs -o ro none /sys &&
mkdir -p /run/systemd/network /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp && chown -R systemd-network /run/systemd/netif &&
printf '[Match]\nName=eth0\n[Network]\nDHCP=ipv4\nIPv6AcceptRA=yes\n[DHCPv4]\nUseMTU=yes\n' >/run/systemd/network/eth0.network &&
(/lib/systemd/systemd-networkd >/run/networkd.log 2>&1 &) && echo started`

// TestToolsNetworkd lets systemd-networkd configure a machine: it does DHCP, router
// advertisements and stateless DHCPv6 by itself, without the kernel.
func TestToolsNetworkd(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	h := lab.Host(t, "networkd.dhcp.example")
	h.HTTP(80, hello)
	netlab.Tool(t, "/lib/systemd/systemd-networkd")
	c := startMachine(t, &m.NetworkConfig{MTU: 1400})
	c.want(networkd, "started")
	c.eventually("ip -4 -o addr show dev eth0", fmt.Sprintf("inet %v ", c.addrs[0]))
	c.eventually("ip -4 route show default", fmt.Sprintf("default via %v dev eth0", c.gateways[0]))
	c.eventually("ip link show eth0", "mtu 1400")
	c.eventually("ip -6 -o addr show dev eth0 scope global -tentative", "inet6 "+strings.TrimSuffix(c.addrs[1].Masked().Addr().String(), "::"))
	c.eventually("ip -6 route show default", "default via fe80::")
	c.eventually("cat /run/systemd/netif/leases/*", fmt.Sprintf("DNS=%v", c.gateways[0]))
	c.eventually("cat /run/systemd/netif/links/*", fmt.Sprint(c.gateways[1]))
	c.want("cat /run/systemd/netif/leases/* | grep ^DNS= | sed s/DNS=/nameserver\\ / >/etc/resolv.conf; cat /etc/resolv.conf", "nameserver")
	for _, f := range families {
		c.want(fmt.Sprintf("curl -sS -%d --max-time 60 http://%s/", f, h.Name), "hello")
	}
}
