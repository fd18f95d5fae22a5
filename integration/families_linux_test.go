package integration

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sluicenet/sluice/internal/netlab"
	m "github.com/sluicenet/sluice/sdk"
)

// familyPort is where this machine's loopback serves in TestFamiliesFollowHost.
const familyPort = 8078

// TestFamiliesFollowHost takes each family of addresses from this machine under
// running guests, gives it back, and starts guests without it. No guest falls into a
// black hole, names lead to the family that is left, and the gateway serves over both.
// The guests are one that sluice configures, and one that does so itself, by DHCP and
// router advertisements. The routes are everybody's, so it doesn't run in parallel.
func TestFamiliesFollowHost(t *testing.T) {
	lab := netlab.New(t)
	for _, tool := range []string{"curl", "dig", "ping"} {
		netlab.Tool(t, tool)
	}
	h := lab.Host(t, "families.example")
	h.HTTP(80, hello)
	serveLoopback(t, familyPort)
	dhcp := udhcpc(t)
	for _, f := range families {
		t.Run(fmt.Sprintf("namespace without IPv%d", f), func(t *testing.T) {
			followFamily(t, lab, func() *follower {
				g := startGuest(t, "--network", "allow-all")
				return &follower{console: &g.console, host: h, family: f}
			})
		})
		t.Run(fmt.Sprintf("self-configured without IPv%d", f), func(t *testing.T) {
			followFamily(t, lab, func() *follower {
				c := startMachine(t, &m.NetworkConfig{Policy: m.NetworkPolicyPresetAllowAll})
				c.want("ip link set eth0 up && "+dhcp, "")
				c.eventually("ip -6 -o addr show dev eth0 scope global -tentative", "inet6 ")
				return &follower{console: &c.console, host: h, family: f, lease: dhcp}
			})
		})
	}
}

// followFamily is the test for one kind of guest.
func followFamily(t *testing.T, lab *netlab.Lab, start func() *follower) {
	early := start()
	early.hasWay()
	restore := lab.LoseFamily(t, early.family)
	early.hasNoWay()
	late := start()
	late.hasNoWay()
	restore()
	early.hasWay()
	late.hasWay()
}

// A follower is a guest that is to know whether its host has a way to others over a
// family of addresses.
type follower struct {
	*console
	host   *netlab.Host // has both families
	family int
	lease  string // the command line that asks for a lease, "" if sluice configures the guest
}

// hasWay checks that the guest reaches others over both families.
func (f *follower) hasWay() {
	f.t.Helper()
	for _, family := range families {
		f.eventually(f.renewed(fmt.Sprintf("curl -sS -%d --max-time 60 http://%s/", family, f.host.Name)), "hello")
	}
}

// renewed returns line behind a renewal of the lease, if there is one: a client renews
// it one day, and the first may come before sluice has heard of the host's change.
func (f *follower) renewed(line string) string {
	if f.lease == "" {
		return line
	}
	return "(" + f.lease + ") >/dev/null 2>&1; " + line
}

// hasNoWay checks that the guest is told at once what it can't reach, and reaches
// everything else.
func (f *follower) hasNoWay() {
	f.t.Helper()
	f.unreachable("just now") // by a lease's route, if there is one
	f.eventually(f.renewed(fmt.Sprintf("ip -%d route show default | grep -c . | grep -x 0", f.family)), "0")
	f.unreachable("without a route")
	f.reachesGateway()
	if f.lease != "" {
		f.insists()
	}
	f.want("dig "+f.host.Name+" "+recordType(f.family), "status: NOERROR")
	f.want(f.lookup(f.host.Name)+" | grep -c . | grep -x 0", "0")
	f.want("curl -sS --max-time 60 http://"+f.host.Name+"/", "hello")
}

// unreachable checks that a connection fails long before it times out.
func (f *follower) unreachable(how string) {
	f.t.Helper()
	line := fmt.Sprintf("curl -sS --max-time 60 http://%s/", f.host.Endpoint(f.family, 80))
	if out, code := f.run(line); code != 7 || strings.Contains(out, "timed out") {
		f.t.Errorf("%s: %s: exit code %d, want 7 at once\n%s", how, line, code, out)
	}
}

// insists adds a route that nobody advertised, and meets an error as soon.
func (f *follower) insists() {
	f.t.Helper()
	f.want(fmt.Sprintf("ip -%d route add default via $(%s)", f.family, f.lookup("host.docker.internal")), "")
	f.unreachable("by a route of its own")
	out, code := f.run("ping -n -c 1 -W 20 " + address(f.host, f.family))
	if code == 0 || !strings.Contains(strings.ToLower(out), "unreachable") {
		f.t.Errorf("IPv%d: ping exits with %d, want unreachable\n%s", f.family, code, out)
	}
	// The proxy answers for any name server, over either family.
	server := map[int]string{4: "9.9.9.9", 6: "2620:fe::fe"}[f.family]
	f.want("dig +short +tries=1 +time=10 @"+server+" host.docker.internal A", "172.16.")
	f.want(fmt.Sprintf("ip -%d route del default", f.family), "")
}

// reachesGateway checks that the gateway serves over the family that is lost.
func (f *follower) reachesGateway() {
	f.t.Helper()
	f.want(fmt.Sprintf("ip -%d -o addr show dev eth0 scope global", f.family), "inet")
	f.want(fmt.Sprintf("curl -sS -%d --max-time 60 http://host.docker.internal:%d/", f.family, familyPort), "hello")
	f.want(fmt.Sprintf("dig +tries=1 +time=10 @$(%s) %s", f.lookup("host.docker.internal"), f.host.Name), "status: NOERROR")
}

// lookup returns the command that prints a name's addresses of the family.
func (f *follower) lookup(name string) string {
	return "dig +short " + name + " " + recordType(f.family)
}

// recordType returns the type of DNS records that hold a family's addresses.
func recordType(family int) string { return map[int]string{4: "A", 6: "AAAA"}[family] }
