package sniff

import "net/netip"

// Requests finds the requests that a guest sends one after the other on an HTTP
// connection, so that each can be decided by its own name. It parses the
// framing of requests alone, and follows no response:
//
//   - After a request comes a request. Anything else is malformed, a second
//     Host and the preface of HTTP/2 included.
//   - After a request with Upgrade: websocket comes a request, if the server
//     didn't switch. Else come the frames of a WebSocket, whose first two bytes
//     begin no request: behind them everything passes.
//   - After a CONNECT comes the first flight of the tunnel, or a request, if
//     the proxy refused: a result of any kind, which is for the caller to
//     decide. Behind a kind without requests everything passes.
//   - After the preface of HTTP/2 come frames. Those of the connection pass,
//     every stream begins with a request, and nothing belongs to a stream
//     before the first of them.
//
// It must not be used by several goroutines at once.
type Requests struct {
	dst     netip.Addr
	before  precedent
	body    body     // what is to come of the last request
	flight  Flight   // of the next head
	streams *streams // valid iff before is afterPreface
	failed  Result   // valid iff its Kind is Malformed
}

// A precedent says what came before the next head.
type precedent uint8

const (
	afterRequest precedent = iota
	afterWebSocket
	afterConnect
	afterPreface
	afterAll // no head comes any more
)

// Follow returns the Requests of a connection to dst that began with first, a
// result of the Kinds [HTTP1], [Connect] or [HTTP2]. The first byte for it is
// the one behind first.Len.
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
	case head.Kind == HTTP2:
		r.before = afterPreface
		r.streams = newStreams(r.dst)
	case head.Kind != HTTP1:
		r.before = afterAll
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
	case r.before == afterAll:
		return len(b), Result{}
	case len(b) == 0:
		return 0, Result{}
	case r.before == afterPreface:
		pass, head = r.streams.next(b)
		if head.Kind == More && pass == 0 && closed {
			head = malformed("ended within a frame")
		}
		if head.Kind == Malformed {
			r.failed = head
		}
		return pass, head
	}
	pass, reason := r.body.take(b)
	if pass > 0 {
		return pass, Result{} // a reason is found again by the next call
	}
	if reason != "" {
		return 0, r.fail(reason)
	}

	if r.before == afterWebSocket && isWebSocketFrame(b) {
		r.before = afterAll
		return len(b), Result{}
	}
	head = r.flight.Next(b, closed)
	switch head.Kind {
	case More:
		return 0, Result{}
	case Malformed:
		return 0, r.fail(head.Reason)
	case HTTP1, Connect:
	default:
		if r.before == afterWebSocket && len(b) == 1 && !closed {
			r.flight = Flight{Dst: r.dst}
			return 0, Result{} // it takes two bytes to know a frame
		}
		if r.before != afterConnect {
			return 0, r.fail("something else than a request behind a request")
		}
	}
	r.follow(head)
	return 0, head
}

// isWebSocketFrame reports whether b begins with the first frame of a client
// (RFC 6455, section 5.2): text or data, perhaps compressed, whole or the first
// of a fragmented message; or a control frame. Its second byte has the mask bit,
// which every client must set, and which no byte of a request line has so early.
func isWebSocketFrame(b []byte) bool {
	if len(b) < 2 || b[1]&0x80 == 0 {
		return false
	}
	switch b[0] {
	case 0x01, 0x02, 0x41, 0x42, 0x81, 0x82, 0xc1, 0xc2: // data: bit 7 whole, bit 6 compressed
		return true
	case 0x88, 0x89, 0x8a: // close, ping, pong
		return true
	}
	return false
}

// fail ends the following for good.
func (r *Requests) fail(reason string) Result {
	r.failed = malformed(reason)
	return r.failed
}
