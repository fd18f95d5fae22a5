package dns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	mdns "github.com/miekg/dns"
)

const (
	// maxChain is how many CNAME records are followed from the queried name.
	maxChain = 16

	// maxTargets is how many names of service records are followed.
	maxTargets = 64

	// maxTTL bounds every TTL, in seconds: a name that is pointed elsewhere is
	// noticed within the hour, and the table of names stays bounded in time.
	maxTTL = 3600
)

// An answer is what an upstream said to a question, reduced to what the
// question asked for. It is immutable and holds nothing that depends on policy.
type answer struct {
	name  string         // the queried name in text form
	from  netip.AddrPort // the upstream; not valid if nobody could be asked
	rcode int
	ad    bool // the upstream validated it
	// ede and reason tell what went wrong, the guest and the record. They are
	// the upstream's, or ours if none answered.
	ede    ede
	reason string
	// packed is the reply as a guest in lower case would get it at the time
	// stored, with header and question, without OPT record.
	packed []byte
	ttls   []ttlField
	hops   []string // targets of the CNAME records, in order, in text form
	// addrs are the addresses that the chain reaches: of A and AAAA records,
	// and of the hints of SVCB and HTTPS records, each once.
	addrs   []netip.Addr
	addrTTL uint32   // the shortest of the records that gave addrs, in seconds
	targets []string // names that SRV, MX, SVCB and HTTPS records point to, in text form
	ttl     uint32   // how long the answer may be kept, in seconds
	stored  time.Time
}

// A ttlField is the place of a record's TTL in a packed message.
type ttlField struct {
	off int
	ttl uint32
}

var (
	errChain     = fmt.Errorf("chain of CNAME records is a loop or longer than %d", maxChain)
	errChainName = errors.New("CNAME record points to a name that is no host name")
	errTooLong   = errors.New("message is too long")
)

// ageAt returns how many seconds of the answer's life have passed.
func (a *answer) ageAt(now time.Time) uint32 {
	return uint32(min(max(now.Sub(a.stored)/time.Second, 0), maxTTL))
}

// namesExpire returns until when the entries that the answer makes in the table
// of names live, if the guest gets it now.
func (a *answer) namesExpire(now time.Time) time.Time {
	left := time.Duration(a.addrTTL-min(a.ageAt(now), a.addrTTL)) * time.Second
	return now.Add(max(left, minNameTTL) + nameGrace)
}

// readAnswer reduces the upstream's reply m, received at now, to what q asked:
// the CNAME chain from the queried name and what stands at its end; of the
// authority section what proves a negative or a wildcard. What the chain
// doesn't reach, and the additional section, is left out: an address there
// would reach the guest without belonging to the name it asked for.
func readAnswer(m *mdns.Msg, q *query, now time.Time) (*answer, error) {
	a := &answer{rcode: m.Rcode, ad: m.AuthenticatedData, addrTTL: maxTTL, stored: now}
	a.ede, a.reason = upstreamError(m)
	// In miekg's form, since that is what records' names are compared in.
	question, _, err := mdns.UnpackDomainName(lowerWire(q.wire()), 0)
	if err != nil {
		return nil, fmt.Errorf("read queried name: %w", err)
	}
	fold(m.Answer, question)
	fold(m.Ns, question)
	c, err := walkChain(m.Answer, question, q.qtype)
	if err != nil {
		return nil, err
	}
	if a.rcode != mdns.RcodeSuccess {
		c.records, c.ended = c.records[:c.end], false // nothing stands at a name that doesn't exist
	}
	// Packed anew rather than cut: what the upstream sent may be compressed into
	// what is left out, and what we pack we can trust.
	a.hops = c.hops
	out := mdns.Msg{Compress: true, Answer: c.records, Ns: proofs(m.Ns, c.names)}
	out.Question = []mdns.Question{{Name: question, Qtype: q.qtype, Qclass: mdns.ClassINET}}
	out.Answer = a.collect(out.Answer)
	a.ttl = keepFor(&out, a.rcode, c.ended)
	if a.packed, err = out.Pack(); err != nil {
		return nil, fmt.Errorf("pack answer: %w", err)
	}
	if len(a.packed) > mdns.MaxMsgSize-64 { // room for our OPT record
		return nil, errTooLong
	}
	a.ttls = ttlFields(a.packed)
	return a, nil
}

// upstreamError returns the first Extended DNS Error of m without its text, which
// is anybody's, and the name of its code for the record.
func upstreamError(m *mdns.Msg) (e ede, reason string) {
	opt := m.IsEdns0()
	if opt == nil {
		return ede{}, ""
	}
	for _, o := range opt.Option {
		// Its number can lie no more than the answer itself can.
		if e, ok := o.(*mdns.EDNS0_EDE); ok {
			return errorOf(e.InfoCode, ""), mdns.ExtendedErrorCodeToString[e.InfoCode]
		}
	}
	return ede{}, ""
}

// A chain is the part of an answer section that the queried name reaches.
type chain struct {
	records []mdns.RR
	end     int      // where the records at the chain's end begin
	names   []string // the queried name and each hop, in presentation form, lower case
	hops    []string // the hops in text form
	ended   bool     // there are records of the queried type at the end
}

// walkChain follows the CNAME records of an answer section from question.
func walkChain(rrs []mdns.RR, question string, qtype uint16) (chain, error) {
	c := chain{names: []string{question}}
	for cur := question; ; {
		// Who asks for the CNAME itself, or for everything, gets it and not what
		// it leads to: https://www.rfc-editor.org/rfc/rfc1034#section-3.6.2
		cname := findCNAME(rrs, cur)
		if cname == nil || qtype == mdns.TypeCNAME || qtype == mdns.TypeANY {
			c.end = len(c.records)
			for _, rr := range rrs {
				h := rr.Header()
				if h.Class == mdns.ClassINET && mdns.CanonicalName(h.Name) == cur && answers(rr, qtype) {
					c.records = append(c.records, rr)
					c.ended = true
				}
			}
			return c, nil
		}
		if len(c.hops) == maxChain { // loops, too, end here
			return c, errChain
		}
		c.records = appendHop(c.records, rrs, cname, cur)
		cur = mdns.CanonicalName(cname.Target)
		hop, ok := textName(cur)
		if !ok { // no rule could be about it, so none could deny it
			return c, errChainName
		}
		c.names = append(c.names, cur)
		c.hops = append(c.hops, hop)
	}
}

// findCNAME returns the first CNAME record of owner, or nil. A second one at
// the same owner is an error of the zone (RFC 2181, section 10.1), and left out.
func findCNAME(rrs []mdns.RR, owner string) *mdns.CNAME {
	for _, rr := range rrs {
		if c, ok := rr.(*mdns.CNAME); ok && c.Hdr.Class == mdns.ClassINET && mdns.CanonicalName(c.Hdr.Name) == owner {
			return c
		}
	}
	return nil
}

// appendHop appends cname with its signatures, and in front of it the DNAME
// record that it was made from, which a validator needs to believe it
// (https://www.rfc-editor.org/rfc/rfc6672#section-5.3.1).
func appendHop(dst, rrs []mdns.RR, cname *mdns.CNAME, owner string) []mdns.RR {
	source := "" // of the DNAME record
	for _, rr := range rrs {
		d, ok := rr.(*mdns.DNAME)
		if !ok || d.Hdr.Class != mdns.ClassINET {
			continue
		}
		// "The owner name of the DNAME is replaced": a record that would have
		// made another CNAME isn't part of this chain.
		from := mdns.CanonicalName(d.Hdr.Name)
		prefix, below := strings.CutSuffix(owner, "."+from)
		if below && prefix+"."+mdns.CanonicalName(d.Target) == mdns.CanonicalName(cname.Target) {
			source = from
			dst = append(dst, d)
			break
		}
	}
	for _, rr := range rrs {
		sig, ok := rr.(*mdns.RRSIG)
		if !ok || sig.Hdr.Class != mdns.ClassINET {
			continue
		}
		name := mdns.CanonicalName(sig.Hdr.Name)
		if name == owner && sig.TypeCovered == mdns.TypeCNAME || source != "" && name == source && sig.TypeCovered == mdns.TypeDNAME {
			dst = append(dst, sig)
		}
	}
	return append(dst, cname)
}

// answers reports whether rr, at the chain's end, belongs to an answer for qtype.
func answers(rr mdns.RR, qtype uint16) bool {
	t := rr.Header().Rrtype
	return t == qtype || qtype == mdns.TypeANY || t == mdns.TypeRRSIG && coveredType(rr) == qtype
}

// coveredType returns the type of rr, and for a signature that of what it signs.
func coveredType(rr mdns.RR) uint16 {
	if sig, ok := rr.(*mdns.RRSIG); ok {
		return sig.TypeCovered
	}
	return rr.Header().Rrtype
}

// proofs returns the records of an authority section that say something about
// the chain: the SOA of a zone that holds one of its names, and the records that
// prove to a validator that a name or type doesn't exist. Name servers are
// nothing to a guest that can reach only us.
func proofs(rrs []mdns.RR, names []string) []mdns.RR {
	var out []mdns.RR
	for _, rr := range rrs {
		h := rr.Header()
		if h.Class != mdns.ClassINET {
			continue
		}
		switch coveredType(rr) {
		case mdns.TypeSOA:
			// One of another zone would make a negative answer live as long as
			// whoever sent it likes.
			for _, n := range names {
				if mdns.IsSubDomain(h.Name, n) {
					out = append(out, rr)
					break
				}
			}
		case mdns.TypeNSEC, mdns.TypeNSEC3:
			out = append(out, rr)
		}
	}
	return out
}

// collect notes the addresses and targets of the answer's records, bounds their
// TTLs, and takes ech out of service bindings: a guest that encrypts its
// ClientHello hides the name that the policy decides on. It returns the records
// that stay.
func (a *answer) collect(rrs []mdns.RR) []mdns.RR {
	c := collector{a: a, seen: make(map[netip.Addr]bool)}
	out := rrs[:0] // in place: what is read is never behind what is written
	for _, rr := range rrs {
		h := rr.Header()
		h.Ttl = min(h.Ttl, maxTTL) // as RFC 8767, section 4: a set top bit is no negative number
		keep := true
		switch rr := rr.(type) {
		case *mdns.A:
			c.addAddr(rr.A, h.Ttl)
		case *mdns.AAAA:
			c.addAddr(rr.AAAA, h.Ttl)
		case *mdns.SRV:
			c.addTarget(rr.Target)
		case *mdns.MX:
			c.addTarget(rr.Mx)
		case *mdns.SVCB:
			keep = c.addBinding(rr)
		case *mdns.HTTPS:
			keep = c.addBinding(&rr.SVCB)
		}
		if keep {
			out = append(out, rr)
		}
	}
	if c.stripped {
		a.ad = false // what is left is not what the upstream validated
		out = withoutSignatures(out, mdns.TypeSVCB, mdns.TypeHTTPS)
	}
	return out
}

// withoutSignatures returns rrs without the signatures of the given types: of
// sets that we changed, which they no longer fit.
func withoutSignatures(rrs []mdns.RR, types ...uint16) []mdns.RR {
	out := rrs[:0]
	for _, rr := range rrs {
		if sig, ok := rr.(*mdns.RRSIG); ok && slices.Contains(types, sig.TypeCovered) {
			continue
		}
		out = append(out, rr)
	}
	return out
}

// A collector fills an answer's addresses and targets.
type collector struct {
	a        *answer
	seen     map[netip.Addr]bool // an answer of 64 KiB can hold 4000 addresses
	stripped bool                // a service binding lost its ech
}

// addAddr notes an address that the guest would be given, once.
func (c *collector) addAddr(ip []byte, ttl uint32) {
	addr, ok := netip.AddrFromSlice(ip)
	if !ok { // a hint of another length
		return
	}
	c.a.addrTTL = min(c.a.addrTTL, ttl)
	if addr = addr.Unmap(); !c.seen[addr] {
		c.seen[addr] = true
		c.a.addrs = append(c.a.addrs, addr)
	}
}

// addTarget notes a name that a service record points to. "." is none (SRV, MX)
// or the owner itself (SVCB).
func (c *collector) addTarget(name string) {
	if text, ok := textName(name); ok && text != "" && len(c.a.targets) < maxTargets {
		c.a.targets = append(c.a.targets, text)
	}
}

// addBinding takes ech out of a service binding and notes its target and its
// hints (https://www.rfc-editor.org/rfc/rfc9460#section-7.3). It reports false if
// the binding can't be used without ech.
func (c *collector) addBinding(b *mdns.SVCB) bool {
	n := len(b.Value)
	b.Value = slices.DeleteFunc(b.Value, func(v mdns.SVCBKeyValue) bool { return v.Key() == mdns.SVCB_ECHCONFIG })
	c.stripped = c.stripped || len(b.Value) < n
	if isMandatory(b, mdns.SVCB_ECHCONFIG) {
		return false
	}
	// Clients connect to hints without asking for the target's address, so they
	// are addresses like those of A and AAAA records.
	c.addTarget(b.Target)
	for _, v := range b.Value {
		switch v := v.(type) {
		case *mdns.SVCBIPv4Hint:
			for _, ip := range v.Hint {
				c.addAddr(ip.To4(), b.Hdr.Ttl)
			}
		case *mdns.SVCBIPv6Hint:
			for _, ip := range v.Hint {
				c.addAddr(ip.To16(), b.Hdr.Ttl)
			}
		}
	}
	return true
}

// isMandatory reports whether b says that a client must understand key. Without
// that key b would be malformed, and a client would have to drop the whole set:
// https://www.rfc-editor.org/rfc/rfc9460#section-8
func isMandatory(b *mdns.SVCB, key mdns.SVCBKey) bool {
	for _, v := range b.Value {
		if m, ok := v.(*mdns.SVCBMandatory); ok && slices.Contains(m.Code, key) {
			return true
		}
	}
	return false
}

// keepFor returns how many seconds the answer may be kept: as long as the
// shortest of its records lives. A negative answer without SOA record isn't kept
// at all: https://www.rfc-editor.org/rfc/rfc2308#section-5
func keepFor(m *mdns.Msg, rcode int, positive bool) uint32 {
	ttl := uint32(maxTTL)
	for _, rr := range m.Answer {
		ttl = min(ttl, rr.Header().Ttl)
	}
	soa := false
	for _, rr := range m.Ns {
		h := rr.Header()
		h.Ttl = min(h.Ttl, maxTTL)
		ttl = min(ttl, h.Ttl)
		if s, ok := rr.(*mdns.SOA); ok {
			ttl = min(ttl, s.Minttl)
			soa = true
		}
	}
	if (rcode != mdns.RcodeSuccess || !positive) && !soa {
		return 0 // nobody says for how long the name doesn't exist
	}
	return ttl
}

// ttlFields returns where the TTLs in msg are. msg was packed by us, without
// OPT record.
func ttlFields(msg []byte) []ttlField {
	records := int(binary.BigEndian.Uint16(msg[6:])) + int(binary.BigEndian.Uint16(msg[8:]))
	fields := make([]ttlField, 0, records)
	off := skipName(msg, headerLen) + 4 // name, type and class of the question
	for range records {
		off = skipName(msg, off) + 4 // likewise of the record, and its TTL behind
		fields = append(fields, ttlField{off, binary.BigEndian.Uint32(msg[off:])})
		off += 6 + int(binary.BigEndian.Uint16(msg[off+4:]))
	}
	return fields
}

// fold takes our random case back out of the names in rrs: see foldShared. The
// guest spells the name in its own way, and caches must not learn ours. Types that
// aren't listed keep what they have: their names are never compared with it.
func fold(rrs []mdns.RR, question string) {
	for _, rr := range rrs {
		h := rr.Header()
		h.Name = foldShared(h.Name, question)
		switch rr := rr.(type) {
		case *mdns.CNAME:
			rr.Target = foldShared(rr.Target, question)
		case *mdns.DNAME:
			rr.Target = foldShared(rr.Target, question)
		case *mdns.NS:
			rr.Ns = foldShared(rr.Ns, question)
		case *mdns.PTR:
			rr.Ptr = foldShared(rr.Ptr, question)
		case *mdns.MX:
			rr.Mx = foldShared(rr.Mx, question)
		case *mdns.SOA:
			rr.Ns, rr.Mbox = foldShared(rr.Ns, question), foldShared(rr.Mbox, question)
		case *mdns.SRV:
			rr.Target = foldShared(rr.Target, question)
		case *mdns.SVCB:
			rr.Target = foldShared(rr.Target, question)
		case *mdns.HTTPS:
			rr.Target = foldShared(rr.Target, question)
		}
	}
}
