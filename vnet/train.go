package vnet

import "net/netip"

// maxTrain is how many datagrams leave by one system call: UDP_MAX_SEGMENTS of
// older kernels.
const maxTrain = 64

// A train gathers consecutive datagrams of one flow, so that they leave by one
// system call: all of one size, but the last, which may be smaller (udp(7),
// "UDP_SEGMENT"). A frame from the guest that stands for many datagrams is a
// train already; a guest without that offload sends them one by one.
type train struct {
	car
	n    int    // of datagrams
	size int    // of the first, in bytes of payload
	buf  []byte // their payloads
	out  outgoing
}

// A car is what the datagrams of a train have in common.
type car struct {
	s            *session
	remote       netip.AddrPort // as the guest knows it
	to           netip.AddrPort // where the host's socket sends
	ttl          uint8
	dontFragment bool
}

// couple adds the datagram b, or reports false if it must not travel with those
// that are there. An empty train takes any.
func (t *train) couple(c car, b []byte) bool {
	switch {
	case t.n == 0:
		t.car, t.size = c, len(b)
	case t.car != c, t.n == maxTrain, len(b) == 0, len(b) > t.size, len(t.buf)+len(b) > maxDatagram4:
		return false
	case len(t.buf) != t.n*t.size:
		return false // the last one was smaller
	}
	t.n++
	t.buf = append(t.buf, b...)
	return true
}

// outgoing returns the train for the host's socket.
func (t *train) outgoing() *outgoing {
	t.out = outgoing{to: t.to, payload: t.buf, ttl: t.ttl, dontFragment: t.dontFragment}
	if t.n > 1 {
		t.out.segment = t.size
	}
	return &t.out
}

// reset empties the train and keeps its memory.
func (t *train) reset() {
	*t = train{buf: t.buf[:0]}
}
