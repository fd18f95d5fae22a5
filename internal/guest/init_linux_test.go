package guest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// initRole is argv[0] of a process that plays a guest's process 1 in namespaces
// of its own, with the agent's stream on descriptor 3.
const initRole = "guest-test:init"

// initMain is that process.
func initMain() {
	if err := serveAsInit(); err != nil {
		fmt.Fprintln(os.Stderr, "init:", err)
		os.Exit(CodeRefused)
	}
	os.Exit(0)
}

func serveAsInit() error {
	for _, m := range []struct{ fstype, at string }{{"proc", "/proc"}, {"tmpfs", "/etc"}} {
		if err := unix.Mount(m.fstype, m.at, m.fstype, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	if err := os.Symlink("../nowhere/resolv.conf", resolvConf); err != nil {
		return err
	}
	if err := TuneKernel(); err != nil {
		return err
	}
	card := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0", HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 7}}, PeerName: "gateway"}
	if err := netlink.LinkAdd(card); err != nil {
		return err
	}
	peer, err := netlink.LinkByName("gateway")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(peer); err != nil {
		return err
	}
	sys, err := NewSystem(nil)
	if err != nil {
		return err
	}
	file := os.NewFile(3, "agent")
	stream, err := net.FileConn(file)
	file.Close()
	if err != nil {
		return err
	}
	return Serve(stream, sys)
}

// A testGuest is a guest as initMain makes it.
type testGuest struct {
	*Client
	cmd *exec.Cmd
	out bytes.Buffer // of its command; valid after wait
}

// startGuest starts a guest that is not booted yet.
func startGuest(t testing.TB) *testGuest {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	defer ours.Close()
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		t.Fatal(err)
	}
	g := &testGuest{Client: NewClient(conn), cmd: exec.CommandContext(t.Context(), "/proc/self/exe")}
	g.cmd.Args = []string{initRole}
	g.cmd.ExtraFiles = []*os.File{theirs}
	g.cmd.Stdout, g.cmd.Stderr = &g.out, &g.out
	g.cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:   unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWNET,
		Unshareflags: unix.CLONE_NEWNS,
		UidMappings:  []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings:  []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	if err := g.cmd.Start(); err != nil {
		g.Close()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		g.Close()
		_ = g.cmd.Wait() // an error where the test has waited already
	})
	return g
}

// bootGuest starts a guest with the tests' network.
func bootGuest(t *testing.T, change func(*Network)) *testGuest {
	t.Helper()
	g := startGuest(t)
	n := testNetwork()
	if change != nil {
		change(&n)
	}
	if err := g.Boot(t.Context(), Bootstrap{Hostname: "box", Network: &n}); err != nil {
		_ = g.cmd.Wait()
		t.Fatalf("%v\n%s", err, g.out.String())
	}
	return g
}

func testNetwork() Network {
	return Network{
		Interface:   "eth0",
		MTU:         1400,
		Addrs:       []netip.Prefix{netip.MustParsePrefix("172.16.0.2/30"), netip.MustParsePrefix("fd42::2/64")},
		Gateways:    []netip.Addr{netip.MustParseAddr("172.16.0.1"), netip.MustParseAddr("fd42::1")},
		Default4:    true,
		Default6:    true,
		Nameservers: []netip.Addr{netip.MustParseAddr("172.16.0.1"), netip.MustParseAddr("fd42::1")},
		Hosts:       []HostEntry{{netip.MustParseAddr("172.16.0.1"), []string{"host.example", "alias.example"}}},
		GatewayMAC:  HardwareAddr{2, 0, 0, 0, 0, 1},
	}
}

// sh runs a shell's line and returns what it writes, and how it ends.
func (g *testGuest) sh(t *testing.T, line string) (string, Exit) {
	t.Helper()
	return g.run(t, Command{Args: []string{"sh", "-c", line}})
}

// run runs a command and returns what it writes, and how it ends.
func (g *testGuest) run(t *testing.T, c Command) (string, Exit) {
	t.Helper()
	p, err := g.Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	var out, errs bytes.Buffer
	var both sync.WaitGroup
	for into, from := range map[*bytes.Buffer]io.Reader{&out: p.Stdout(), &errs: p.Stderr()} {
		both.Go(func() {
			if _, err := io.Copy(into, from); err != nil {
				t.Error(err)
			}
		})
	}
	both.Wait()
	exit, err := p.Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return out.String() + errs.String(), exit
}

func TestBootSetsUpTheCard(t *testing.T) {
	t.Parallel()
	g := bootGuest(t, nil)
	out, _ := g.sh(t, "ip -j addr show dev eth0")
	var cards []struct {
		MTU   int
		Flags []string
		Info  []struct {
			Local     string
			PrefixLen int
			Tentative bool
		} `json:"addr_info"`
	}
	if err := json.Unmarshal([]byte(out), &cards); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	var got []string
	for _, a := range cards[0].Info {
		got = append(got, fmt.Sprintf("%s/%d", a.Local, a.PrefixLen))
		if a.Tentative {
			t.Errorf("%s is tentative", a.Local)
		}
	}
	slices.Sort(got)
	if want := []string{"172.16.0.2/30", "fd42::2/64", "fe80::ff:fe00:7/64"}; !slices.Equal(got, want) {
		t.Errorf("addresses are %v; want %v", got, want)
	}
	if cards[0].MTU != 1400 || !slices.Contains(cards[0].Flags, "UP") {
		t.Errorf("card is %+v; want MTU 1400 and up", cards[0])
	}
}

func TestDefaultRoutesFollowUsability(t *testing.T) {
	t.Parallel()
	const show = "ip route show default; ip -6 route show default"
	for _, row := range []struct {
		name   string
		boot   [2]bool // Default4, Default6
		change *[2]bool
		want   []string // the families with a default route
	}{
		{"both", [2]bool{true, true}, nil, []string{"172.16.0.1", "fd42::1"}},
		{"no IPv6", [2]bool{true, false}, nil, []string{"172.16.0.1"}},
		{"neither", [2]bool{false, false}, nil, nil},
		{"IPv4 goes", [2]bool{true, true}, &[2]bool{false, true}, []string{"fd42::1"}},
		{"IPv6 comes", [2]bool{true, false}, &[2]bool{true, true}, []string{"172.16.0.1", "fd42::1"}},
		{"nothing changes", [2]bool{true, true}, &[2]bool{true, true}, []string{"172.16.0.1", "fd42::1"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			g := bootGuest(t, func(n *Network) { n.Default4, n.Default6 = row.boot[0], row.boot[1] })
			if row.change != nil {
				n := testNetwork()
				n.Default4, n.Default6 = row.change[0], row.change[1]
				if err := g.Configure(t.Context(), n); err != nil {
					t.Fatal(err)
				}
			}
			out, _ := g.sh(t, show)
			var got []string
			for line := range strings.Lines(out) {
				got = append(got, strings.Fields(line)[2]) // default via ADDR
			}
			if !slices.Equal(got, row.want) {
				t.Errorf("default routes by %v; want %v", got, row.want)
			}
		})
	}
}

func TestGatewayOutsideOfPrefixIsOnLink(t *testing.T) {
	t.Parallel()
	g := bootGuest(t, func(n *Network) {
		n.Addrs = []netip.Prefix{netip.MustParsePrefix("10.9.9.9/32"), netip.MustParsePrefix("fd09::9/128")}
	})
	out, _ := g.sh(t, "ip route; ip -6 route; ip neigh")
	for _, want := range []string{"172.16.0.1 dev eth0 scope link", "default via 172.16.0.1", "fd42::1 dev eth0", "default via fd42::1",
		"172.16.0.1 dev eth0 lladdr 02:00:00:00:00:01 PERMANENT", "fd42::1 dev eth0 lladdr 02:00:00:00:00:01 PERMANENT"} {
		if !strings.Contains(out, want) {
			t.Errorf("routes lack %q:\n%s", want, out)
		}
	}
}

func TestBootWritesFilesAndName(t *testing.T) {
	t.Parallel()
	g := bootGuest(t, nil)
	out, _ := g.sh(t, "hostname; cat /etc/resolv.conf; cat /etc/hosts; test -L /etc/resolv.conf || echo plain")
	want := "box\nnameserver 172.16.0.1\nnameserver fd42::1\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" +
		"172.16.0.2\tbox\n172.16.0.1\thost.example alias.example\nplain\n"
	if out != want {
		t.Errorf("got\n%s\nwant\n%s", out, want)
	}
}

func TestBootFailuresNameTheStep(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name   string
		change func(*Network)
		want   string
	}{
		{"no such card", func(n *Network) { n.Interface = "eth9" }, "eth9"},
		{"two cards, and none is named", func(n *Network) { n.Interface = "" }, "gateway"},
		{"MTU out of range", func(n *Network) { n.MTU = 1 << 30 }, "set MTU"},
		{"host name with a newline", func(n *Network) { n.Hosts[0].Names = []string{"a\nb"} }, "/etc/hosts"},
		{"host name that comments", func(n *Network) { n.Hosts[0].Names = []string{"a#b"} }, "/etc/hosts"},
		{"gateway of no family here", func(n *Network) { n.Gateways = []netip.Addr{netip.MustParseAddr("::")} }, "gateway"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			g := startGuest(t)
			n := testNetwork()
			row.change(&n)
			err := g.Boot(t.Context(), Bootstrap{Network: &n})
			if err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("Boot = %v; want an error with %q", err, row.want)
			}
		})
	}
}

func TestRouterAdvertisementsAreIgnored(t *testing.T) {
	t.Parallel()
	g := bootGuest(t, nil)
	out, _ := g.sh(t, "cat /proc/sys/net/ipv6/conf/eth0/accept_ra /proc/sys/net/ipv6/conf/eth0/autoconf /proc/sys/net/ipv6/conf/default/accept_ra")
	if out != "0\n0\n0\n" {
		t.Errorf("accept_ra, autoconf, default/accept_ra are %q; want 0", out)
	}
}

func TestInitReapsOrphans(t *testing.T) {
	t.Parallel()
	g := bootGuest(t, nil)
	// Each subshell leaves an orphan that ends; none may stay a zombie, which one is for a
	// moment.
	out, _ := g.sh(t, "for i in 1 2 3 4 5 6 7 8; do (sleep 0.05 &) ; done; sleep 0.5; "+
		"for i in $(seq 600); do zombies=$(grep -l '^State:.Z' /proc/[0-9]*/status); [ -z \"$zombies\" ] && break; sleep 0.1; done; echo ${zombies:-done}")
	if out != "done\n" {
		t.Errorf("got %q; want no zombies", out)
	}
}

func TestCommandLeavesAServerBehind(t *testing.T) {
	t.Parallel()
	g := bootGuest(t, nil)
	begin := time.Now()
	out, exit := g.sh(t, "(while :; do sleep 0.01; echo noise; echo noise >&2; : > /etc/alive; done) & exit 3")
	if exit.Code != 3 {
		t.Errorf("exit is %+v; want 3", exit)
	}
	if took := time.Since(begin); took > time.Minute {
		t.Errorf("the command waited for what it left behind: %v, %d bytes", took, len(out))
	}
	// Having lost its reader is no reason to die.
	if out, _ := g.sh(t, "rm -f /etc/alive; for i in $(seq 600); do [ -e /etc/alive ] && break; sleep 0.1; done; ls /etc/alive"); out != "/etc/alive\n" {
		t.Errorf("what was left behind is gone: %q", out)
	}
}

func TestInitSurvivesSignalsOfItsGuest(t *testing.T) {
	t.Parallel()
	g := bootGuest(t, nil)
	out, exit := g.sh(t, "for s in HUP INT QUIT ABRT USR1 USR2 PIPE ALRM TERM TSTP SEGV BUS FPE TRAP KILL STOP; do kill -$s 1; done; sleep 0.1; echo alive; exit 5")
	if out != "alive\n" || exit.Code != 5 {
		t.Errorf("got %q, %+v; want process 1 alive", out, exit)
	}
}

func TestSignalReachesTheGroup(t *testing.T) {
	t.Parallel()
	g := bootGuest(t, nil)
	p, err := g.Start(t.Context(), Command{Args: []string{"sh", "-c", "echo ready; sleep 600; exit 4"}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if _, err := io.ReadFull(p.Stdout(), make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	go func() { // dash, about to start a program, drops a SIGINT now and then
		for p.Signal(t.Context(), int(unix.SIGINT)) == nil {
			time.Sleep(20 * time.Millisecond)
		}
	}()
	// A shell waits for what it runs in front: the signal must end that too.
	exit, err := p.Wait(t.Context())
	if err != nil || exit.Signal != int(unix.SIGINT) && exit.Code != 4 {
		t.Errorf("exit is %+v, %v; want signal 2, or 4 after the sleep was ended", exit, err)
	}
}

func TestCommandOwnsItsSession(t *testing.T) {
	t.Parallel()
	g := bootGuest(t, nil)
	out, _ := g.sh(t, `read -r pid comm state ppid pgrp session rest < /proc/self/stat; echo $pid $ppid $pgrp $session; read -r ignored < /proc/$$/status; grep SigIgn /proc/$$/status`)
	var pid, ppid, pgrp, session int
	if _, err := fmt.Sscan(out, &pid, &ppid, &pgrp, &session); err != nil || pid != pgrp || pid != session || ppid != 1 {
		t.Errorf("pid, parent, group, session are %q (%v); want a leader of process 1", out, err)
	}
	if !strings.Contains(out, "SigIgn:\t0000000000000000") {
		t.Errorf("ignored signals were inherited: %q", out)
	}
}

func TestInheritsNoDescriptors(t *testing.T) {
	t.Parallel()
	g := bootGuest(t, nil)
	if out, _ := g.sh(t, "exec ls /proc/self/fd"); out != "0\n1\n2\n3\n" { // 3 is ls's own, of the directory
		t.Errorf("descriptors are %q; want 0 1 2", out)
	}
}

func TestWithoutIPv6(t *testing.T) {
	t.Parallel()
	n := testNetwork()
	got := n.withoutIPv6()
	if len(got.Addrs) != 1 || !got.Addrs[0].Addr().Is4() || len(got.Gateways) != 1 || !got.Gateways[0].Is4() {
		t.Errorf("got %v by %v; want IPv4 alone", got.Addrs, got.Gateways)
	}
	if len(n.Addrs) != 2 || !n.Addrs[1].IsValid() || len(n.Gateways) != 2 || !n.Gateways[1].IsValid() {
		t.Errorf("the original became %v by %v", n.Addrs, n.Gateways)
	}
}
