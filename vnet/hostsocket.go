package vnet

import (
	"net/netip"
	"runtime"
)

// A hostSocket is the host's end of a session: an unconnected datagram socket
// for UDP or for ICMP echo. One goroutine sends, another receives; close may be
// called by any. The platform's file defines it, with
//
//	newHostSocket(conn, v6)    takes ownership of conn, also when it fails
//	send(*outgoing) error      never waits; the error holds the system's errno
//	receive(spareIncoming)     waits; an error means that it is closed or broken
//	close()                    idempotent, wakes receive
//
// On Linux it also hears of the ICMP errors that its datagrams met with, and
// leaves fragmentation to the sender. Elsewhere systems tell unconnected sockets
// nothing, and large datagrams are cut by the host. The build tag basicsockets
// has Linux do with that, so that it is tested there.

// echoSocketsSwapIdent reports whether an echo socket has an identifier of its
// own and sees no other's replies. Else it sends what it is given.
const echoSocketsSwapIdent = runtime.GOOS == "linux"

// An outgoing is a datagram for the host's socket, or several of one size: at
// most maxTrain, of together no more than maxDatagram4 bytes.
type outgoing struct {
	to      netip.AddrPort
	payload []byte
	// segment is the size of each datagram but the last, in bytes, if payload
	// is more than one; else 0.
	segment      int
	ttl          uint8 // or hop limit; positive
	dontFragment bool  // neither on this host nor, for IPv4, on the way
}

// receiveBatch is how many datagrams one system call may bring. They take 64
// KiB of address space each, of which a small datagram touches a page.
const receiveBatch = 16

// maxMessage is the largest datagram that a socket can bring.
const maxMessage = 65535

// An incoming is what came for a session at once: datagrams, or errors that
// datagrams met with, or both. It is used again and again, and taken only when
// there may be something, so that an idle session holds no buffer.
type incoming struct {
	n         int // of datagrams
	datagrams [receiveBatch]datagram
	errors    []hostError
	out       batch // what the datagrams become

	receiver // the platform's
}

// A datagram is one that came from the host's side.
type datagram struct {
	from netip.AddrPort // ICMP: port 0
	// buf holds the datagram, from udpHeadroom on.
	buf    []byte
	remote netip.AddrPort // the peer as the guest knows it; set by the nat
}

// A hostError is what the network said of a datagram that was sent.
type hostError struct {
	what icmpError
	mtu  int            // valid iff what is icmpTooBig
	from netip.Addr     // who said so; the zero Addr if that is not known
	to   netip.AddrPort // where the datagram went; ICMP: port 0
	// data is what was left of the datagram: UDP payload, or ICMP message.
	data   []byte
	remote netip.AddrPort // the peer as the guest knows it; set by the nat
}

// A spareIncoming keeps what is not in use at the moment. Two readers are
// seldom at work at once, since each works for microseconds; what exceeds the
// channel's capacity is left to the garbage collector.
type spareIncoming chan *incoming

func newSpareIncoming() spareIncoming { return make(spareIncoming, 4) }

// get returns an empty incoming.
func (c spareIncoming) get() *incoming {
	var in *incoming
	select {
	case in = <-c:
	default:
		in = newIncoming()
	}
	in.n, in.errors = 0, in.errors[:0]
	return in
}

func (c spareIncoming) put(in *incoming) {
	select {
	case c <- in:
	default:
	}
}
