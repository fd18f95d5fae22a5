package vnet

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/sluicenet/sluice/policy"
	"github.com/sluicenet/sluice/vnet/link"
)

// FuzzDirect plays a random guest, a random host and a random clock against one
// direct flow. What the guest sends at an offset is a function of that, and what the
// host sends another, so that each byte can be checked wherever it comes out:
//
//   - the host gets nothing but what the guest has sent without a gap,
//   - no acknowledgement is ahead of that,
//   - the guest gets nothing but what the host has sent, at its place,
//   - in the end no memory and no descriptor is left.
func FuzzDirect(f *testing.F) {
	f.Add([]byte{0, 0, 9, 4, 9, 1, 0, 2, 0, 5, 0})
	f.Add([]byte{0, 250, 9, 0, 3, 9, 3, 0, 7, 9, 4, 200, 8, 9, 6, 0})
	f.Add([]byte{10, 1, 0, 0, 1, 10, 0, 8, 200, 2, 0, 5, 0, 11, 9, 9, 3})
	f.Add([]byte{4, 255, 1, 0, 1, 5, 1, 9, 4, 255, 8, 255, 3, 0})
	f.Fuzz(func(t *testing.T, script []byte) {
		p := startPlay(t)
		for len(script) >= 2 && !p.over {
			p.step(script[0]%12, int(int8(script[1])), int(script[1]))
			script = script[2:]
		}
		p.end()
	})
}

// A play is one run of FuzzDirect.
type play struct {
	t    *testing.T
	n    *Network
	link *playLink
	flow *directFlow
	host *net.TCPConn
	now  time.Duration // that the flow's clock is ahead

	irs      uint32
	contig   int // bytes that the guest has sent without a gap
	fin      int // where its end of stream is; -1 before
	read     int // bytes that the host has got
	written  int // bytes that the host has sent
	acked    int // bytes that the guest acknowledges
	hostOpen bool
	over     bool
}

const playISS = 7000

func guestByte(i int) byte { return byte(i*7 + 1) }
func hostByte(i int) byte  { return byte(i*11 + 5) }

// A playLink gives the reader one frame at a time. It is asked for the next when the
// last is dealt with.
type playLink struct {
	event
	in, ready chan link.Frame
	busy      bool       // a frame is being dealt with; owned by the reader
	mu        sync.Mutex // guards the following field
	check     func(seenSegment)
}

func (l *playLink) ReadReady(frames []link.Frame) (int, error) {
	if l.busy {
		l.busy = false
		l.reset()
		l.ready <- link.Frame{}
		return 0, nil
	}
	l.busy = true
	f := <-l.in
	frames[0].Data = append(frames[0].Data[:0], f.Data...)
	frames[0].Offload = f.Offload
	return 1, nil
}

// play has a frame dealt with.
func (l *playLink) play(f link.Frame) {
	l.set()
	l.in <- f
	<-l.ready
}

func (l *playLink) WriteFrames(frames []link.Frame) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range frames {
		if f.Data[12] == 0x08 && f.Data[13] == 0 && f.Data[23] == protoTCP {
			l.check(parseSeen(f.Data))
		}
	}
	return len(frames), nil
}

func (l *playLink) ReadFrames([]link.Frame) (int, error) { return 0, errors.ErrUnsupported }
func (l *playLink) Dropped() uint64                      { return 0 }
func (l *playLink) Close() error                         { return nil }

// startPlay opens the flow.
func startPlay(t *testing.T) *play {
	host, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	lab := newLab()
	lab.stack = false
	lab.add(remote4+":80", host.Addr().String())
	p := &play{t: t, fin: -1, hostOpen: true}
	answered := make(chan uint32, 64)
	p.link = &playLink{in: make(chan link.Frame), ready: make(chan link.Frame)}
	p.link.open(t)
	p.link.check = func(s seenSegment) {
		if s.flags&flagSYN != 0 {
			select {
			case answered <- s.seq:
			default:
			}
		}
	}
	n, err := New(Config{Link: p.link, Block: testBlock(t), Policy: playPolicies(t)[0], Dialer: lab})
	if err != nil {
		t.Fatal(err)
	}
	p.n = n
	p.send("S", -1, 0, 0)
	p.irs = <-answered
	c, err := host.Accept()
	if err != nil {
		t.Fatal(err)
	}
	p.host = c.(*net.TCPConn)
	p.link.mu.Lock()
	p.link.check = p.check
	p.link.mu.Unlock()
	n.inLoop(func() {
		p.flow = n.direct.flows[flowKey{netip.MustParseAddrPort(guest4 + ":1000"), netip.MustParseAddrPort(remote4 + ":80")}]
	})
	p.send("A", 0, 0, 0)
	return p
}

func playPolicies(t *testing.T) []*policy.Policy {
	return []*policy.Policy{policyOf(t, "allow egress public"), policyOf(t, "allow egress good.example; allow egress public")}
}

// send sends a segment of n bytes at an offset, and waits until it is dealt with.
func (p *play) send(flags string, seq, n, ack int) {
	data := make([]byte, n)
	for i := range data {
		data[i] = guestByte(seq + i)
	}
	p.link.play(tcpSegment(guest4+":1000", remote4+":80", flags, func(w *wire) {
		w.tcp.Seq, w.tcp.Ack, w.tcp.Window = playISS+1+uint32(seq), p.irs+1+uint32(ack), 60000
		w.payload = data
	}))
}

// check checks a segment to the guest.
func (p *play) check(s seenSegment) {
	if s.flags&flagRST != 0 {
		return
	}
	most := p.contig
	if p.fin >= 0 && p.contig >= p.fin {
		most++
	}
	if d := int(int32(s.ack - playISS - 1)); d < 0 || d > most {
		p.t.Errorf("%v acknowledges %d bytes of %d", s, d, most)
	}
	at := int(int32(s.seq - p.irs - 1))
	for i := range s.data {
		if at+i >= p.written || s.data[i] != hostByte(at+i) {
			p.t.Errorf("%v: byte %d is wrong, the host has sent %d", s, at+i, p.written)
			return
		}
	}
	if s.flags&flagFIN != 0 && (p.hostOpen || at+len(s.data) != p.written) {
		p.t.Errorf("%v ends the stream at %d, of %d", s, at+len(s.data), p.written)
	}
}

// locked changes what check looks at.
func (p *play) locked(change func()) {
	p.link.mu.Lock()
	defer p.link.mu.Unlock()
	change()
}

// step does one thing.
func (p *play) step(what byte, near, far int) {
	switch what {
	case 0: // bytes, maybe known, maybe behind a gap
		seq, n := max(p.contig+near/8, 0), 1+far*16%1400
		if p.fin >= 0 {
			seq, n = min(seq, p.fin), min(n, max(p.fin-seq, 0))
		}
		p.locked(func() {
			if seq <= p.contig {
				p.contig = max(p.contig, seq+n)
			}
		})
		p.send("A", seq, n, p.acked)
	case 1: // an acknowledgement, maybe of what was never sent
		if near >= 0 {
			p.acked = min(p.acked+near, p.written)
		}
		p.send("A", p.contig, 0, p.acked+min(near, 0)*-1000)
	case 2:
		if p.fin < 0 {
			p.locked(func() { p.fin = p.contig })
		}
		p.send("FA", p.fin, 0, p.acked)
	case 3: // a reset, maybe beside the window
		p.send("R", p.contig+near*directWindow/64, 0, 0)
	case 4:
		if p.hostOpen {
			b := make([]byte, far*8)
			p.locked(func() {
				for i := range b {
					b[i] = hostByte(p.written + i)
				}
				p.written += len(b)
			})
			p.host.SetWriteDeadline(time.Now().Add(time.Millisecond))
			if k, _ := p.host.Write(b); k < len(b) {
				p.over = true
			}
		}
	case 5:
		if p.hostOpen {
			p.locked(func() { p.hostOpen = false })
			p.host.CloseWrite()
		}
	case 6:
		p.locked(func() { p.hostOpen = false })
		p.host.SetLinger(0)
		p.host.Close()
		p.over = true
	case 7:
		p.readHost()
	case 8:
		p.now += time.Duration(far) * 100 * time.Millisecond
		p.n.inLoop(func() { p.flow.tick(time.Now().Add(p.now)) })
	case 9:
		p.send("S", near, 0, 0)
	case 10:
		p.n.SetPolicy(playPolicies(p.t)[far%2])
	case 11:
		p.now += time.Duration(far) * time.Second
		p.n.direct.keepAlive(time.Now().Add(p.now))
	}
}

// readHost checks what the host has got by now.
func (p *play) readHost() {
	p.host.SetReadDeadline(time.Now().Add(time.Millisecond))
	b := make([]byte, 64<<10)
	k, _ := p.host.Read(b)
	for i, x := range b[:k] {
		if p.read+i >= p.contig || x != guestByte(p.read+i) {
			p.t.Errorf("the host got a wrong byte at %d; the guest has sent %d", p.read+i, p.contig)
			break
		}
	}
	p.read += k
}

// end closes the network, and looks for what is left.
func (p *play) end() {
	p.readHost()
	if err := p.n.Close(); err != nil {
		p.t.Error(err)
	}
	p.host.Close()
	if used := p.n.budget.used(); used != 0 {
		p.t.Errorf("%d bytes of memory are left", used)
	}
	if flows, held := p.n.tcp.counts(); flows != 0 || held != 0 || p.flow.socket.open || p.flow.state != directOver {
		p.t.Errorf("left: %d flows, %d held, socket open: %v", flows, held, p.flow.socket.open)
	}
}
