package hvtest

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/pkg/sftp"

	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/hv/internal/ends"
	"github.com/sluicenet/sluice/internal/guest"
	"github.com/sluicenet/sluice/vnet/link"
)

// A Fake is a hypervisor whose guests are goroutines of the test. Set its
// fields before the first start; its methods may be called by several
// goroutines.
type Fake struct {
	// Format is that of the guests' cards, link.Datagram or link.Stream; 0
	// means link.Datagram.
	Format link.Format
	// Report is what Probe returns; the zero Report means usable.
	Report hv.Report
	// StartError, unless nil, is what Start returns.
	StartError error
	// BootError, unless nil, is the agent's answer to Boot.
	BootError error
	// Programs are what the guests can run besides true, false, cat, sleep, stty
	// and a little of sh, by name.
	Programs map[string]Program

	mu     sync.Mutex // guards the following field
	guests []*Guest   // all that were started, in order
}

var _ hv.Hypervisor = (*Fake)(nil)

// Name returns "fake".
func (f *Fake) Name() string { return "fake" }

// Probe returns f.Report.
func (f *Fake) Probe(context.Context) hv.Report {
	if f.Report == (hv.Report{}) {
		return hv.Report{Usable: true, Reason: "a fake always is"}
	}
	return f.Report
}

// Start starts a Guest.
func (f *Fake) Start(ctx context.Context, cfg hv.Config) (hv.VM, error) {
	if f.StartError != nil {
		return nil, f.StartError
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("start fake guest: %w", err)
	}
	g := &Guest{fake: f, cfg: cfg, End: ends.NewEnd(), files: sftp.InMemHandler()}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	g.programs, g.signalAll = context.WithCancelCause(g.ctx)
	if cfg.NIC != nil {
		if err := g.plugIn(); err != nil {
			return nil, fmt.Errorf("start fake guest: %w", err)
		}
	}
	agent, stream := net.Pipe()
	g.PutAgent(agent)
	g.stream = stream
	go g.live()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.guests = append(f.guests, g)
	return g, nil
}

// Guests returns all guests that were started, in order; some may have ended.
func (f *Fake) Guests() []*Guest {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]*Guest(nil), f.guests...)
}

// A Guest is a guest of a Fake: the hv.VM that Start returned, and what is
// inside. Its methods may be called by several goroutines.
type Guest struct {
	ends.Ends
	ends.End // set by live

	fake   *Fake
	cfg    hv.Config
	card   link.Link          // the guest's end of the card; nil without one
	stream net.Conn           // the guest's end of the agent's stream
	files  sftp.Handlers      // in memory
	ctx    context.Context    // done when the guest is to end
	cancel context.CancelFunc // ends ctx

	programs  context.Context // done when the programs are to end
	signalAll context.CancelCauseFunc
	running   sync.WaitGroup // the programs

	mu       sync.Mutex // guards the following fields
	boot     *guest.Bootstrap
	networks []guest.Network // what Configure was called with
	clocks   []time.Time     // what SetClock was called with
	dials    map[string]func(net.Conn)
	pids     int // of programs so far
}

var _ hv.VM = (*Guest)(nil)

// plugIn makes the guest's card.
func (g *Guest) plugIn() error {
	format := g.fake.Format
	if format == 0 {
		format = link.Datagram
	}
	ours, theirs, err := link.Pair(format)
	if err != nil {
		return err
	}
	if g.card, err = link.Open(theirs, format); err != nil {
		ours.Close()
		return err
	}
	g.PutNIC(ours, format)
	return nil
}

// live is the guest: its agent, until the host has asked for the end or the
// guest is killed.
func (g *Guest) live() {
	err := guest.Serve(g.stream, machine{g})
	var exit hv.Exit
	switch {
	case g.ctx.Err() != nil:
		exit = hv.Exit{Code: -1, Signal: 9}
	case err != nil:
		exit = hv.Exit{Code: guest.CodeRefused}
	}
	g.end()
	g.running.Wait()
	if g.card != nil {
		g.card.Close()
	}
	g.SetEnd(exit)
}

// end takes the agent's voice, then ends what runs: a guest that is killed
// reports nothing any more.
func (g *Guest) end() {
	g.stream.Close()
	g.cancel()
}

// Config returns what the guest was started with.
func (g *Guest) Config() hv.Config { return g.cfg }

// Card returns the guest's end of its card, with which a test plays the guest's
// kernel; nil if it has none.
func (g *Guest) Card() link.Link { return g.card }

// Bootstrap returns what the agent was told to be; nil before that.
func (g *Guest) Bootstrap() *guest.Bootstrap {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.boot
}

// Networks returns what the agent was told of its network after boot, in order.
func (g *Guest) Networks() []guest.Network {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]guest.Network(nil), g.networks...)
}

// Clocks returns what the agent was told the time is after boot, in order.
func (g *Guest) Clocks() []time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]time.Time(nil), g.clocks...)
}

// Listen has serve called, in a goroutine of its own, for each connection that
// the host dials to the address in the guest. serve closes the connection.
func (g *Guest) Listen(address string, serve func(net.Conn)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.dials == nil {
		g.dials = make(map[string]func(net.Conn))
	}
	g.dials[address] = serve
}

// Kill ends the guest. See hv.VM.
func (g *Guest) Kill() error {
	g.end()
	return nil
}

// Close ends the guest and closes what was not handed over. See hv.VM.
func (g *Guest) Close() error {
	g.end()
	<-g.Done()
	g.CloseEnds()
	return nil
}
