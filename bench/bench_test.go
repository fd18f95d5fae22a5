package bench

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/sluicenet/sluice/internal/netlab"
)

// Ports of the servers on the host's loopback.
const (
	iperfPort = 5201
	echoPort  = 7007

	// echoPorts is how many ports the echo server has, from echoPort on. A closed
	// connection holds a port of its client's for a minute, towards one of these:
	// with one of them the kernel's search for a free one, on all sides, would be
	// what is measured, and the fastest would suffer most.
	echoPorts = 16
)

// TestTable measures everything and prints the table.
func TestTable(t *testing.T) {
	if !*table {
		t.Skip("make bench measures")
	}
	netlab.New(t) // for pasta, which copies the default route's interface
	for _, tool := range []string{"iperf3", "slirp4netns", "pasta", "bash"} {
		netlab.Tool(t, tool)
	}
	sluice, exchange := build(t)
	b := bench{t: t, pattern: regexp.MustCompile(*onlyRows), program: exchange}
	b.peers = chosen(peers(t, sluice), regexp.MustCompile(*onlyPeers), func(p peer) string { return p.name })
	startServers(t)
	b.throughput()
	b.exchanges()
	b.published(sluice)
	b.memory()
	b.firstByte()
	var names []string
	for _, p := range b.peers {
		names = append(names, p.name)
	}
	fmt.Printf("%s\nmedians of %d alternating rounds\n\n", versions(t, b.peers), *rounds)
	if err := printTable(os.Stdout, names, b.rows); err != nil {
		t.Fatal(err)
	}
}

// chosen returns those whose name matches the pattern.
func chosen[T any](all []T, pattern *regexp.Regexp, name func(T) string) []T {
	return slices.DeleteFunc(all, func(x T) bool { return !pattern.MatchString(name(x)) })
}

// build builds what runs in the guests and what gives sluice's its network.
func build(t *testing.T) (sluice, exchange string) {
	t.Helper()
	dir, err := netlab.Build("../cmd/sluice", "./exchange")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "sluice"), filepath.Join(dir, "exchange")
}

// startServers starts what the guests talk to, on the host's loopback.
func startServers(t *testing.T) {
	t.Helper()
	server := exec.CommandContext(t.Context(), "iperf3", "--server", "--bind", "127.0.0.1", "--port", fmt.Sprint(iperfPort))
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Wait() }) // killed by the context
	for i := range echoPorts {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", echoPort+i))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go serveTCP(l)
	}
	c, err := net.ListenPacket("udp", fmt.Sprintf("127.0.0.1:%d", echoPort))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go serveUDP(c)
	waitForServer(t, iperfPort)
}

// serveTCP echoes until the listener is closed.
func serveTCP(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			netlab.Echo(c)
			c.Close()
		}()
	}
}

// serveUDP echoes until the socket is closed.
func serveUDP(c net.PacketConn) {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return
		}
		c.WriteTo(buf[:n], from)
	}
}

// waitForServer waits until a port of the loopback accepts.
func waitForServer(t *testing.T, port int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// A bench collects rows.
type bench struct {
	t       *testing.T
	peers   []peer
	pattern *regexp.Regexp // of the names of the rows
	program string         // the path of ./exchange
	rows    []*row
}

// newRow adds a row.
func (b *bench) newRow(name, unit string) *row {
	r := &row{name: name, unit: unit}
	b.rows = append(b.rows, r)
	return r
}

// each starts a guest of every peer in every round, alternating, and calls f.
func (b *bench) each(what string, mtu int, f func(g *guest) error) {
	b.t.Helper()
	for round := range *rounds {
		for _, p := range b.peers {
			ctx, cancel := context.WithTimeout(b.t.Context(), 10*(*duration+commandPatience))
			g, err := p.start(ctx, mtu)
			if err != nil {
				b.t.Fatalf("start %s: %v", p.name, err)
			}
			g.peer = p
			err = f(g)
			if cerr := g.close(); err == nil {
				err = cerr
			}
			cancel()
			if err != nil {
				b.failed(p, fmt.Sprintf("%s, round %d", what, round+1), err)
			}
		}
	}
}

// failed notes a measurement that gave no figure. What is ours must not fail; a
// peer that does just has fewer figures.
func (b *bench) failed(p peer, what string, err error) {
	b.t.Helper()
	if p.foreign {
		b.t.Logf("%s, %s: %v", p.name, what, err)
	} else {
		b.t.Errorf("%s, %s: %v", p.name, what, err)
	}
}

func (b *bench) throughput() {
	all := chosen(transfers(), b.pattern, transfer.String)
	for _, mtu := range []int{1500, 65520} {
		var some []transfer
		var rows []*row
		for _, x := range all {
			if x.mtu == mtu {
				some = append(some, x)
				rows = append(rows, b.newRow(x.String(), "Gbit/s"))
			}
		}
		if len(some) == 0 {
			continue
		}
		b.each("throughput", mtu, func(g *guest) error {
			for i, x := range some {
				r, err := x.measure(g, g.peer.host, *duration)
				if err != nil {
					return fmt.Errorf("%v: %w", x, err)
				}
				rows[i].add(g.peer.name, r)
			}
			return nil
		})
	}
}

func (b *bench) exchanges() {
	all := chosen(exchanges(), b.pattern, func(x exchange) string { return x.name })
	if len(all) == 0 {
		return
	}
	var rows []*row
	for _, x := range all {
		rows = append(rows, b.newRow(x.name, perExchange))
	}
	b.each("exchanges", 1500, func(g *guest) error {
		for i, x := range all {
			r, err := x.measure(g, b.program, g.peer.host, *duration)
			if err != nil {
				return fmt.Errorf("%s: %w", x.name, err)
			}
			rows[i].add(g.peer.name, r)
		}
		return nil
	})
}

// firstByte measures the time from the start of a peer to a byte from the host.
func (b *bench) firstByte() {
	const name = "start to first byte"
	if !b.pattern.MatchString(name) {
		return
	}
	r := b.newRow(name, "ms")
	for range *rounds {
		for _, p := range b.peers {
			ctx, cancel := context.WithTimeout(b.t.Context(), time.Minute)
			start := time.Now()
			g, err := p.start(ctx, 1500)
			if err != nil {
				b.t.Fatalf("start %s: %v", p.name, err)
			}
			_, err = g.run(fmt.Sprintf(`bash -c 'exec 3<>/dev/tcp/%s/%d && echo x >&3 && read -rn1 -u3'`, p.host, echoPort))
			took := time.Since(start)
			if err != nil {
				b.failed(p, "first byte", err)
			} else {
				r.add(p.name, result{value: float64(took) / float64(time.Millisecond)})
			}
			if err := g.close(); err != nil {
				b.t.Error(err)
			}
			cancel()
		}
	}
}
