package vnet

import (
	"errors"
	"io"
	"net"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"

	"github.com/sluicenet/sluice/vnet/link"
)

const (
	// readBatch is how many frames one call of the link may bring: what a
	// datagram link's one system call brings, and what UDP sends as one. Their
	// memory, 64 KiB each, is held as long as the network is there.
	readBatch = 32
	// keepFrom is the size from which a frame's memory goes to gVisor as it is.
	// Smaller ones are copied, or a queue of small segments would pin 64 KiB
	// each.
	keepFrom = 16 << 10
)

// A reader takes frames from the link and hands each packet to the part that
// deals with it. All of it runs on one goroutine, which owns the reader.
type reader struct {
	n      *Network
	frames [readBatch]link.Frame
	views  [readBatch]*buffer.View // the memory of frames
	packet packet
	out    batch // answers of ours
}

func newReader(n *Network) *reader {
	r := &reader{n: n}
	for i := range r.views {
		r.renew(i)
	}
	return r
}

// renew gives frame i fresh memory.
func (r *reader) renew(i int) {
	r.views[i] = buffer.NewViewSize(buffer.MaxChunkSize)
	r.frames[i].Data = r.views[i].AsSlice()[:0]
}

// run reads until the link ends.
func (r *reader) run() error {
	defer r.release()
	for {
		k, err := r.n.cfg.Link.ReadFrames(r.frames[:])
		if err != nil {
			return linkEnd(err)
		}
		r.pass(k, time.Now())
	}
}

// ready passes on what is there, without waiting. It returns what has ended the link.
func (r *reader) ready(l link.Kernel, now time.Time) error {
	k, err := l.ReadReady(r.frames[:])
	r.pass(k, now)
	return err
}

// linkEnd returns what was wrong with a link that err has ended: nil if it was closed,
// here or there.
func linkEnd(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// pass passes the first k frames on.
func (r *reader) pass(k int, now time.Time) {
	for i := range k {
		r.frame(i, now)
		r.frames[i].Data = r.views[i].AsSlice()[:0]
	}
	r.n.udp.flush(now)
}

func (r *reader) release() {
	for _, v := range r.views {
		v.Release()
	}
}

// frame passes frame i on. Where a packet goes is decided here and nowhere
// else.
func (r *reader) frame(i int, now time.Time) {
	n, p := r.n, &r.packet
	n.counters.frame(len(r.frames[i].Data))
	if d := n.guard.check(&r.frames[i], p); d != dropNone {
		n.counters.drop(d)
		return
	}
	n.seen.note(p, &n.cfg.Block)
	switch p.kind {
	case kindTCP:
		if p.ttl == 1 && !n.isLocal(p) {
			n.counters.drop(dropExpired)
			n.reporter.report(icmpReport{what: icmpTimeExceed}, p.ip(), now)
			return
		}
		if n.direct.segment(p, now) {
			return
		}
		if isSYN(p.tcpFlags) && r.begin(now) {
			return
		}
		n.endpoint.inject(p.v6, r.take(i))
		r.unanswered(now)
	case kindFragment:
		if whole, d := n.fragments.add(p, now); d != dropNone {
			n.counters.drop(d)
		} else if whole != nil {
			r.whole(whole, now)
		}
	default:
		r.datagram(p, now)
	}
}

// whole passes on a datagram that was put together from fragments.
func (r *reader) whole(frame []byte, now time.Time) {
	if d := r.n.guard.checkWhole(frame, &r.packet); d != dropNone {
		r.n.counters.drop(d)
		return
	}
	r.datagram(&r.packet, now)
}

// datagram passes on what does not go through gVisor.
func (r *reader) datagram(p *packet, now time.Time) {
	n := r.n
	switch p.kind {
	case kindUDP:
		if !n.inbound.reply(p, now) {
			n.udp.handle(p, now)
		}
		return
	case kindEcho:
		n.icmp.handle(p, now)
		return
	case kindRefused:
		if !n.inbound.refused(p) {
			n.counters.drop(dropICMPType)
		}
		return
	}
	r.out.reset()
	var d drop
	if p.kind == kindARP || p.kind == kindNDP && p.frame[p.l4] == ndpNeighborSolicit {
		d = n.neighbour.answer(&r.out, p)
	} else {
		d = n.autoconf.answer(&r.out, p, now)
	}
	if d != dropNone {
		n.counters.drop(d)
		return
	}
	n.send(&r.out)
}

// take returns packet i's IP packet as a view that the caller owns.
func (r *reader) take(i int) *buffer.View {
	p, own := &r.packet, r.views[i]
	if len(p.frame) >= keepFrom && &p.frame[0] == &own.AsSlice()[0] {
		own.CapLength(p.end)
		own.TrimFront(etherLen)
		r.renew(i)
		return own
	}
	return buffer.NewViewWithData(p.frame[etherLen:p.end])
}
