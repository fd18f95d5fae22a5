package dns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/sluicenet/sluice/policy"
)

const (
	// overlap is how long an upstream may be silent before the next is asked
	// too.
	overlap = time.Second

	// failureTTL is how long a failure is kept, in seconds: the guest's resolver
	// asks again at once, and shall not make us ask a broken upstream as often.
	// https://www.rfc-editor.org/rfc/rfc9520#section-3.2
	failureTTL = 1
)

// A call is a question on its way upstream, with the guest's queries that wait
// for its answer. One question is asked once, however many wait: more would also
// make its answer easier to forge (RFC 5452, section 5).
type call struct {
	key     cacheKey
	q       query        // the first query
	waiters []guestQuery // guarded by the Server's mu until the call ends
	epoch   uint64       // of the upstreams that are asked
	kept    bool         // the answer came from the cache
}

// ask puts g's question to the upstreams unless the policy denies it or a bound
// stands against it. kept says that the cache has an answer, which is good if
// the upstreams turn out to be the same as before. It reports whether there will
// be an answer.
func (s *Server) ask(g *guestQuery, text string, kept bool, now time.Time) bool {
	name, ok := text, true
	if text != "" { // the root, which has no labels, is asked for as it is
		name, ok = policy.CanonicalName(text)
	}
	if !ok {
		s.denyMalformed(g, text, now)
		return true
	}
	// Names that a service record of a permitted name points to are permitted with
	// it; nothing that is denied ever leaves for an upstream.
	s.mu.Lock()
	origins := s.targets.origins(nil, name, now)
	s.mu.Unlock()
	v := g.rules.permit(name, g.qtype, g.proto, origins)
	if v.Action != policy.Allow {
		s.denyName(g, name, v, now)
		return true
	}
	limit, ok := s.enqueue(g, name, kept, now)
	if limit != "" {
		s.hit(limit, 1, now)
		s.overLimit(g, name, v, now)
	}
	return ok
}

// enqueue adds g to the call for its question, and starts that if there is none.
// limit is the bound that forbids it; not ok means that the Server is closed.
func (s *Server) enqueue(g *guestQuery, name string, kept bool, now time.Time) (limit string, ok bool) {
	// All that makes another question of it: a validator wants signatures.
	key := cacheKey{name: name, qtype: g.qtype, do: g.do, cd: g.cd}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed { // Close waits for the goroutines: no more may start
		return "", false
	}
	if s.waiting >= s.cfg.Limits.Waiting {
		return limitWaiting, true
	}
	c := s.calls[key]
	if c == nil {
		if !kept && !s.limiter.AllowN(now, 1) { // only what goes upstream costs somebody else
			return limitRate, true
		}
		c = &call{key: key, q: g.query}
		s.calls[key] = c
		s.wg.Go(func() { s.run(c) })
	}
	c.waiters = append(c.waiters, *g)
	s.waiting++
	return "", true
}

// run gets the answer for c, keeps it, and gives it to those who wait, by the
// rules of that moment.
func (s *Server) run(c *call) {
	ctx, cancel := context.WithTimeout(s.ctx, s.cfg.Timeout)
	defer cancel()
	a := s.lookUp(ctx, c)
	now := time.Now()
	s.mu.Lock()
	delete(s.calls, c.key) // c is this goroutine's alone from here on
	s.waiting -= len(c.waiters)
	// Who asks from here on finds the answer in the cache, or asks anew. An
	// answer of upstreams that are no longer asked serves only who waited for it.
	if !c.kept && c.epoch == s.epoch {
		s.cache.put(c.key, a)
	}
	closed := s.closed
	s.mu.Unlock()
	if closed {
		return
	}
	for i := range c.waiters {
		g := &c.waiters[i]
		g.rules = s.rules.Load() // perhaps stricter ones than when it asked
		s.finish(g, a, c.kept, now)
	}
}

// lookUp finds out whom to ask, and asks. If the cache has the answer after all,
// since the upstreams turn out to be the same as before, it returns that.
func (s *Server) lookUp(ctx context.Context, c *call) *answer {
	now := time.Now()
	found := s.upstream.get(ctx, now)
	s.mu.Lock()
	if found.changed {
		s.flushLocked() // what the old ones said may be of another network
	}
	c.epoch = s.epoch
	kept := s.cache.get([]byte(c.key.name), &c.q, now)
	servers := s.roster.order(found.pick(c.key.name), now)
	s.mu.Unlock()
	if found.broke {
		s.warn(found.err.Error(), now)
	}
	switch {
	case kept != nil:
		c.kept = true
		return kept
	case len(servers) > 0:
		return s.resolve(ctx, c, servers)
	case found.err != nil:
		return failure(c.key.name, mdns.RcodeServerFailure, edeNoUpstream, found.err.Error(), now)
	}
	return failure(c.key.name, mdns.RcodeServerFailure, edeNoUpstream, edeNoUpstream.text, now)
}

// What a guest is told when no upstream answers.
var (
	edeNoUpstream  = errorOf(mdns.ExtendedErrorCodeNetworkError, "no nameserver is known")
	edeUnreachable = errorOf(mdns.ExtendedErrorCodeNetworkError, "the nameservers can't be reached")
	edeSilent      = errorOf(mdns.ExtendedErrorCodeNoReachableAuthority, "the nameservers don't answer")
)

// failure returns an answer that says nothing but that there is none; reason is
// for the record.
func failure(name string, rcode int, e ede, reason string, now time.Time) *answer {
	if rcode > 0xf {
		rcode = mdns.RcodeServerFailure // a guest without EDNS couldn't be told
	}
	return &answer{name: name, rcode: rcode, ede: e, reason: reason, ttl: failureTTL, stored: now}
}

// An attempt is one question to one upstream.
type attempt struct {
	server netip.AddrPort
	asked  time.Time // guarded by the Server's mu; zero until the server was asked
	done   bool      // it ended, not for want of a word from the server
	answer *answer
	err    error
}

// resolve asks servers, which aren't none, in order: the next when one fails, and
// when one is silent for longer than overlap. The first answer that is final is
// returned; of failures the last.
func (s *Server) resolve(ctx context.Context, c *call, servers []netip.AddrPort) *answer {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the other attempts
	var attempts []*attempt
	results := make(chan *attempt) // without room: an attempt that nobody waits for drops its own
	start := func() {
		a := &attempt{server: servers[len(attempts)]}
		attempts = append(attempts, a)
		s.wg.Go(func() { s.attempt(ctx, c, a, results) })
	}
	start()
	silence := time.NewTimer(overlap)
	defer silence.Stop()
	open := 1
	var last *attempt // the last that failed with an answer, else with an error
	// attempts and last are this goroutine's; an attempt hands its fields over
	// by results.
	for {
		select {
		case a := <-results:
			a.done = a.err == nil || !isTimeout(a.err)
			open--
			// REFUSED and SERVFAIL are one server's trouble: the next may know.
			if a.err == nil && final(a.answer.rcode) {
				s.blameSilent(attempts, a.answer.stored)
				return a.answer
			}
			if last == nil || a.err == nil || last.err != nil {
				last = a
			}
			if len(attempts) < len(servers) {
				start()
				open++
				silence.Reset(overlap)
			} else if open == 0 {
				// Nobody is left to wait for. The guest learns it at once, not
				// when the time is over.
				return s.giveUp(c, attempts, last)
			}
		case <-silence.C:
			if len(attempts) < len(servers) {
				start()
				open++
				silence.Reset(overlap)
			}
		case <-ctx.Done():
			return s.giveUp(c, attempts, last)
		}
	}
}

// final reports whether an upstream's answer ends the search for one.
func final(rcode int) bool { return rcode == mdns.RcodeSuccess || rcode == mdns.RcodeNameError }

// attempt asks one upstream, and hands the result over unless nobody waits for
// it any more.
func (s *Server) attempt(ctx context.Context, c *call, a *attempt, results chan<- *attempt) {
	a.answer, a.err = s.askUpstream(ctx, c, a)
	select {
	case results <- a:
	case <-ctx.Done():
	}
}

// askUpstream asks one upstream, when there is a socket for it, and reads what
// it says.
func (s *Server) askUpstream(ctx context.Context, c *call, at *attempt) (*answer, error) {
	// One descriptor each; what waits here waits within its query's time.
	select {
	case s.sockets <- struct{}{}:
		defer func() { <-s.sockets }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	s.stats.upstream.Add(1)
	s.mu.Lock()
	at.asked = time.Now()
	u := s.roster.state(at.server)
	s.mu.Unlock()
	m, learnt, err := s.exchange(ctx, at.server, &c.q, u)
	now := time.Now()
	if ctx.Err() == nil { // what a cancelled exchange taught is that it was cancelled
		s.mu.Lock()
		s.roster.learn(at.server, learnt, err == nil)
		s.mu.Unlock()
	}
	if err != nil {
		return nil, err
	}
	if !final(m.Rcode) { // its records, if it has any, mean nothing
		e, reason := upstreamError(m)
		a := failure(c.key.name, m.Rcode, e, reason, now)
		a.from = at.server
		return a, nil
	}
	a, err := readAnswer(m, &c.q, now)
	if err != nil {
		return nil, err
	}
	a.name, a.from = c.key.name, at.server
	return a, nil
}

// isTimeout reports whether err says that the time was over.
func isTimeout(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
}

// blameSilent notes which upstreams let pass a whole overlap without a word: the
// next question goes to others first. One that was asked only just now, or waits
// for a socket of ours, isn't to blame.
func (s *Server) blameSilent(attempts []*attempt, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range attempts {
		if !a.done && !a.asked.IsZero() && now.Sub(a.asked) >= overlap {
			s.roster.timedOut(a.server, now)
		}
	}
}

// giveUp returns the failure that tells most: an upstream's own, else what went
// wrong on the way to them, else that they were silent.
func (s *Server) giveUp(c *call, attempts []*attempt, last *attempt) *answer {
	now := time.Now()
	s.blameSilent(attempts, now)
	switch {
	case last != nil && last.err == nil:
		return last.answer
	case last != nil && !isTimeout(last.err):
		reason := fmt.Sprintf("ask %s: %v", last.server, last.err)
		return failure(c.key.name, mdns.RcodeServerFailure, edeUnreachable, reason, now)
	}
	return failure(c.key.name, mdns.RcodeServerFailure, edeSilent, edeSilent.text, now)
}
