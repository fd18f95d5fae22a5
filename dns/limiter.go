package dns

import "time"

// A limiter lets through a burst and then a steady rate. It keeps one number,
// the time at which the bucket would be full again (the generic cell rate
// algorithm). The zero limiter lets everything through. It isn't safe for
// concurrent use.
type limiter struct {
	every time.Duration // between two at the steady rate
	burst int
	full  time.Time
}

// newLimiter returns a limiter of perSecond, or one without limit if that isn't
// positive.
func newLimiter(perSecond, burst int) limiter {
	if perSecond <= 0 {
		return limiter{}
	}
	return limiter{every: time.Second / time.Duration(perSecond), burst: max(burst, 1)}
}

// allow reports whether one more may pass now, and counts it if so.
func (l *limiter) allow(now time.Time) bool {
	if l.every == 0 {
		return true
	}
	if l.full.Before(now) {
		l.full = now
	}
	if l.full.Sub(now) > time.Duration(l.burst-1)*l.every {
		return false
	}
	l.full = l.full.Add(l.every)
	return true
}
