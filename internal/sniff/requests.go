package sniff

import "net/netip"

// Requests finds the requests that a guest sends one after the other on an
// HTTP/1 connection, so that each can be decided by its own name. It parses the
// framing of requests alone, and follows no response:
//
//   - After a request comes a request. Anything else is malformed, a second
//     Host and the preface of HTTP/2 included.
//   - After a request with Upgrade: websocket comes a request, if the server
//     didn't switch. Else come the frames of a WebSocket, whose masked second
//     byte no server takes for a request: from the first opaque byte on
//     everything passes.
//   - After a CONNECT comes the first flight of the tunnel, or a request, if
//     the proxy refused: a result of any kind, which is for the caller to
//     decide. Behind a kind without requests everything passes.
//
// It must not be used by several goroutines at once.
type Requests struct {
	dst     netip.Addr
	before  precedent
	body    body
	flight  Flight
	failed  Result // valid iff its Kind is Malformed
	spliced bool
}

// A precedent says what came before the next head.
type precedent uint8

const (
	afterRequest precedent = iota
	afterWebSocket
	afterConnect
)

// Follow returns the Requests of a connection to dst that began with first, a
// result of the Kinds [HTTP1] or [Connect]. The first byte for it is the one
// behind first.Len.
func Follow(dst netip.Addr, first Result) *Requests {
	r := &Requests{dst: dst}
	r.follow(first)
	return r
}

// follow prepares for the bytes behind a head.
func (r *Requests) follow(head Result) {
	r.flight = Flight{Dst: r.dst}
	r.body = head.body
	switch {
	case head.Kind == Connect:
		r.before = afterConnect
	case head.Kind != HTTP1:
		r.spliced = true
	case head.webSocket:
		r.before = afterWebSocket
	default:
		r.before = afterRequest
	}
}

// Next looks at b: all bytes of the connection that the caller has and didn't
// forward yet. It returns one of
//
//   - pass > 0: so many bytes at the beginning of b belong to what was decided
//     already, and are to be forwarded;
//   - a head: b begins with a request, or behind a CONNECT with another first
//     flight, to be decided by its name. The caller forwards its first head.Len
//     bytes, or ends the connection. The next call is about the bytes behind it;
//   - a head of Kind [Malformed]: the connection must be reset. Every later call
//     returns it again;
//   - neither: more bytes are needed, or none are left.
//
// If closed, the guest sends nothing behind b.
func (r *Requests) Next(b []byte, closed bool) (pass int, head Result) {
	switch {
	case r.failed.Kind == Malformed:
		return 0, r.failed
	case r.spliced:
		return len(b), Result{}
	case len(b) == 0:
		return 0, Result{}
	}
	pass, reason := r.body.take(b)
	if pass > 0 {
		return pass, Result{} // a reason is found again by the next call
	}
	if reason != "" {
		return 0, r.fail(reason)
	}

	head = r.flight.Next(b, closed)
	switch head.Kind {
	case More:
		return 0, Result{}
	case Malformed:
		return 0, r.fail(head.Reason)
	case HTTP1, Connect:
	case Opaque:
		if r.before == afterWebSocket {
			r.spliced = true
			return len(b), Result{}
		}
		fallthrough
	default:
		if r.before != afterConnect {
			return 0, r.fail("something else than a request behind a request")
		}
	}
	r.follow(head)
	return 0, head
}

// fail ends the following for good.
func (r *Requests) fail(reason string) Result {
	r.failed = malformed(reason)
	return r.failed
}
