package krun

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Whoever connects in the machine's place is told from it by the kernel, and closed.
func TestAcceptsOnlyTheMachine(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "agent")
	socket, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	door := &listener{paths: []string{path}, sockets: []*net.UnixListener{socket}}
	defer door.Close()
	far := time.Now().Add(time.Minute)
	for _, row := range []struct {
		pid  int
		want string // in the error; "" for none
	}{{os.Getpid(), ""}, {os.Getppid(), "connected instead of the machine's"}} {
		guest, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer guest.Close()
		conn, err := door.accept(0, row.pid, far)
		if row.want == "" {
			if err != nil {
				t.Fatal(err)
			}
			conn.Close()
			continue
		}
		if err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%v; want %q", err, row.want)
		}
		if _, err := guest.Read(make([]byte, 1)); err == nil {
			t.Error("the stranger's connection is open")
		}
	}
	if _, err := door.accept(0, os.Getpid(), time.Now()); !os.IsTimeout(err) {
		t.Errorf("nobody came: %v; want a timeout", err)
	}
}
