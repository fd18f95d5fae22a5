package netlab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// Addresses of here and of the router. Hosts without explicit addresses are
// numbered in the public networks, which classify as public under any reading
// of the IANA registries.
var (
	Here4   = netip.MustParseAddr("192.168.50.2")        // this machine's address in its private LAN
	Here6   = netip.MustParseAddr("2606:2800:220:50::2") // global
	Router4 = netip.MustParseAddr("192.168.50.1")
	Router6 = netip.MustParseAddr("2606:2800:220:50::1")
	public4 = netip.MustParsePrefix("93.184.216.0/24")
	public6 = netip.MustParsePrefix("2606:2800:220::/64")
)

// Namespaces, as iproute2 knows them.
const (
	hereNS   = "here" // this process's
	routerNS = "router"
)

// Numbers of hosts in the public networks.
const (
	firstHost = 10
	lastHost  = 254
)

// A Lab is the internet of a test binary. Its methods may be called by parallel
// tests.
type Lab struct {
	CA  *CA
	DNS *DNS

	agent    *agent
	wire     *capture // of what leaves here, at the router
	loopback *capture
	dnsHost  *Host

	mu      sync.Mutex            // guards the following fields
	numbers map[int]bool          // of hosts that exist
	owners  map[netip.Addr]string // by address, the host's name
}

// theLab is the process's one lab, since the process has one namespace.
var theLab lazyLab

// A lazyLab is made when the first test asks for it.
type lazyLab struct {
	mu     sync.Mutex
	lab    *Lab
	err    error
	closed bool
}

func (l *lazyLab) get() (*Lab, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, errors.New("netlab.New after the last test")
	}
	if l.lab == nil && l.err == nil {
		l.lab, l.err = build()
	}
	return l.lab, l.err
}

func (l *lazyLab) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if l.lab == nil {
		return nil
	}
	err := l.lab.close()
	l.lab = nil
	return err
}

// New returns the process's lab, and makes it at the first call. It skips t where
// there are no namespaces.
func New(t testing.TB) *Lab {
	t.Helper()
	if err := Outside(); err != nil {
		Skip(t, "netlab", err.Error())
	}
	lab, err := theLab.get()
	if err != nil {
		t.Fatal("build the lab: ", err)
	}
	return lab
}

func build() (*Lab, error) {
	lab := &Lab{numbers: make(map[int]bool), owners: make(map[netip.Addr]string)}
	if err := lab.start(); err != nil {
		return nil, errors.Join(err, lab.close())
	}
	return lab, nil
}

// start makes the router, the way to it from here, the DNS, and makes this machine
// use them.
func (l *Lab) start() (err error) {
	if l.agent, err = startAgent(); err != nil {
		return err
	}
	if err = l.buildRouter(); err != nil {
		return err
	}
	if err = checkEnclosed(); err != nil {
		return err
	}
	if l.wire, err = l.startCapture(routerNS, "lan", Router4); err != nil {
		return err
	}
	if l.loopback, err = l.startCapture(hereNS, "lo", netip.MustParseAddr("127.0.0.1")); err != nil {
		return err
	}
	if l.CA, err = NewCA(time.Now()); err != nil {
		return err
	}
	if err = os.WriteFile(caBundle, l.CA.PEM(), 0); err != nil {
		return fmt.Errorf("trust the lab's CA (is ca-certificates installed?): %w", err)
	}
	return l.startDNS()
}

func (l *Lab) buildRouter() error {
	if err := ip("", "",
		fmt.Sprintf("netns attach %s %d", hereNS, os.Getpid()),
		"netns add "+routerNS,
		"link add wan type veth peer name lan netns "+routerNS,
		"link set wan up addrgenmode none",
		"addr add 192.168.50.2/24 dev wan",
		"addr add 2606:2800:220:50::2/64 dev wan nodad",
		"addr add fe80::2/64 dev wan nodad",
	); err != nil {
		return err
	}
	if err := l.forward(routerNS); err != nil {
		return err
	}
	if err := ip(routerNS, "",
		"link set lo up",
		"link set lan up addrgenmode none",
		"addr add 192.168.50.1/24 dev lan",
		"addr add 2606:2800:220:50::1/64 dev lan nodad",
		"addr add fe80::1/64 dev lan nodad",
	); err != nil {
		return err
	}
	return ip("", "", "route add default via 192.168.50.1 dev wan", "route add default via fe80::1 dev wan")
}

// checkEnclosed makes sure that every default route of here leads to the router.
func checkEnclosed() error {
	for _, family := range []string{"-4", "-6"} {
		out, err := exec.Command("ip", family, "route", "show", "default").Output()
		if err != nil {
			return fmt.Errorf("list default routes: %w", err)
		}
		for line := range strings.Lines(string(out)) {
			if !strings.Contains(line, " dev wan ") {
				return fmt.Errorf("a default route leads outside the lab: %s", line)
			}
		}
	}
	return nil
}

func (l *Lab) startCapture(namespace, iface string, flush netip.Addr) (*capture, error) {
	q := request{Op: "capture", Namespace: namespace, Address: iface}
	file, err := l.agent.do(context.Background(), q)
	if err != nil {
		return nil, err
	}
	return newCapture(file, flushTo(flush)), nil
}

// Watch begins to count the packets that leave here for the internet, whoever
// sends them and whether or not their destination exists.
func (l *Lab) Watch(t testing.TB) *Watch {
	t.Helper()
	return l.wire.watch(t)
}

// WatchLoopback begins to count the packets on this machine's loopback interface.
func (l *Lab) WatchLoopback(t testing.TB) *Watch {
	t.Helper()
	return l.loopback.watch(t)
}

// Sysctl sets one of /proc/sys/net's files of here for the time of a test, for
// example "ipv4/ip_local_port_range" to "1024 65535". It concerns all tests.
func (l *Lab) Sysctl(t testing.TB, file, value string) {
	t.Helper()
	path := "/proc/sys/net/" + file
	old, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, []byte(value), 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(path, old, 0); err != nil {
			t.Error(err)
		}
	})
}

// close ends what build started. The namespaces end with the process.
func (l *Lab) close() error {
	var errs []error
	if l.dnsHost != nil {
		errs = append(errs, l.dnsHost.close())
	}
	for _, c := range []*capture{l.wire, l.loopback} {
		if c != nil {
			errs = append(errs, c.close())
		}
	}
	if l.agent != nil {
		errs = append(errs, l.agent.close())
	}
	return errors.Join(errs...)
}
