package main

import (
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	t.Parallel()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	go func() { // ends with its listener
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			go func() {
				io.Copy(c, c)
				c.Close()
			}()
		}
	}()
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	go func() {
		buf := make([]byte, 2000)
		for {
			n, from, err := udp.ReadFrom(buf)
			if err != nil {
				return
			}
			udp.WriteTo(buf[:n], from)
		}
	}()
	for _, row := range []struct{ args, to string }{
		{"connect -duration 50ms", tcp.Addr().String()},
		{"connect -duration 50ms -parallel 8", tcp.Addr().String()},
		{"request -duration 50ms -size 1", tcp.Addr().String()},
		{"datagram -duration 50ms -size 1400 -flight 16", udp.LocalAddr().String()},
	} {
		var out strings.Builder
		if err := run(append(strings.Fields(row.args), row.to), &out); err != nil {
			t.Errorf("%s: %v", row.args, err)
			continue
		}
		if n, err := strconv.ParseFloat(strings.TrimSpace(out.String()), 64); err != nil || n <= 0 {
			t.Errorf("%s: printed %q", row.args, out.String())
		}
	}
}

func TestRunErrors(t *testing.T) {
	t.Parallel()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	for _, args := range []string{
		"",
		"juggle 127.0.0.1:1",
		"connect -no-such-flag",
		"connect -duration 1s " + closed.Addr().String(),
		"request -duration 1s " + closed.Addr().String(),
		"connect -duration 1s no-port",
	} {
		if err := run(strings.Fields(args), io.Discard); err == nil {
			t.Errorf("%q: no error", args)
		}
	}
}
