package link

import "sync/atomic"

// Drops counts the frames that a link did not carry, by reason.
type Drops struct {
	// NoRoom counts frames towards a guest that does not read fast enough.
	NoRoom uint64
	// Refused counts frames that the system would not take: the card is down,
	// or the frame is longer than its buffer.
	Refused uint64
	// Unfit counts frames that no link can carry: longer than MaxFrame, or with
	// an Offload that does not fit their headers.
	Unfit uint64
	// Oversize counts frames from the guest that were longer than MaxFrame. On a
	// stream they end the link instead.
	Oversize uint64
}

// A DropCounter tells the reasons behind [Link.Dropped] apart, which is the sum
// of NoRoom, Refused and Unfit. Every link of this package is one.
type DropCounter interface {
	Drops() Drops
}

// drops is the counters of a link. Any goroutine may count.
type drops struct {
	noRoom, refused, unfit, oversize atomic.Uint64
}

// Drops implements DropCounter.
func (d *drops) Drops() Drops {
	return Drops{
		NoRoom:   d.noRoom.Load(),
		Refused:  d.refused.Load(),
		Unfit:    d.unfit.Load(),
		Oversize: d.oversize.Load(),
	}
}

// Dropped implements Link.
func (d *drops) Dropped() uint64 {
	return d.noRoom.Load() + d.refused.Load() + d.unfit.Load()
}
