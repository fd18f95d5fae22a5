package integration

import (
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/internal/netlab"
	m "github.com/sluicenet/sluice/sdk"
)

// TestBypassL22Urgent sends urgent data both ways: it is data like any other, in its
// place in the stream.
func TestBypassL22Urgent(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	netlab.Tool(t, "nc")
	netlab.Tool(t, "python3")
	h := lab.Host(t, "urgent.example")
	heard := make(chan string, 1)
	h.TCP(1, func(c net.Conn) {
		got, _ := io.ReadAll(c)
		heard <- string(got)
	})
	h.TCP(2, func(c net.Conn) {
		io.WriteString(c, "one ")
		raw, err := c.(*net.TCPConn).SyscallConn()
		if err == nil {
			raw.Control(func(fd uintptr) { err = unix.Send(int(fd), []byte("urgent "), unix.MSG_OOB) })
		}
		if err != nil {
			t.Errorf("send urgent data: %v", err)
		}
		io.WriteString(c, "three")
	})
	g := startGuest(t)
	for _, f := range families {
		g.want(fmt.Sprintf(`python3 -c 'import socket
s = socket.create_connection(("%s", 1))
s.sendall(b"one ")
s.send(b"urgent ", socket.MSG_OOB)
s.sendall(b"three")'`, address(h, f)), "")
		if got := <-heard; got != "one urgent three" {
			t.Errorf("IPv%d: the server heard %q", f, got)
		}
		// The last byte of urgent data is what a kernel may keep apart.
		g.want(fmt.Sprintf("nc -d -w 60 %s 2", address(h, f)), "one urgent three")
	}
}

// TestBypassL24MaxConnections holds as many flows as there may be: the next one is
// reset at once, over either family, and is told as an event. It passes when one of
// the others has ended.
func TestBypassL24MaxConnections(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	netlab.Tool(t, "bash")
	netlab.Tool(t, "nc")
	h := lab.Host(t, "most.example")
	h.TCP(7, netlab.Echo)
	next := func(f int) string { return fmt.Sprintf("echo next | nc -v -N -w 60 %s 7", address(h, f)) }
	g := startGuest(t, "--max-connections", "10")
	g.want(fmt.Sprintf(`bash -c 'for i in 1 2 3 4 5; do exec {a}<>/dev/tcp/%s/7 {b}<>/dev/tcp/%s/7 || exit 1; done; { %s; %s; } 2>&1 | grep -c refused'`,
		address(h, 4), address(h, 6), next(4), next(6)), "2")
	g.tells(m.EventLimitHit, func(e m.Event) bool { return e.Limit == "MaxConnections" })
	g.eventually(next(4), "next")
	g.eventually(next(6), "next")
	none := startGuest(t, "--max-connections", "0")
	for _, f := range families {
		if out, code := none.run(next(f)); code == 0 || !strings.Contains(out, "refused") {
			t.Errorf("IPv%d, no flow may be: exit code %d, %s", f, code, out)
		}
	}
}

// TestBypassL35GatewayServices scans the gateway for what such devices used to offer:
// there is DNS, DHCP for whom it is meant, and nothing else.
func TestBypassL35GatewayServices(t *testing.T) {
	t.Parallel()
	netlab.New(t)
	netlab.Tool(t, "nmap")
	c := startMachine(t, &m.NetworkConfig{DenyResponse: m.DenyResponseReject})
	c.setUp()
	open := regexp.MustCompile(`(\d+)/open/`)
	for i, f := range families {
		version := map[int]string{4: "", 6: "-6 "}[f]
		for _, row := range []struct {
			flags string
			may   string // the ports that may be open, between spaces
		}{
			{"-sS -p 1-1024,1080,1900,3128,5000,5353,5355,8080", " 53 "},
			{"-sU -p 7,13,19,53,67,68,69,111,123,137,138,161,500,514,520,546,547,1900,4500,5353,5355", " 53 67 547 "},
		} {
			line := fmt.Sprintf("nmap -n -Pn %s%s --max-retries 2 --max-rtt-timeout 1s -oG - %v", version, row.flags, c.gateways[i])
			out := c.want(line, "Nmap done")
			if !strings.Contains(out, "53/open/") {
				t.Errorf("%s: the name server isn't found in\n%s", line, out)
			}
			for _, port := range open.FindAllStringSubmatch(out, -1) {
				if !strings.Contains(row.may, " "+port[1]+" ") {
					t.Errorf("%s: port %s is open", line, port[1])
				}
			}
		}
	}
}
