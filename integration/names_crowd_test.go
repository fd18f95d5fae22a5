package integration

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicenet/sluice/internal/netlab"
	m "github.com/sluicenet/sluice/sdk"
)

// A crowd is a host with many addresses, so that each row of a table has one of each
// family for itself: what one row looks up, connects to and sends is nothing to
// another. Its servers remember who came and what they said.
type crowd struct {
	*netlab.Host
	t    *testing.T
	lab  *netlab.Lab
	next int // the address that row takes

	mu     sync.Mutex // guards visits
	visits map[netip.AddrPort][]*visit
}

// A visit is one connection to a crowd's server.
type visit struct {
	mu   sync.Mutex // guards said
	said []byte     // what the client has sent so far
}

// add remembers what came.
func (v *visit) add(b []byte) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.said = append(v.said, b...)
}

// heard returns what came until now.
func (v *visit) heard() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return string(v.said)
}

// newCrowd makes a crowd of n addresses of each family, in the public networks
// 93.184.net.0/24 and 2606:2800:net::/64.
func newCrowd(t *testing.T, lab *netlab.Lab, net, n int) *crowd {
	t.Helper()
	var addrs []string
	for i := 1; i <= n; i++ {
		addrs = append(addrs, fmt.Sprintf("93.184.%d.%d", net, i), fmt.Sprintf("2606:2800:%d::%d", net, i))
	}
	c := &crowd{t: t, lab: lab, visits: make(map[netip.AddrPort][]*visit)}
	c.Host = lab.Host(t, fmt.Sprintf("crowd%d.example", net), addrs...)
	return c
}

// pair returns the IPv4 and the IPv6 address that no row has yet.
func (c *crowd) pair() [2]netip.Addr {
	c.t.Helper()
	if 2*c.next >= len(c.Addrs) {
		c.t.Fatal("the crowd is too small")
	}
	c.next++
	return [2]netip.Addr{c.Addrs[2*c.next-2], c.Addrs[2*c.next-1]}
}

// named gives a name to addresses.
func (c *crowd) named(name string, addrs ...netip.Addr) {
	c.t.Helper()
	for _, a := range addrs {
		c.lab.DNS.A(c.t, name, a.String())
	}
}

// A visitor is a connection that its visit listens to.
type visitor struct {
	net.Conn
	visit *visit
}

func (v visitor) CloseWrite() error { return v.Conn.(*net.TCPConn).CloseWrite() }

func (v visitor) Read(b []byte) (int, error) {
	n, err := v.Conn.Read(b)
	v.visit.add(b[:n])
	return n, err
}

// serve calls f with every connection to a port, overheard.
func (c *crowd) serve(port uint16, f func(net.Conn)) {
	c.t.Helper()
	c.TCP(port, func(conn net.Conn) {
		v := new(visit)
		to, _ := netip.ParseAddrPort(conn.LocalAddr().String())
		to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
		c.mu.Lock()
		c.visits[to] = append(c.visits[to], v)
		c.mu.Unlock()
		f(visitor{conn, v})
	})
}

// came returns the visits to an address and port.
func (c *crowd) came(addr netip.Addr, port uint16) []*visit {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.visits[netip.AddrPortFrom(addr, port)]
}

// pause is how long a client must be silent for its flight to be over. One that a busy
// machine keeps from speaking is welcomed early, and still listened to.
const pause = 300 * time.Millisecond

// welcome listens until the client pauses, welcomes it and listens until it ends; a
// client that says nothing hears nothing.
func welcome(c net.Conn) {
	buf := make([]byte, 64<<10)
	for n := 0; ; {
		k, err := c.Read(buf)
		n += k
		c.SetReadDeadline(time.Now().Add(pause))
		if errors.Is(err, os.ErrDeadlineExceeded) {
			io.WriteString(c, "welcome\n")
			c.(interface{ CloseWrite() error }).CloseWrite()
			c.SetReadDeadline(deadline())
			io.Copy(io.Discard, c)
			return
		}
		if err != nil {
			return
		}
	}
}

// A result is what a command line printed, its exit code and how long it took.
type result struct {
	out  string
	code int
	took time.Duration
}

// together runs command lines in the guest at the same time.
func (g *guest) together(lines []string) []result {
	g.t.Helper()
	var script strings.Builder
	script.WriteString("d=$(mktemp -d); cd $d\n")
	for i, line := range lines {
		fmt.Fprintf(&script, "( s=$(date +%%s%%N); ( %s ) >%d 2>&1 </dev/null; echo $? $(( $(date +%%s%%N) - s )) >%d.end ) &\n", line, i, i)
	}
	script.WriteString("wait\n")
	for i := range lines {
		fmt.Fprintf(&script, "echo; echo \"%s %d $(cat %d.end)\"; tr -cd '[:print:]\\n' <%d\n", nextResult, i, i, i)
	}
	out, _, err := g.shell.Run(script.String())
	if err != nil {
		g.t.Fatalf("%v\n%s", err, g.shell.Stderr())
	}
	results := make([]result, len(lines))
	for _, part := range strings.Split(out, nextResult+" ")[1:] {
		head, body, _ := strings.Cut(part, "\n")
		var i, code int
		var took time.Duration
		if _, err := fmt.Sscan(head, &i, &code, &took); err != nil {
			g.t.Fatalf("%q: %v", head, err)
		}
		results[i] = result{strings.TrimSpace(body), code, took}
	}
	return results
}

// nextResult precedes a result of together.
const nextResult = "integration: result"

// occurred returns the events so far of a type, for a destination. Where there
// must be one it waits: a sandbox gathers them before it writes.
func (g *guest) occurred(must bool, eventType string, addr netip.Addr, port uint16) []m.Event {
	g.t.Helper()
	var found []m.Event
	for end := deadline(); ; time.Sleep(20 * time.Millisecond) {
		found = slices.DeleteFunc(g.told(eventType), func(e m.Event) bool {
			return e.Flow == nil || e.Flow.Dst.Addr != addr || e.Flow.Dst.Port != port
		})
		if len(found) > 0 || !must || time.Now().After(end) {
			return found
		}
	}
}

// shared writes a file that every guest can read, and returns its path.
func shared(t *testing.T, name, content string) string {
	t.Helper()
	dir, err := os.MkdirTemp(filepath.Dir(sluice), "shared-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(dir, name)
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
		t.Fatal(err)
	}
	return path
}
