package vnet

import (
	"time"

	"golang.org/x/time/rate"
)

// defaultICMPPerSecond bounds echo requests, and apart from them the errors
// that a guest is sent. Ping sends one a second and traceroute a few dozen at
// once; more is a flood, and each error costs a frame of up to 1280 bytes.
const defaultICMPPerSecond = 100

func (l Limits) icmpPerSecond() int { return limit(l.ICMPPerSecond, defaultICMPPerSecond) }

// newICMPLimiter returns a bucket that holds what one second brings.
func newICMPLimiter(l Limits) *rate.Limiter {
	n := l.icmpPerSecond()
	return rate.NewLimiter(rate.Limit(n), n)
}

// A reporter tells the guest by ICMP what became of its packets, not more often
// than its limiter allows ("a router MUST limit the rate", RFC 1812, section
// 4.3.2.8; RFC 4443, section 2.4 (f)). Its methods may be called concurrently.
type reporter struct {
	builder *builder
	limiter *rate.Limiter
	send    func(*batch)
	drop    func(drop)
}

// report sends r about quote, the guest's own IP packet, unless r says nothing.
func (r *reporter) report(what icmpReport, quote []byte, now time.Time) {
	if what.what == icmpNone {
		return
	}
	if !r.limiter.AllowN(now, 1) {
		r.drop(dropICMPRate)
		return
	}
	var out batch
	r.builder.appendICMP(&out, what, quote)
	r.send(&out)
}
