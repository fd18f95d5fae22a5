// Package sniff finds the name in the first bytes that a guest sends on a TCP
// connection: the SNI of a TLS ClientHello, or the authority of an HTTP/1
// request. It also finds the further requests of a kept-alive HTTP/1 connection
// and those of HTTP/2, and recognizes the first packet of QUIC.
//
// Call [Flight.Next] with all the bytes so far, each time there are more, until
// it answers something else than [More]. [Classify] does the same for bytes
// that are all at hand. [Follow] goes on behind the first request.
//
// # How a verdict comes about
//
//	first byte ─┬─ 0x14…0x18, 0x80 ─► TLS-like  ─► a strict ClientHello? ─┬─ yes ─► TLS
//	            ├─ text            ─► HTTP-like ─► a strict head? ────────┼─ yes ─► HTTP1, Connect, HTTP2
//	            │                      │                                  └─ no  ─► Malformed
//	            └─ anything else       └─ no request line
//	                    └──────────────────────┴─► Opaque
//
// Two kinds of reader decide where a byte leads. What is accepted is read
// strictly, so that no server can read another name in it. What is called
// opaque is judged leniently: only bytes in which no server at all, however
// forgiving, finds a ClientHello or a request. All that lies between, which one
// server would refuse and another read, is Malformed: it may carry a name that
// we can't tell.
//
// # What holds
//
// A prefix that is classified is classified for good: more bytes never change
// the verdict. Therefore it is the same for every way the bytes can be cut into
// segments. Parsing goes on where it stopped, so that a guest that sends single
// bytes costs one look at each byte. No call blocks, keeps its argument, or
// allocates, but for the strings of a result and for a ClientHello that is
// split over several TLS records.
//
// # What it will not do
//
// Guess. A client that sends a word, a blank, and then waits without having
// ended the line may be about to send HTTP: its flight stays undecided. Git's
// own protocol (git://) is the one such that is still met.
//
// Decide anything, know the time (a flight that never ends is cut off by its
// caller), look behind encryption, or read responses.
package sniff

import "net/netip"

// MaxFlight bounds the bytes of a ClientHello, its record headers included, or
// of a request head. A flight that isn't classified within them is [Malformed].
// Real hellos have up to 2 KiB, real heads up to 16 KiB; servers refuse more
// than 64 KiB at the latest.
const MaxFlight = 64 << 10

// A Kind says what the first bytes of a connection are. The zero Kind is
// [More].
type Kind uint8

const (
	More      Kind = iota // undecided: the bytes so far are a prefix of several kinds
	TLS                   // a complete ClientHello
	HTTP1                 // a complete head of an HTTP/1 request, CONNECT aside
	Connect               // a complete head of an HTTP/1 CONNECT request
	HTTP2                 // the complete connection preface of HTTP/2, or a request behind it
	Opaque                // nothing that any server reads as TLS or HTTP
	Malformed             // like TLS or HTTP, but not strictly so, or too long
)

// String returns the kind's name in lower case.
func (k Kind) String() string {
	return [...]string{"more", "tls", "http1", "connect", "http2", "opaque", "malformed"}[k]
}

// A Result is what is known of a flight. Its zero value says that more bytes
// are needed.
type Result struct {
	Kind Kind

	// Name is the host that the guest named, canonical: lower case, without a
	// trailing dot. It is "" where the guest named none: a ClientHello without
	// SNI, a request without authority or whose authority is the very address
	// of the connection, a CONNECT to an address, the preface of HTTP/2. Valid
	// iff Kind is TLS, HTTP1, Connect or HTTP2.
	Name string

	// Addr and Port are the target of a Connect; Addr is the zero Addr if the
	// target is Name.
	Addr netip.Addr
	Port uint16

	// Len is the length of the ClientHello with its records, of the head with
	// its empty line, of the preface, or of the frames of a request, in bytes;
	// else 0.
	Len int

	// Reason says in a few words why the bytes are Malformed; "" otherwise. It
	// never quotes the guest's bytes.
	Reason string

	// Version is the highest TLS version that the ClientHello offers, as
	// crypto/tls numbers it. ECH reports that it has an encrypted_client_hello
	// extension: Name is then the outer name, unless the extension is GREASE,
	// which nobody but the server can tell. Valid iff Kind is TLS.
	Version uint16
	ECH     bool

	alpn string // protocol_name_list as on the wire
	body body   // framing of what follows the head; valid iff Kind is HTTP1
	// webSocket reports that the request asks to switch to that protocol.
	webSocket bool
}

// ALPN returns the protocols that a ClientHello offers, in its order.
func (r Result) ALPN() []string {
	var protos []string
	for list := r.alpn; list != ""; {
		n := int(list[0]) // checked by parseHello
		protos = append(protos, list[1:1+n])
		list = list[1+n:]
	}
	return protos
}

// Classify returns the verdict on b, the first bytes of a connection to dst.
// See [Flight.Next] for closed.
func Classify(b []byte, closed bool, dst netip.Addr) Result {
	f := Flight{Dst: dst}
	return f.Next(b, closed)
}

// A Flight classifies the first bytes of one connection as they come in. The
// zero Flight is ready for a connection whose address can't appear as an
// authority. It must not be used by several goroutines at once.
type Flight struct {
	// Dst is the address that the guest connected to. A request whose authority
	// is this address names no host; any other address there is malformed. It
	// must not be an IPv4-mapped IPv6 address, nor have a zone.
	Dst netip.Addr

	reader reader
	hello  helloReader
	head   headReader
	result Result
}

// A reader is what reads the rest of a flight, once its first bytes have shown
// what it looks like.
type reader uint8

const (
	readStart reader = iota
	readHello
	readHead
)

// Next returns the verdict on b: all bytes of the connection so far, those of
// earlier calls included. If closed, no byte follows and the verdict isn't
// [More]. A verdict is final: later calls return it again.
func (f *Flight) Next(b []byte, closed bool) Result {
	if f.result.Kind != More {
		return f.result
	}
	r := f.read(b[:min(len(b), MaxFlight)])
	if r.Kind == More && len(b) >= MaxFlight {
		r = malformed("longer than 64 KiB")
	}
	if r.Kind == More && closed {
		r = f.end(b)
	}
	f.result = r
	return r
}

// read hands b to the reader that its first bytes ask for.
func (f *Flight) read(b []byte) Result {
	if f.reader == readStart {
		switch lookAt(b) {
		case undecided:
			return Result{}
		case looksOpaque:
			return Result{Kind: Opaque}
		case looksUnreadable:
			return malformed("like TLS, but no ClientHello")
		case looksTLS:
			f.reader = readHello
		case looksText:
			f.reader = readHead
			f.head.dst = f.Dst
		}
	}
	if f.reader == readHello {
		return f.hello.next(b)
	}
	return f.head.next(b)
}

// end returns the verdict on a flight that ended undecided. TLS that is
// recognized as such is malformed, so is a request line; a lone first byte of
// either is opaque, since nobody reads anything in it.
func (f *Flight) end(b []byte) Result {
	switch {
	case f.reader == readHello:
		return malformed("ended within the ClientHello")
	case f.reader == readHead && f.head.likeHTTP(b):
		return malformed("ended within the request head")
	}
	return Result{Kind: Opaque}
}

// A look is what the first bytes of a flight look like.
type look uint8

const (
	undecided       look = iota
	looksOpaque          // neither TLS nor text
	looksUnreadable      // something that some TLS servers read, and we don't
	looksTLS             // a handshake record of TLS
	looksText            // perhaps a request line
)

// lookAt tells TLS from text by at most six bytes. TLS-like is:
//
//   - a content type, 0x14 to 0x18, followed by the major version 3;
//   - an alert or handshake of any major version below 16 whose first byte is 1
//     (a warning, a ClientHello): crypto/tls checks the version no closer on
//     its first record, skips the warning, and reads the hello;
//   - a ClientHello in SSLv2 framing (RFC 5246, appendix E.2).
func lookAt(b []byte) look {
	if len(b) == 0 {
		return undecided
	}
	switch first := b[0]; {
	case first >= 0x14 && first <= 0x18:
		switch {
		case len(b) < 2:
			return undecided
		case b[1] == 3 && first == recordHandshake:
			return looksTLS
		case b[1] == 3:
			return looksUnreadable
		case b[1] >= 16 || first != recordHandshake && first != recordAlert:
			return looksOpaque
		case len(b) < 6:
			return undecided
		case b[5] == 1:
			return looksUnreadable
		}
		return looksOpaque
	case first == 0x80:
		switch {
		case len(b) >= 3 && b[2] != 1:
			return looksOpaque
		case len(b) < 4:
			return undecided
		case b[3] == 0 || b[3] == 3:
			return looksUnreadable
		}
		return looksOpaque
	case isToken(first) || isBlank(first) || first == '\n':
		return looksText
	}
	return looksOpaque
}

// malformed returns the verdict for bytes that may carry a name which we can't
// tell.
func malformed(reason string) Result {
	return Result{Kind: Malformed, Reason: reason}
}
