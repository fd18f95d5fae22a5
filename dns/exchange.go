package dns

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	mdns "github.com/miekg/dns"
)

// maxWrongReplies is how many datagrams that don't fit the question are read
// before it is asked over TCP: somebody is guessing.
// https://www.rfc-editor.org/rfc/rfc5452#section-9.3
const maxWrongReplies = 16

var (
	errWrongReplies = errors.New("too many replies that don't fit the question")
	errCase         = errors.New("reply doesn't repeat the question's case")
	errTruncated    = errors.New("reply is truncated")
	errMalformed    = errors.New("reply is malformed")
	errWrongReply   = errors.New("reply doesn't fit the question")
)

// replyBuffers holds []byte for one reply over UDP: more than we announce, since
// some servers don't heed that.
var replyBuffers = sync.Pool{New: func() any { b := make([]byte, 4096); return &b }}

// exchange asks server q over UDP, from a port and with an id that nobody can
// guess, and over TCP where UDP doesn't do. It returns the reply and what it
// taught about the server. An error is the network's, or says that the server
// talks nonsense.
//
// Each question has a socket of its own: a shared one would have a port that an
// attacker finds once and then knows for all questions.
func exchange(ctx context.Context, server netip.AddrPort, q *query, u upstreamState) (*mdns.Msg, upstreamState, error) {
	m, err := exchangeUDP(ctx, server, q, u)
	switch {
	case errors.Is(err, errTruncated), errors.Is(err, errWrongReplies):
		// What case TCP answers in teaches nothing here: nobody complained of it.
		m, _, err = exchangeTCP(ctx, server, q, u)
	case errors.Is(err, errCase):
		// Either the server folds case, or somebody guessed id and port. TCP
		// tells, since nobody can guess into it.
		var folds bool
		if m, folds, err = exchangeTCP(ctx, server, q, u); err == nil {
			u.foldsCase = folds
			break
		}
		// No TCP. To ask on in lower case is no worse than any resolver without
		// this trick is.
		u.foldsCase = true
		m, err = exchangeUDP(ctx, server, q, u)
	}
	if err != nil {
		return nil, u, err
	}
	if !u.noEDNS && (m.Rcode == mdns.RcodeFormatError || m.Rcode == mdns.RcodeNotImplemented || m.Rcode == mdns.RcodeBadVers) {
		// "Responders that choose not to implement the protocol extensions …
		// respond with FORMERR": https://www.rfc-editor.org/rfc/rfc6891#section-7
		plain := u
		plain.noEDNS = true
		if again, learnt, err := exchange(ctx, server, q, plain); err == nil && again.Rcode != m.Rcode {
			return again, learnt, nil // else it was the question, not the OPT record
		}
	}
	return m, u, nil
}

// exchangeUDP asks over UDP. The socket is connected, so that the kernel drops
// what comes from another address or port.
func exchangeUDP(ctx context.Context, server netip.AddrPort, q *query, u upstreamState) (*mdns.Msg, error) {
	// Port 0: the kernel takes a random free one, half of what is to be guessed.
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(server))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	defer endWith(ctx, c)()
	sent := appendQuestion(make([]byte, 0, 320), q, u)
	if err := send(ctx, c, sent); err != nil {
		return nil, err
	}
	buf := replyBuffers.Get().(*[]byte)
	defer replyBuffers.Put(buf)
	for wrong := 0; wrong < maxWrongReplies; {
		n, err := c.Read(*buf)
		if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil {
			// A datagram may be lost on the way: ask again, and take the answer
			// to either.
			if err = send(ctx, c, sent); err == nil {
				continue
			}
		}
		if err != nil {
			return nil, err
		}
		switch err := checkReply((*buf)[:n], sent); err {
		case nil:
			if n == len(*buf) {
				return nil, errTruncated // by us: more than we announced
			}
			return unpackReply((*buf)[:n])
		case errCase, errTruncated:
			return nil, err
		default:
			wrong++ // and the right one may still come
		}
	}
	return nil, errWrongReplies
}

// send writes a query and bounds the wait for its answer.
func send(ctx context.Context, c *net.UDPConn, query []byte) error {
	if _, err := c.Write(query); err != nil {
		return err
	}
	c.SetReadDeadline(time.Now().Add(overlap))
	return ctx.Err() // if ctx ended just now, that set the deadline before us
}

// exchangeTCP asks over TCP, and reports whether the server folds case.
// https://www.rfc-editor.org/rfc/rfc7766
func exchangeTCP(ctx context.Context, server netip.AddrPort, q *query, u upstreamState) (m *mdns.Msg, folds bool, err error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", server.String())
	if err != nil {
		return nil, false, err
	}
	defer c.Close()
	defer endWith(ctx, c)()
	// Length and query in one write: some servers read them by one read.
	// https://www.rfc-editor.org/rfc/rfc7766#section-8
	framed := appendQuestion(make([]byte, 2, 320), q, u)
	sent := framed[2:]
	binary.BigEndian.PutUint16(framed, uint16(len(sent)))
	if _, err := c.Write(framed); err != nil {
		return nil, false, err
	}
	var size [2]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return nil, false, err
	}
	msg := make([]byte, binary.BigEndian.Uint16(size[:])) // at most 64 KiB, and as often as there are sockets
	if _, err := io.ReadFull(c, msg); err != nil {
		return nil, false, err
	}
	// The case is no secret over TCP, where nobody can guess into the stream.
	if err := checkReply(msg, sent); err == errCase {
		folds = true
	} else if err != nil {
		return nil, false, err
	}
	m, err = unpackReply(msg)
	return m, folds, err
}

// endWith makes c's reads and writes fail at ctx's end. The caller calls the
// function it returns before it closes c.
func endWith(ctx context.Context, c net.Conn) (release func()) {
	if deadline, ok := ctx.Deadline(); ok {
		c.SetDeadline(deadline)
	}
	done := make(chan struct{}) // closed when the function below has run: c may be closed then
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		c.SetDeadline(time.Unix(1, 0))
	})
	return func() {
		if !stop() {
			<-done
		}
	}
}

// appendQuestion appends the query that asks q: its name in lower case or, as
// more that an attacker must guess, in a random one
// (https://datatracker.ietf.org/doc/html/draft-vixie-dnsext-dns0x20-00), and no
// option of the guest's.
func appendQuestion(dst []byte, q *query, u upstreamState) []byte {
	// An id, and a bit for each byte of the name.
	var random [2 + maxNameWire/8 + 1]byte
	rand.Read(random[:]) // never fails
	start := len(dst)
	flags := uint16(flagRD | flagAD) // AD: https://www.rfc-editor.org/rfc/rfc6840#section-5.7
	// A guest that validates by itself wants what doesn't validate, too.
	if q.cd {
		flags |= flagCD
	}
	dst = append(dst, random[0], random[1])
	dst = binary.BigEndian.AppendUint16(dst, flags)
	dst = append(dst, 0, 1, 0, 0, 0, 0, 0, 0)
	for i, c := range q.wire() {
		c = lower(c)
		if !u.foldsCase && 'a' <= c && c <= 'z' && random[2+i/8]>>(i%8)&1 != 0 {
			c -= 'a' - 'A'
		}
		dst = append(dst, c)
	}
	dst = binary.BigEndian.AppendUint16(dst, q.qtype)
	dst = binary.BigEndian.AppendUint16(dst, q.qclass)
	if u.noEDNS {
		return dst
	}
	// An OPT record of ours, with no option: no client subnet, no cookie, nothing
	// of the guest's that a name server could tell it by.
	dst[start+11] = 1
	dst = append(dst, 0)
	dst = binary.BigEndian.AppendUint16(dst, mdns.TypeOPT)
	dst = binary.BigEndian.AppendUint16(dst, ownUDPSize)
	do := byte(0)
	if q.do {
		do = 0x80
	}
	return append(dst, 0, 0, do, 0, 0, 0)
}

// checkReply compares a message with the query it should answer:
// https://www.rfc-editor.org/rfc/rfc5452#section-9.1. errCase means that only
// the case differs, errTruncated that the rest is worth asking for over TCP.
func checkReply(msg, sent []byte) error {
	if len(msg) < headerLen || msg[0] != sent[0] || msg[1] != sent[1] {
		return errWrongReply
	}
	flags := binary.BigEndian.Uint16(msg[2:])
	if flags&flagQR == 0 || flags>>11&0xf != mdns.OpcodeQuery {
		return errWrongReply
	}
	questionEnd := skipName(sent, headerLen) + 4
	switch binary.BigEndian.Uint16(msg[4:]) {
	case 0:
		// Some servers leave out the question of what they refuse. An answer
		// without it could be to another one.
		if rcode := flags & 0xf; rcode == mdns.RcodeSuccess || rcode == mdns.RcodeNameError {
			return errWrongReply
		}
		return nil
	case 1:
	default:
		return errWrongReply
	}
	if len(msg) < questionEnd {
		return errWrongReply
	}
	got, want := msg[headerLen:questionEnd], sent[headerLen:questionEnd]
	name := len(want) - 4
	// The name uncompressed, as every server repeats it: nothing stands before it
	// that a pointer could lead to.
	if !equalFold(got[:name], want[:name]) || !bytes.Equal(got[name:], want[name:]) {
		return errWrongReply
	}
	if !bytes.Equal(got[:name], want[:name]) {
		return errCase
	}
	if flags&flagTC != 0 {
		return errTruncated
	}
	return nil
}

// unpackReply parses a reply that checkReply approved.
func unpackReply(msg []byte) (*mdns.Msg, error) {
	if !wellFormed(msg) {
		return nil, errMalformed
	}
	m := new(mdns.Msg)
	if err := m.Unpack(msg); err != nil {
		return nil, fmt.Errorf("%w: %v", errMalformed, err)
	}
	return m, nil
}

// wellFormed reports whether msg holds the records that its header counts.
// miekg's parser takes fewer for granted.
func wellFormed(msg []byte) bool {
	if len(msg) < headerLen {
		return false
	}
	off := headerLen
	for range binary.BigEndian.Uint16(msg[4:]) {
		if off = skipName(msg, off); off < 0 || off+4 > len(msg) {
			return false
		}
		off += 4
	}
	records := 0
	for i := 6; i < headerLen; i += 2 {
		records += int(binary.BigEndian.Uint16(msg[i:]))
	}
	for range records { // a record takes eleven bytes at least, so lies end soon
		if off = skipName(msg, off); off < 0 || off+10 > len(msg) {
			return false
		}
		if off += 10 + int(binary.BigEndian.Uint16(msg[off+8:])); off > len(msg) {
			return false
		}
	}
	return true
}
