package main

import (
	"io"
	"net"
	"strings"
	"testing"
)

// echoServer returns the address of a server that echoes.
func echoServer(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() { // ends with the listener
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				io.Copy(c, c)
				c.Close()
			}()
		}
	}()
	return l.Addr().String()
}

func TestRun(t *testing.T) {
	t.Parallel()
	a, b := echoServer(t), echoServer(t)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	for _, row := range []struct {
		args string
		want int
		ok   bool
	}{
		{"hold 50 " + a + " " + b, 50, true},
		{"sequence 50 " + a + " " + b, 50, true},
		{"hold 10 " + a + " " + closed.Addr().String(), 5, false},
		{"sequence 10 " + a + " " + closed.Addr().String(), 1, false},
		{"hold ten " + a, 0, false},
		{"juggle 10 " + a, 0, false},
		{"hold 10", 0, false},
	} {
		got, err := run(strings.Fields(row.args))
		if got != row.want || (err == nil) != row.ok {
			t.Errorf("%s: %d, %v, want %d, success %t", row.args, got, err, row.want, row.ok)
		}
	}
}
