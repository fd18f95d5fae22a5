package ends

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/vnet/link"
)

// newEnds returns ends with a card and an agent's stream, and the latter's other end.
func newEnds(t *testing.T) (e *Ends, card *os.File, guest net.Conn) {
	t.Helper()
	card, err := os.Create(filepath.Join(t.TempDir(), "card"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { card.Close() })
	agent, guest := net.Pipe()
	t.Cleanup(func() { agent.Close(); guest.Close() })
	e = new(Ends)
	e.PutNIC(card, link.Stream)
	e.PutAgent(agent)
	return e, card, guest
}

// Of all who ask, one gets it.
func TestHandedOverOnce(t *testing.T) {
	t.Parallel()
	e, card, guest := newEnds(t)
	var mu sync.Mutex
	var nics, agents int
	var askers sync.WaitGroup
	for range 20 {
		askers.Go(func() {
			nic, format := e.NIC()
			agent := e.Agent()
			mu.Lock()
			defer mu.Unlock()
			if nic != nil {
				nics++
			}
			if (nic == nil) != (format == 0) {
				t.Errorf("NIC = %v, %v", nic, format)
			}
			if agent != nil {
				agents++
			}
		})
	}
	askers.Wait()
	if nics != 1 || agents != 1 {
		t.Errorf("the card was handed over %d times, the agent %d times; want once", nics, agents)
	}
	// What is the caller's stays open.
	e.CloseEnds()
	if _, err := card.Stat(); err != nil {
		t.Errorf("the card is closed: %v", err)
	}
	if err := guest.Close(); err != nil {
		t.Error(err)
	}
}

// What nobody took is closed, and gone.
func TestCloseEnds(t *testing.T) {
	t.Parallel()
	e, card, guest := newEnds(t)
	e.CloseEnds()
	e.CloseEnds()
	if _, err := card.Stat(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("the card: %v; want it closed", err)
	}
	if _, err := guest.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the agent's other end: %v; want its end", err)
	}
	if nic, _ := e.NIC(); nic != nil || e.Agent() != nil {
		t.Error("what is closed is handed over")
	}
}

// Without a card or an agent there is nothing, and no nil pointer in an interface.
func TestNoEnds(t *testing.T) {
	t.Parallel()
	var e Ends
	if nic, format := e.NIC(); nic != nil || format != 0 || e.Agent() != nil {
		t.Errorf("NIC = %v, %v, or an agent", nic, format)
	}
	e.CloseEnds()
}

// All who wait hear the same, and nobody waits longer than they want to.
func TestWait(t *testing.T) {
	t.Parallel()
	e := NewEnd()
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if exit, err := e.Wait(over); !errors.Is(err, context.Canceled) {
		t.Errorf("Wait before the end = %+v, %v", exit, err)
	}
	want := hv.Exit{Code: -1, Signal: 9}
	var waiters sync.WaitGroup
	for range 4 {
		waiters.Go(func() {
			if exit, err := e.Wait(t.Context()); exit != want || err != nil {
				t.Errorf("Wait = %+v, %v; want %+v", exit, err, want)
			}
		})
	}
	e.SetEnd(want)
	waiters.Wait()
	<-e.Done()
	// An answer that is there is given, whatever the context says.
	if exit, err := e.Wait(over); exit != want || err != nil {
		t.Errorf("Wait after the end = %+v, %v; want %+v", exit, err, want)
	}
}
