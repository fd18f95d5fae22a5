package dns

import (
	"encoding/binary"
	"maps"
	"net"
	"net/netip"
	"slices"
	"time"

	mdns "github.com/miekg/dns"
)

// ownUDPSize is the size of replies over UDP that we take from upstreams and
// announce to guests: what passes an IPv6 path of minimal MTU unfragmented, the
// value of DNS Flag Day 2020.
const ownUDPSize = 1232

// An ede is an Extended DNS Error: https://www.rfc-editor.org/rfc/rfc8914. The
// zero ede is none. Its text is the guest's to read, and so a constant of ours:
// rules, addresses and what upstreams say are for the record only.
type ede struct {
	set  bool
	code uint16
	text string
}

// errorOf returns the ede with a code and a text, at most 120 bytes: it then
// fits plain UDP beside the longest question.
func errorOf(code uint16, text string) ede { return ede{set: true, code: code, text: text} }

// denied returns the ede of what the policy refuses.
func denied(text string) ede { return errorOf(mdns.ExtendedErrorCodeBlocked, text) }

// appendHeader appends the header of a reply to q and its question. The counts
// of the other sections are zero.
func appendHeader(dst []byte, q *query, flags uint16, rcode int) []byte {
	// Of a code above 15 the lower four bits, and the rest in our OPT record.
	flags |= flagQR | flagRA | uint16(q.opcode)<<11 | uint16(rcode)&0xf
	if q.rd {
		flags |= flagRD // "copied into the response": RFC 1035, section 4.1.1
	}
	if q.cd {
		flags |= flagCD // likewise: RFC 4035, section 3.2.2
	}
	dst = binary.BigEndian.AppendUint16(dst, q.id)
	dst = binary.BigEndian.AppendUint16(dst, flags)
	questions := uint16(0)
	if q.hasQuestion {
		questions = 1
	}
	dst = binary.BigEndian.AppendUint16(dst, questions)
	dst = append(dst, 0, 0, 0, 0, 0, 0)
	if q.hasQuestion {
		dst = append(dst, q.wire()...)
		dst = binary.BigEndian.AppendUint16(dst, q.qtype)
		dst = binary.BigEndian.AppendUint16(dst, q.qclass)
	}
	return dst
}

// appendOPT appends our OPT record to the reply in msg, if q carried one
// (https://www.rfc-editor.org/rfc/rfc6891#section-7), and counts it.
func appendOPT(msg []byte, q *query, rcode int, e ede) []byte {
	if !q.edns {
		return msg
	}
	binary.BigEndian.PutUint16(msg[10:], binary.BigEndian.Uint16(msg[10:])+1)
	msg = append(msg, 0) // the root
	msg = binary.BigEndian.AppendUint16(msg, mdns.TypeOPT)
	msg = binary.BigEndian.AppendUint16(msg, ownUDPSize)
	// The place of a TTL: upper bits of the code, version 0, flags.
	msg = append(msg, byte(rcode>>4), 0)
	do := uint16(0)
	if q.do {
		do = 1 << 15 // "copied into the response": RFC 3225, section 3
	}
	msg = binary.BigEndian.AppendUint16(msg, do)
	if !e.set {
		return append(msg, 0, 0)
	}
	msg = binary.BigEndian.AppendUint16(msg, uint16(6+len(e.text)))
	msg = binary.BigEndian.AppendUint16(msg, mdns.EDNS0EDE)
	msg = binary.BigEndian.AppendUint16(msg, uint16(2+len(e.text)))
	msg = binary.BigEndian.AppendUint16(msg, e.code)
	return append(msg, e.text...)
}

// optLen returns how many bytes appendOPT adds.
func optLen(q *query, e ede) int {
	switch {
	case !q.edns:
		return 0
	case !e.set:
		return 11
	default:
		return 11 + 6 + len(e.text)
	}
}

// emptyReply returns a reply to q without records.
func emptyReply(q *query, flags uint16, rcode int, e ede) []byte {
	msg := make([]byte, 0, headerLen+q.nameLen+4+optLen(q, e))
	return appendOPT(appendHeader(msg, q, flags, rcode), q, rcode, e)
}

// render returns the answer as a reply to q of at most size bytes, with the
// addresses given: those of a, or some of them. The rest goes to a guest that
// asks again over TCP.
//
// Nearly every reply is the packed answer with another id, the guest's spelling
// of the name (which other names in it point to) and the TTLs of this moment, so
// it costs one allocation.
func (a *answer) render(q *query, given []netip.Addr, size int, now time.Time) []byte {
	age := a.ageAt(now)
	template, ttls, flags := a.packed, a.ttls, uint16(0)
	if len(a.packed) == 0 { // a failure
		return emptyReply(q, 0, a.rcode, a.ede)
	}
	if whole := len(given) == len(a.addrs); !whole || len(a.packed)+optLen(q, a.ede) > size {
		template, ttls, flags = a.reduce(q, given, size)
	} else if a.ad && (q.ad || q.do) {
		flags |= flagAD // for who asked: RFC 6840, section 5.8
	}
	msg := make([]byte, 0, len(template)+optLen(q, a.ede))
	// Header and question have the same length in both, as the name is the same
	// but for its case; the counts of records are the template's.
	msg = appendHeader(msg, q, flags, a.rcode)
	msg = append(msg, template[len(msg):]...)
	copy(msg[6:headerLen], template[6:headerLen])
	for _, f := range ttls {
		binary.BigEndian.PutUint32(msg[f.off:], f.ttl-min(age, f.ttl))
	}
	return appendOPT(msg, q, a.rcode, a.ede)
}

// reduce returns a template like a.packed without the addresses that aren't
// given, which with our OPT record has at most size bytes.
func (a *answer) reduce(q *query, given []netip.Addr, size int) (template []byte, ttls []ttlField, flags uint16) {
	var m mdns.Msg
	if err := m.Unpack(a.packed); err != nil {
		return emptyTemplate(q), nil, flagTC // can't happen: we packed it
	}
	if len(given) < len(a.addrs) {
		m.Answer = keepAddrs(m.Answer, given) // and without AD: nobody validated what is left
	} else if a.ad && (q.ad || q.do) {
		flags |= flagAD
	}
	if q.edns { // Truncate keeps room for an OPT record that is there
		opt := &mdns.OPT{Hdr: mdns.RR_Header{Name: ".", Rrtype: mdns.TypeOPT}}
		if a.ede.set {
			opt.Option = []mdns.EDNS0{&mdns.EDNS0_EDE{InfoCode: a.ede.code, ExtraText: a.ede.text}}
		}
		m.Extra = []mdns.RR{opt}
	}
	m.Truncate(size)
	if m.Truncated {
		// What fits stays in: some stubs make do with it instead of asking again.
		flags |= flagTC
	}
	m.Compress, m.Extra = true, nil // the OPT record itself is appendOPT's
	template, err := m.Pack()
	if err != nil || len(template)+optLen(q, a.ede) > size {
		return emptyTemplate(q), nil, flagTC // not one record fits: all of it over TCP
	}
	return template, ttlFields(template), flags
}

// emptyTemplate is the template of an answer without records.
func emptyTemplate(q *query) []byte { return make([]byte, headerLen+q.nameLen+4) }

// keepAddrs returns rrs without the addresses and hints that aren't in given,
// and without the signatures that then don't fit.
func keepAddrs(rrs []mdns.RR, given []netip.Addr) []mdns.RR {
	keep := func(ip []byte) bool {
		addr, _ := netip.AddrFromSlice(ip)
		return slices.Contains(given, addr.Unmap())
	}
	changed := make(map[uint16]bool) // the types of sets that no longer are what was signed
	out := rrs[:0]
	for _, rr := range rrs {
		whole, left := true, true
		switch rr := rr.(type) {
		case *mdns.A:
			left = keep(rr.A)
		case *mdns.AAAA:
			left = keep(rr.AAAA)
		case *mdns.SVCB:
			whole, left = keepHints(rr, keep)
		case *mdns.HTTPS:
			whole, left = keepHints(&rr.SVCB, keep)
		}
		// One record less, and the signature over the set proves that somebody has
		// taken it: to a validator that is forgery.
		if !whole || !left {
			changed[rr.Header().Rrtype] = true
		}
		if left {
			out = append(out, rr)
		}
	}
	return withoutSignatures(out, slices.Collect(maps.Keys(changed))...)
}

// keepHints takes the hints out of b that keep doesn't want, and parameters that
// have none left. whole reports that nothing had to go, left that b can be used
// as it is now.
func keepHints(b *mdns.SVCB, keep func(ip []byte) bool) (whole, left bool) {
	whole, left = true, true
	unwanted := func(ip net.IP) bool { return !keep(ip) }
	var values []mdns.SVCBKeyValue
	for _, v := range b.Value {
		var hints *[]net.IP
		switch v := v.(type) {
		case *mdns.SVCBIPv4Hint:
			hints = &v.Hint
		case *mdns.SVCBIPv6Hint:
			hints = &v.Hint
		}
		if hints != nil {
			n := len(*hints)
			*hints = slices.DeleteFunc(*hints, unwanted)
			whole = whole && len(*hints) == n
			if len(*hints) == 0 { // a parameter without a value is malformed
				left = left && !isMandatory(b, v.Key())
				continue
			}
		}
		values = append(values, v)
	}
	b.Value = values
	return whole, left
}
