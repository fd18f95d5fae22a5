//go:build linux || darwin

package vnet

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// TestInspectAllHTTPHostFirst delays no server that speaks first, nor the guest's
// answer to it, whatever that is like.
func TestInspectAllHTTPHostFirst(t *testing.T) {
	t.Parallel()
	i := &testInspector{http: true, all: true, serve: func(context.Context, net.Conn, *InspectedFlow) {}}
	n := startNet(t, "allow egress public", withInspector(i))
	for _, answer := range []string{"G", "EHLO me\r\n", goodRequest} {
		n.serve("93.184.216.34:25", func(c *net.TCPConn) {
			c.Write([]byte("220 hello\r\n"))
			io.Copy(c, c)
		})
		c := n.mustDial("93.184.216.34:25")
		c.SetReadDeadline(time.Now().Add(5 * time.Second)) // less than a flight is held
		io.ReadFull(c, make([]byte, 11))
		n.eventually("counted", func() bool { return n.tcpBytesIn() >= 11 })
		io.WriteString(c, answer)
		b := make([]byte, len(answer))
		if _, err := io.ReadFull(c, b); string(b) != answer || err != nil {
			t.Errorf("got %q, %v", b, err)
		}
		c.Close()
		n.eventually("closed", func() bool { return len(n.Flows()) == 0 })
	}
	if i.served.Load() != 0 {
		t.Error("handed over")
	}
}

// TestInspectAllHTTPLate lets bytes go on that could be HTTP for too long, as
// git's are, and cuts the flow if they turn out to be it.
func TestInspectAllHTTPLate(t *testing.T) {
	t.Parallel()
	for _, rest := range []string{"project\x00host=x\x00\n", "/project HTTP/1.1\r\nHost: good.example\r\n\r\n", "project HTTP/1.1\r\n"} {
		i := &testInspector{http: true, all: true, serve: func(context.Context, net.Conn, *InspectedFlow) {}}
		n := startNet(t, "allow egress public", withInspector(i), func(c *Config) { c.holdTimeout = 50 * time.Millisecond })
		n.serve("93.184.216.34:80", func(c *net.TCPConn) {
			heard := make([]byte, 64)
			k, _ := io.ReadAtLeast(c, heard, len("git-upload-pack "))
			if string(heard[:k]) == "git-upload-pack " {
				io.Copy(io.Discard, c)
				io.WriteString(c, "pack")
			}
		})
		c := n.mustDial("93.184.216.34:80")
		io.WriteString(c, "git-upload-pack ")
		n.eventually("passed on", func() bool { return n.tcpBytesOut() == 16 })
		io.WriteString(c, rest)
		c.CloseWrite()
		c.SetReadDeadline(time.Now().Add(5 * time.Second))
		b, err := io.ReadAll(c)
		if http := strings.Contains(rest, "HTTP"); http != isReset(err) || !http && string(b) != "pack" {
			t.Errorf("%q: the guest saw %q, %v", rest, b, err)
		} else if http {
			if e := n.waitEvent("flow.deny"); e.Verdict.Reason != reasonUnread || e.Flow.Response != "rst" {
				t.Errorf("recorded %+v", e)
			}
		}
		if i.served.Load() != 0 {
			t.Error("handed over")
		}
	}
}

// TestInspectAllHTTPReplace changes the rules while a flight waits to be told
// from HTTP: whatever they are then, no byte is lost and the inspector has all.
func TestInspectAllHTTPReplace(t *testing.T) {
	t.Parallel()
	const only, all, except = "allow egress good.example", "allow egress public", "deny egress bad.example; allow egress public"
	for _, tt := range [][2]string{{only, all}, {all, except}, {except, all}, {all, all}} {
		got := make(chan string, 1)
		i := &testInspector{http: true, all: true, serve: func(ctx context.Context, guest net.Conn, f *InspectedFlow) {
			b := make([]byte, len(goodRequest))
			io.ReadFull(guest, b)
			got <- string(b)
		}}
		n := startNet(t, tt[0], func(c *Config) { c.Names = gateNames }, withInspector(i))
		heard := make(chan int64, 1)
		n.serve("93.184.216.35:80", func(c *net.TCPConn) {
			k, _ := io.Copy(io.Discard, c)
			heard <- k
		})
		c := n.mustDial("93.184.216.35:80")
		io.WriteString(c, goodRequest[:7])
		n.eventually("held", func() bool { return n.waitingBytes() == 7 })
		n.SetPolicy(policyOf(t, tt[1]))
		io.WriteString(c, goodRequest[7:])
		if b := <-got; b != goodRequest {
			t.Errorf("%q: the inspector got %q", tt, b)
		}
		c.Close()
		select {
		case k := <-heard:
			if k != 0 {
				t.Errorf("%q: the host got %d bytes", tt, k)
			}
		default: // never dialled, or not over yet
		}
	}
}
