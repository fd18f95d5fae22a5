package integration

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/hv/hvtest"
	"github.com/sluicenet/sluice/internal/netlab"
	m "github.com/sluicenet/sluice/sdk"
	"github.com/sluicenet/sluice/vnet/link"
)

// A machine is a guest with a kernel's whole network and every capability, as in a
// virtual machine: scanners need packet sockets, and DHCP clients set addresses,
// both of which the namespace backend refuses to its guests. It is a network
// namespace whose TAP is cabled to the card of a fake hypervisor's guest. The
// sandbox around it is a real one.
type machine struct {
	console
	name     string // the sandbox's, and the namespace's
	sandbox  *m.Sandbox
	card     link.Link
	addrs    []netip.Prefix // what it was given, IPv4 first
	gateways []netip.Addr
	mtu      int
}

// machines counts them, for their names.
var machines atomic.Int32

// startMachine starts a machine for the time of a test. Nothing configures its
// card; see setUp.
func startMachine(t *testing.T, network *m.NetworkConfig) *machine {
	t.Helper()
	if os.Geteuid() != 0 {
		netlab.Skip(t, "netlab", "a machine's namespace needs root")
	}
	name := fmt.Sprintf("machine%d", machines.Add(1))
	fake := new(hvtest.Fake)
	sandbox, err := m.CreateSandbox(t.Context(), name, m.WithHypervisor(fake), m.WithNetwork(network))
	if err != nil {
		t.Fatal(err)
	}
	vm := fake.Guests()[0]
	config := vm.Bootstrap().Network
	c := &machine{console: console{t: t}, name: name, sandbox: sandbox, card: vm.Card(), addrs: config.Addrs, gateways: config.Gateways, mtu: config.MTU}
	t.Cleanup(func() {
		if err := sandbox.Close(); err != nil {
			t.Errorf("close the sandbox: %v", err)
		}
	})
	c.plugIn(vm.Config().NIC.MAC)
	c.boot()
	return c
}

// plugIn makes the namespace, and cables its eth0 to the card.
func (c *machine) plugIn(mac net.HardwareAddr) {
	c.t.Helper()
	tap, err := openTAP(c.name)
	if err != nil {
		c.t.Fatal(err)
	}
	var cable sync.WaitGroup
	cable.Go(func() { carry(tap, c.card) })
	cable.Go(func() { carry(c.card, tap) })
	c.t.Cleanup(func() {
		tap.Close()
		c.card.Close()
		cable.Wait()
	})
	for _, line := range []string{
		"netns add " + c.name,
		fmt.Sprintf("link set %s address %s mtu %d netns %s name eth0", c.name, mac, c.mtu, c.name),
		fmt.Sprintf("-n %s link set lo up", c.name),
	} {
		if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			c.t.Fatalf("ip %s: %v\n%s", line, err, out)
		}
	}
	c.t.Cleanup(func() {
		if out, err := exec.Command("ip", "netns", "del", c.name).CombinedOutput(); err != nil {
			c.t.Errorf("remove namespace %s: %v\n%s", c.name, err, out)
		}
	})
}

// boot starts a shell in the namespace, on a copy of /etc that a DHCP client may
// write to. Processes that a client leaves behind end with the test.
func (c *machine) boot() {
	c.t.Helper()
	// t.Context ends before the cleanup, and with it a shell that shall end by itself.
	shell, err := netlab.StartShell(context.Background(), "nsenter", "--net=/run/netns/"+c.name,
		"unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c",
		"mount -t tmpfs tmpfs /run && cp -a /etc /run/etc && mount --bind /run/etc /etc && rm -f /etc/resolv.conf && exec sh")
	if err != nil {
		c.t.Fatal(err)
	}
	c.shell = shell
	c.t.Cleanup(func() {
		if err := shell.Close(); err != nil {
			c.t.Errorf("the machine's shell: %v\n%s", err, shell.Stderr())
		}
	})
}

// openTAP makes a TAP here, with every offload that a guest's card has.
func openTAP(name string) (link.Link, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return nil, err
	}
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		return nil, fmt.Errorf("make TAP %s: %w", name, err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, link.TAPHeaderLen); err != nil {
		return nil, fmt.Errorf("set header of TAP %s: %w", name, err)
	}
	return link.Open(os.NewFile(uintptr(fd), name), link.TAP)
}

// carry is one direction of a cable, until an end of it is closed.
func carry(from, to link.Link) {
	frames := make([]link.Frame, 64)
	memory := make([]byte, len(frames)*link.MaxFrame)
	for {
		for i := range frames {
			frames[i] = link.Frame{Data: memory[i*link.MaxFrame : i*link.MaxFrame : (i+1)*link.MaxFrame]}
		}
		n, err := from.ReadFrames(frames)
		if err != nil {
			return
		}
		if _, err := to.WriteFrames(frames[:n]); err != nil {
			return
		}
	}
}

// setUp configures the card as the agent in a guest does.
func (c *machine) setUp() {
	c.t.Helper()
	c.want("ip link set eth0 addrgenmode none up", "")
	for i, p := range c.addrs {
		c.want(fmt.Sprintf("ip addr add %v dev eth0 nodad && ip route add default via %v", p, c.gateways[i]), "")
	}
	c.want(fmt.Sprintf("echo nameserver %v > /etc/resolv.conf", c.gateways[0]), "")
}
