// Package secret lets a guest use values that it never sees. The guest holds a
// placeholder; on the way to a host that may have the value the placeholder is
// replaced by it, on the way back the value is replaced by the placeholder, and
// on the way to any other host the placeholder is a violation.
//
// Make a [Set] with [New]; ask [Set.Request] for one [Request] per HTTP request
// and hand it the pieces of the request, then of the response, in the order in
// which they travel:
//
//	guest                                                        upstream
//	  │  Request.Head     method, authority, path, query, header      ▲
//	  ├─ Request.Body     a reader over the guest's body ─────────────┤
//	  │  Request.Trailer                                              │
//	  ▲                                                               │
//	  ├─ Request.Redact   header of a 1xx, a trailer ◄────────────────┤
//	  │  Request.Response header; says whether the body is re-framed  │
//	  └─ Response.Body    a reader over the upstream's body ◄─────────┘
//
// # How a text is found
//
// A placeholder or a value has one raw form and many others that say the same:
// percent-encoded (any of its bytes, hexadecimal digits in either case, "+" for a
// space), escaped as JSON (any of its characters), and, of a value, Base64 at
// three alignments in two alphabets. These aren't enumerated: a matcher looks
// for positions at which a form may begin, with one table look-up per two bytes,
// and a pattern then reads the bytes there as each spelling would decode them.
// One decoding is undone, never two: what is percent-encoded twice is another
// text.
//
// A form may be split over any number of reads. A stream keeps back those bytes,
// and only those, that are the beginning of a form and may still become one.
//
// # What it won't do
//
// The package knows no connection, goroutine or clock, and doesn't verify
// anything: the caller says with [Proof] what it knows about the destination. It
// doesn't decompress requests, read WebSocket frames or undo what a server did to
// a value before it echoed it (a hash, another case, an HTML entity).
//
// A guest that can make an allowed host send single bytes, and measures when they
// come, sees which of them are held back, and so could find out a value byte by byte;
// that is the price of streams that aren't delayed otherwise.
//
// Values leave it only in the bytes of an allowed request. No error, finding,
// String method or formatting verb shows one; see [Value].
package secret
