package dns

import (
	"net/netip"
	"strconv"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/sluicenet/sluice/policy"
)

// aliasTTL is the TTL of the host aliases, in seconds.
const aliasTTL = 60

// ServeDatagram answers one query that came over UDP. It doesn't block and
// doesn't keep query. It calls reply at most once, now or later, from any
// goroutine; the answer is then the callee's.
func (s *Server) ServeDatagram(query []byte, reply func(answer []byte)) {
	s.serve(query, policy.UDP, time.Now(), reply)
}

// A guestQuery is a query with what is needed to answer it.
type guestQuery struct {
	query
	proto policy.Protocol
	at    time.Time // when it came
	reply func([]byte)
	rules *rules // that it is decided by
}

// serve answers one message of the guest. It reports false if there will be no
// answer. A message is dealt with in this order:
//
//  1. What is no query is dropped or gets FORMERR, NOTIMP or BADVERS.
//  2. What nobody answers through a forwarder gets REFUSED.
//  3. A name that no rule could be about gets NXDOMAIN.
//  4. A host alias is answered from the configuration.
//  5. A kept answer is judged and given.
//  6. A name that the policy denies gets NXDOMAIN.
//  7. Upstreams are asked; what they say is judged and given.
func (s *Server) serve(msg []byte, proto policy.Protocol, now time.Time, reply func([]byte)) bool {
	if s.ctx.Err() != nil {
		return false // closed
	}
	s.stats.queries.Add(1)
	q, rcode, ok := parseQuery(msg)
	if !ok { // an answer to it could be one to an answer, for ever
		s.stats.malformed.Add(1)
		return false
	}
	g := guestQuery{query: q, proto: proto, at: now, reply: reply, rules: s.rules.Load()}
	// Malformed messages make no event: their number is for the counters, and of
	// what they ask nothing is known.
	if rcode == mdns.RcodeFormatError {
		s.stats.malformed.Add(1)
		reply(emptyReply(&g.query, 0, rcode, errorOf(mdns.ExtendedErrorCodeOther, "malformed message")))
		return true
	}
	if rcode != mdns.RcodeSuccess {
		s.refuse(&g, rcode, "only queries of EDNS version 0 are answered", now)
		return true
	}
	if why := unsupported(&g.query); why != "" {
		s.refuse(&g, mdns.RcodeRefused, why, now)
		return true
	}
	if !g.plain {
		s.denyMalformed(&g, "", now)
		return true
	}
	var buf [maxNameWire]byte
	text := appendText(buf[:0], g.wire()) // no string: a hit of the cache allocates none
	if s.aliases[string(text)] {
		s.answerAlias(&g, string(text), now)
		return true
	}
	// Once in a while the upstreams must be looked at before a kept answer is
	// good. That may block, so then even a hit goes the way of a miss.
	due := s.upstream.isDue(now)
	s.mu.Lock()
	kept := s.cache.get(text, &g.query, now)
	s.mu.Unlock()
	if kept != nil && !due {
		s.finish(&g, kept, true, now)
		return true
	}
	return s.ask(&g, string(text), kept != nil, now)
}

// unsupported returns why a query is refused whatever the policy says, or "".
func unsupported(q *query) string {
	switch {
	case q.qclass != mdns.ClassINET: // CH tells about servers, ANY and NONE are for updates
		return "class is not IN"
	case q.qtype == mdns.TypeAXFR, q.qtype == mdns.TypeIXFR:
		return "no zone transfer through a forwarder"
	case q.qtype == mdns.TypeNone, q.qtype == mdns.TypeOPT, q.qtype >= 128 && q.qtype < mdns.TypeANY:
		// https://www.rfc-editor.org/rfc/rfc6895#section-3.1
		return "type is not one of data"
	}
	return ""
}

// answerAlias answers for a host alias: with the gateway's addresses, and nothing
// for other types.
func (s *Server) answerAlias(g *guestQuery, name string, now time.Time) {
	s.stats.local.Add(1)
	var given []netip.Addr
	msg := appendHeader(make([]byte, 0, 512), &g.query, flagAA, mdns.RcodeSuccess)
	for _, addr := range s.cfg.Gateways {
		qtype := uint16(mdns.TypeA)
		if addr.Is6() {
			qtype = mdns.TypeAAAA
		}
		if g.qtype != qtype && g.qtype != mdns.TypeANY {
			continue
		}
		data := addr.AsSlice()
		// Written by hand: two records at most, and the header's count of answers
		// stays within its lower byte.
		msg = append(msg, 0xc0, headerLen) // the question's name
		msg = append(msg, byte(qtype>>8), byte(qtype), 0, mdns.ClassINET)
		msg = append(msg, 0, 0, 0, aliasTTL, 0, byte(len(data)))
		msg = append(msg, data...)
		msg[7]++
		given = append(given, addr)
	}
	v := policy.Verdict{Action: policy.Allow, Rule: -1, Reason: "a host alias is always answered"}
	s.tell(g, Event{Name: name, Verdict: v, RCode: "NOERROR", Reason: v.Reason, Addrs: given}, now)
	g.reply(appendOPT(msg, &g.query, mdns.RcodeSuccess, ede{}))
}

// refuse answers that such queries aren't answered, whatever the policy says.
func (s *Server) refuse(g *guestQuery, rcode int, why string, now time.Time) {
	s.stats.local.Add(1)
	name := ""
	if g.hasQuestion && g.plain {
		name = string(appendText(nil, g.wire()))
	}
	s.tell(g, Event{Name: name, Verdict: policy.Verdict{Rule: -1, Reason: why}, RCode: rcodeName(rcode), Reason: why}, now)
	g.reply(emptyReply(&g.query, 0, rcode, errorOf(mdns.ExtendedErrorCodeNotSupported, why)))
}

// rcodeName returns the mnemonic of a response code. 16 is BADVERS in an OPT
// record, and BADSIG elsewhere, as miekg has it.
func rcodeName(rcode int) string {
	if rcode == mdns.RcodeBadVers {
		return "BADVERS"
	}
	return mdns.RcodeToString[rcode]
}

// deny answers that a name doesn't exist, since the policy says so.
func (s *Server) deny(g *guestQuery, e Event, why ede, now time.Time) {
	s.stats.denied.Add(1)
	e.RCode = "NXDOMAIN"
	s.tell(g, e, now)
	g.reply(emptyReply(&g.query, 0, mdns.RcodeNameError, why))
}

// denyName denies a name that v doesn't permit.
func (s *Server) denyName(g *guestQuery, name string, v policy.Verdict, now time.Time) {
	s.deny(g, Event{Name: name, Verdict: v, Reason: denyReason(v)}, denied("the sandbox's policy denies the name"), now)
}

// denyMalformed denies a name that no rule can be about: see plainName and
// policy.CanonicalName.
func (s *Server) denyMalformed(g *guestQuery, name string, now time.Time) {
	const reason = "malformed name: no rule can be about it"
	s.deny(g, Event{Name: name, Verdict: policy.Verdict{Rule: -1, Reason: reason}, Reason: reason}, denied("malformed name"), now)
}

// overLimit answers that there is no answer just now, since a bound stands
// against it.
func (s *Server) overLimit(g *guestQuery, name string, v policy.Verdict, now time.Time) {
	const reason = "over a limit of the sandbox"
	s.stats.limited.Add(1)
	s.tell(g, Event{Name: name, Verdict: v, RCode: "SERVFAIL", Reason: reason}, now)
	g.reply(emptyReply(&g.query, 0, mdns.RcodeServerFailure, errorOf(mdns.ExtendedErrorCodeOther, reason)))
}

// finish judges an answer by g's rules and gives to the guest what they leave of
// it.
func (s *Server) finish(g *guestQuery, a *answer, cached bool, now time.Time) {
	s.mu.Lock()
	origins := s.targets.origins(nil, a.name, now)
	s.mu.Unlock()
	// Again for what waited, by rules that may be new, and for the first time for
	// what the cache holds: an answer knows no policy.
	v := g.rules.permit(a.name, g.qtype, g.proto, origins)
	if v.Action != policy.Allow {
		s.denyName(g, a.name, v, now)
		return
	}
	j := g.rules.judge(a, v, s.cfg.Usable)
	if j.denied.set {
		s.deny(g, Event{Name: a.name, Verdict: j.verdict, Reason: j.reason, Upstream: a.from, Cached: cached}, j.denied, now)
		return
	}
	// In the table before the guest knows them: its next packet may be the SYN.
	given := s.record(&g.query, a, j.addrs, origins, now)
	if len(given) == 0 && len(j.addrs) > 0 {
		// An empty answer would say that the name has no address.
		s.overLimit(g, a.name, v, now)
		return
	}
	switch {
	case cached:
		s.stats.cached.Add(1)
	case a.rcode == mdns.RcodeSuccess || a.rcode == mdns.RcodeNameError:
		s.stats.answered.Add(1)
	default:
		s.stats.failed.Add(1)
	}
	size := mdns.MaxMsgSize
	if g.proto == policy.UDP {
		size = g.udpSize()
	}
	s.tell(g, Event{
		Name: a.name, Verdict: v, RCode: rcodeName(a.rcode), Reason: a.reason,
		Addrs: given, Upstream: a.from, Cached: cached,
	}, now)
	g.reply(a.render(&g.query, given, size, now))
}

// denyReason says in words what denied a name.
func denyReason(v policy.Verdict) string {
	switch {
	case v.Text != "":
		return "denied by " + v.Source + ": " + v.Text
	case v.Reason != "":
		return v.Reason
	}
	return "denied by " + v.Source
}

// tell completes e and hands it to who listens, before the guest gets the answer:
// the record shows the query in front of the flow that follows it.
func (s *Server) tell(g *guestQuery, e Event, now time.Time) {
	if s.cfg.Events == nil {
		return
	}
	e.Type, e.Time, e.Generation = EventQuery, now, g.rules.generation
	e.QType, e.Protocol, e.Duration = typeName(g.qtype), g.proto, now.Sub(g.at)
	s.cfg.Events(e)
}

// typeName returns the mnemonic of a type: https://www.rfc-editor.org/rfc/rfc3597#section-5
func typeName(t uint16) string {
	if name, ok := mdns.TypeToString[t]; ok {
		return name
	}
	return "TYPE" + strconv.Itoa(int(t))
}

// warn tells the record what a user should know.
func (s *Server) warn(message string, now time.Time) {
	if s.cfg.Events != nil {
		s.cfg.Events(Event{Type: EventWarning, Time: now, Generation: s.rules.Load().generation, Message: message})
	}
}

// hit counts n hits of a bound, and tells the record now and then.
func (s *Server) hit(limit string, n uint64, now time.Time) {
	s.mu.Lock()
	count := s.hits.hit(limit, n, now)
	s.mu.Unlock()
	if count > 0 && s.cfg.Events != nil {
		s.cfg.Events(Event{Type: EventLimit, Time: now, Generation: s.rules.Load().generation, Limit: limit, Count: count})
	}
}
