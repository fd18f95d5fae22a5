//go:build !linux || basicsockets

package vnet

import (
	"net"
	"net/netip"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// A hostSocket is described in hostsocket.go.
type hostSocket struct {
	conn *net.UDPConn
	v6   bool
	ttl  uint8 // owned by the goroutine that sends; 0 is not known
}

// newHostSocket takes ownership of conn.
func newHostSocket(conn *net.UDPConn, v6 bool) (*hostSocket, error) {
	return &hostSocket{conn: conn, v6: v6}, nil
}

func (s *hostSocket) close() { s.conn.Close() }

// send sends d. A UDP socket's buffer takes a datagram or refuses it, so that
// this hardly ever waits.
func (s *hostSocket) send(d *outgoing) error {
	if d.ttl != s.ttl {
		if err := s.setTTL(int(d.ttl)); err != nil {
			return err
		}
		s.ttl = d.ttl
	}
	size := d.segment
	if size == 0 {
		size = len(d.payload)
	}
	for b := range datagrams(d.payload, size) {
		if _, err := s.conn.WriteToUDPAddrPort(b, d.to); err != nil {
			return err
		}
	}
	return nil
}

func (s *hostSocket) setTTL(ttl int) error {
	if s.v6 {
		return ipv6.NewConn(s.conn).SetHopLimit(ttl)
	}
	return ipv4.NewConn(s.conn).SetTTL(ttl)
}

// receive waits for a datagram.
func (s *hostSocket) receive(spare spareIncoming) (*incoming, error) {
	if err := waitReadable(s.conn); err != nil {
		return nil, err
	}
	in := spare.get()
	n, from, err := s.conn.ReadFromUDPAddrPort(in.memory[udpHeadroom:])
	if err != nil {
		spare.put(in)
		return nil, err
	}
	in.n = 1
	d := &in.datagrams[0]
	d.from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
	d.buf = in.memory[:udpHeadroom+n]
	return in, nil
}

// receiver is the memory of one datagram.
type receiver struct{ memory []byte }

func newIncoming() *incoming {
	in := new(incoming)
	in.memory = make([]byte, udpHeadroom+maxMessage)
	return in
}
