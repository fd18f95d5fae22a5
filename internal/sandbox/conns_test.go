package sandbox

import (
	"io"
	"net"
	"testing"
)

// TestConns checks that what is open is closed together, and what comes later at
// once.
func TestConns(t *testing.T) {
	t.Parallel()
	var cs conns
	pair := func() (*guestConn, net.Conn) {
		here, there := net.Pipe()
		t.Cleanup(func() { there.Close() })
		return cs.add(here), there
	}
	closed, peer := pair()
	if err := closed.CloseWrite(); err != nil { // a pipe has no sides
		t.Error(err)
	}
	if err := closed.Close(); err != nil {
		t.Error(err)
	}
	if _, err := peer.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the peer of a closed one: %v", err)
	}
	if len(cs.open) != 0 {
		t.Error("a closed one is kept")
	}
	_, peer = pair()
	cs.close()
	if _, err := peer.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the peer of one that was open: %v", err)
	}
	late, peer := pair()
	if _, err := peer.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the peer of a late one: %v", err)
	}
	_ = late.Close()
}
