// Package ends is what the VMs of all backends do in the same way: [Ends] hands over
// our ends of the card and of the agent's stream, each once, and [End] is waited for.
// A backend's VM embeds both, and has NIC, Agent and Wait of hv.VM by that.
//
// What it will not do: start or end anything.
package ends

import (
	"context"
	"net"
	"os"
	"sync"

	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/vnet/link"
)

// Ends are what a VM's caller may take. The zero Ends have nothing to hand over. Their
// methods may be called by several goroutines.
type Ends struct {
	mu     sync.Mutex // guards the following fields
	nic    *os.File   // nil without a card, once it is the caller's, or closed
	format link.Format
	agent  net.Conn // nil once it is the caller's, or closed
}

// PutNIC makes f, and how frames travel on it, what NIC hands over. It belongs to e.
func (e *Ends) PutNIC(f *os.File, format link.Format) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.nic, e.format = f, format
}

// PutAgent makes c what Agent hands over. It belongs to e.
func (e *Ends) PutAgent(c net.Conn) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.agent = c
}

// NIC hands over the card's other end. See hv.VM.
func (e *Ends) NIC() (*os.File, link.Format) {
	e.mu.Lock()
	defer e.mu.Unlock()
	nic := e.nic
	if nic == nil {
		return nil, 0
	}
	e.nic = nil
	return nic, e.format
}

// Agent hands over the agent's stream. See hv.VM.
func (e *Ends) Agent() net.Conn {
	e.mu.Lock()
	defer e.mu.Unlock()
	agent := e.agent
	e.agent = nil
	return agent
}

// CloseEnds closes what was not handed over. It is idempotent.
func (e *Ends) CloseEnds() {
	if agent := e.Agent(); agent != nil {
		agent.Close()
	}
	if nic, _ := e.NIC(); nic != nil {
		nic.Close()
	}
}

// An End is that of a guest. Use NewEnd. Its methods may be called by several
// goroutines, but SetEnd once only.
type End struct {
	done chan struct{} // closed by SetEnd
	exit hv.Exit       // valid once done is closed
}

// NewEnd returns the end of a guest that runs.
func NewEnd() End { return End{done: make(chan struct{})} }

// SetEnd says how the guest has ended.
func (e *End) SetEnd(exit hv.Exit) {
	e.exit = exit
	close(e.done)
}

// Done returns a channel that is closed when the guest has ended.
func (e *End) Done() <-chan struct{} { return e.done }

// Wait waits for the guest's end. See hv.VM.
func (e *End) Wait(ctx context.Context) (hv.Exit, error) {
	select { // an answer that is there is given, whatever ctx says
	case <-e.done:
		return e.exit, nil
	default:
	}
	select {
	case <-e.done:
		return e.exit, nil
	case <-ctx.Done():
		return hv.Exit{}, ctx.Err()
	}
}
