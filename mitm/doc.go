// Package mitm answers the TCP flows of a guest on ports where TLS is intercepted:
// it is the server that the guest's client talks to, with a certificate of the
// sandbox's own CA, and the client that the real server talks to, whose
// certificate it verifies. In between stands HTTP in the clear, where every
// request is decided, and secrets are put in and taken out. Make a [Proxy] with
// [New] and call [Proxy.Serve] with each flow.
//
// # The way of a flow
//
//	guest ─► first flight ─► policy ─► upstream: dial, ─► guest: handshake, ─┬─ HTTP ──► each request
//	         flight.go       Decide    verify              leaf.go           └─ other ─► relayed
//	           │                       upstream.go
//	           ├─ no name, no TLS ─► closed, or relayed (AllowNonTLS)
//	           └─ bypassed ────────► relayed as it is
//
// The server is connected and verified before the guest's handshake completes, and
// chooses the protocol among those that the guest offers. So a guest never talks
// to a server that isn't there, and both legs speak the same version of HTTP. What
// is wrong with a server's TLS the guest reads on a page with status 502. A server
// that speaks first, where that isn't HTTP, is heard at once (banner.go); of the guest
// nothing passes before its first flight shows what it is.
//
// # The way of a request
//
//	guestConn ─► net/http's server ─► exchange ─► ReverseProxy ─► http1Client, http2Client
//	guest.go     tier.go, session.go  request.go   response.go     client1.go, client2.go
//	strictly                          authority,   secrets.go      one connection
//	read                              policy       in and out      per guest's
//
// There is no framing of HTTP or TLS in this package: crypto/tls and net/http do
// it. net/http forgives much that other servers read otherwise, so in front of it
// [sniff.Requests] reads every byte strictly, and nothing it calls malformed
// passes. What passes is written anew; no byte of a request's framing is copied. Of
// servers' HTTP/2 one setting is changed on its way in (smallFrames), so that the
// size of frames, and of the buffers for them, is ours to say.
//
// Plain HTTP under domain rules takes the same way without TLS (plain.go); behind a
// CONNECT a flow is about the target, and begins anew (connect.go).
//
// # What holds
//
// A request whose authority isn't the name of its TLS is answered with 421. A
// secret's value is written only to a connection that was verified for the name.
// Guests share nothing: neither connections, nor certificates, nor tickets.
// Everything that a guest makes us keep is in [Limits].
//
// # What it will not do
//
// Intercept QUIC (vnet refuses it, and clients fall back), speak to servers older
// than TLS 1.2, show a server a client certificate, read what isn't HTTP, accept
// early data, serve HTTP/1 to who ends its half of the connection behind a request,
// or look like the guest's own TLS to a server that takes fingerprints.
package mitm
