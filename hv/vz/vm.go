package vz

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/hv/internal/ends"
	"github.com/sluicenet/sluice/hv/internal/tail"
	"github.com/sluicenet/sluice/internal/guest/machine"
)

const (
	// parting is how long a guest may go on after its agent's stream was closed,
	// or after its process 1 said that it ends.
	parting = 3 * time.Second
	// stopPatience is how long the framework may take to stop a machine that can
	// be stopped, and a machine to come into a state where it can.
	stopPatience = 10 * time.Second
	// lastWords is how long what a machine said is read after its end.
	lastWords = 200 * time.Millisecond
)

// A vm is a running guest.
//
// The goroutine own calls the machine's methods, all of them, from its start to
// its end: the framework refuses what doesn't fit a machine's state, and states
// change by themselves. Others ask it, by requests.
//
//	own: begin ─► loop: changes, requests, killed ─► over ─► free ─► done
type vm struct {
	ends.Ends
	ends.End // set by own when the machine has ended and all that it said is read

	machine virtualMachine // owned by own
	log     *slog.Logger
	theirs  []*os.File // the machine's ends, which must stay open; closed by free
	console *os.File   // what the guest prints is read from it
	said    tail.Tail  // the last of that
	status  net.Conn   // what process 1 of the guest tells
	dir     string     // of the machine's files; removed by free

	begun   chan error    // gets how begin went; from own
	asks    chan request  // taken by own
	ready   chan struct{} // closed by follow when the agent serves
	kill    sync.Once     // guards the closing of killed
	killed  chan struct{} // closed by Kill
	readers sync.WaitGroup

	mu    sync.Mutex     // guards the following fields
	told  machine.Status // what process 1 has told
	timer *time.Timer    // that ends a guest which was told to part; nil before
	over  bool           // the machine has ended: no timer is made any more
}

// A request asks own for something that needs the machine.
type request struct {
	do    func(virtualMachine) error
	reply chan error // has room
}

// own begins the machine and attends it until it has ended.
func (v *vm) own(begin func(virtualMachine) error, console io.Writer) {
	v.readers.Go(func() { v.said.Drain(v.console, console) })
	v.readers.Go(v.follow)
	// begin may take seconds, and nobody can interrupt it. A Kill meanwhile is found
	// by attend, at a machine that runs by then.
	err := begin(v.machine)
	v.begun <- err
	end := failed
	if err == nil {
		end = v.attend()
	}
	v.machine.close()
	v.mu.Lock()
	v.over = true
	if v.timer != nil {
		v.timer.Stop()
	}
	v.mu.Unlock()
	v.free()
	// What the machine said before its end is there. The framework may keep its
	// ends open for as long as it likes, so that no end of file comes.
	lately := time.Now().Add(lastWords)
	_ = v.status.SetReadDeadline(lately)
	_ = v.console.SetReadDeadline(lately)
	v.readers.Wait()
	v.status.Close()
	v.console.Close()
	v.SetEnd(v.exitOf(end))
}

// attend answers requests until the machine has ended, and returns its last state.
func (v *vm) attend() state {
	killed := v.killed
	var patience <-chan time.Time // ends the wait for a machine that doesn't stop
	for {
		select {
		case s := <-v.machine.changes():
			v.log.Debug("the virtual machine changes", "state", s)
			if s.over() {
				return s
			}
			if killed == nil {
				v.stop()
			}
		case r := <-v.asks:
			r.reply <- r.do(v.machine)
		case err := <-v.machine.unplugged():
			// A guest's driver that resets the card is told of so too.
			v.log.Debug("the guest's card is unplugged", "error", err)
		case <-killed:
			killed = nil
			patience = time.After(stopPatience)
			v.stop()
		case <-patience:
			v.log.Error("the virtual machine doesn't stop", "state", v.machine.state())
			return failed
		}
	}
}

// stop stops the machine if its state lets it be stopped. One that is on its way to
// another state tells when it is there, and is stopped then.
func (v *vm) stop() {
	if !v.machine.state().canStop() {
		return
	}
	if err := v.machine.stop(); err != nil {
		v.log.Warn("stop the virtual machine", "error", err)
	}
}

// exitOf returns how a guest ended: as its process 1 told, else by what became of
// the machine.
func (v *vm) exitOf(end state) hv.Exit {
	v.mu.Lock()
	told := v.told
	v.mu.Unlock()
	select {
	case <-v.killed:
		if !told.Exited {
			return hv.Exit{Code: -1, Signal: 9}
		}
	default:
	}
	switch {
	case told.Exited:
		return hv.Exit{Code: told.Exit}
	case end == failed:
		return hv.Exit{Code: -1}
	}
	return hv.Exit{Code: 125} // switched off without a word: a panic, or not our process 1
}

// follow reads what the guest's process 1 tells, until the end.
func (v *vm) follow() {
	err := machine.Follow(v.status, func(s machine.Status) {
		v.mu.Lock()
		before := v.told
		v.told = s
		v.mu.Unlock()
		switch {
		case s.Exited:
			v.part() // by itself, in most cases
		case s.Ready && before.Ready:
			v.log.Error("the guest started anew: its kernel panicked")
			v.Kill()
		case s.Ready:
			v.log.Debug("the guest is up", "kernel", s.Kernel, "setup", s.Setup)
			close(v.ready)
		}
	})
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		v.log.Warn("the guest's status is of no use any more", "error", err)
		v.Kill() // it isn't our process 1 that runs there
	}
}

// part gives the guest a while to end by itself.
func (v *vm) part() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.timer == nil && !v.over {
		v.timer = time.AfterFunc(parting, func() { v.Kill() })
	}
}

// awaitReady waits until the agent serves.
func (v *vm) awaitReady(ctx context.Context) error {
	timer := time.NewTimer(bootTimeout)
	defer timer.Stop()
	select {
	case <-v.ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-v.Done():
		v.mu.Lock()
		defer v.mu.Unlock()
		if v.told.Failure != "" {
			return errors.New("the guest's process 1 gave up: " + v.told.Failure)
		}
		return fmt.Errorf("the virtual machine ended before its agent served; its console ends: %q", v.said.Last(2))
	case <-timer.C:
		return fmt.Errorf("the virtual machine's agent doesn't serve after %v; its console ends: %q", bootTimeout, v.said.Last(2))
	}
}

// ask has own do something with the machine.
func (v *vm) ask(ctx context.Context, what string, do func(virtualMachine) error) error {
	r := request{do: do, reply: make(chan error, 1)}
	select {
	case v.asks <- r:
	case <-v.Done():
		return fmt.Errorf("%s guest: %w", what, os.ErrProcessDone)
	case <-ctx.Done():
		return ctx.Err()
	}
	// The framework can't be interrupted, but its caller can.
	select {
	case err := <-r.reply:
		if err != nil {
			return fmt.Errorf("%s guest: %w", what, err)
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Pause pauses the guest. See Pauser.
func (v *vm) Pause(ctx context.Context) error { return v.ask(ctx, "pause", virtualMachine.pause) }

// Resume resumes the guest. See Pauser.
func (v *vm) Resume(ctx context.Context) error { return v.ask(ctx, "resume", virtualMachine.resume) }

// Save keeps the guest's state. See Saver.
func (v *vm) Save(ctx context.Context, path string) error {
	return v.ask(ctx, "save", func(m virtualMachine) error {
		k, ok := m.(keeper)
		if !ok {
			return errNotKept
		}
		if _, err := os.Lstat(path); err == nil {
			return fmt.Errorf("%q: %w", path, os.ErrExist)
		}
		if m.state() == paused {
			return k.save(path)
		}
		if err := m.pause(); err != nil {
			return err
		}
		return errors.Join(k.save(path), m.resume())
	})
}

// Kill has the machine stopped. See hv.VM.
func (v *vm) Kill() error {
	v.kill.Do(func() { close(v.killed) })
	return nil
}

// Close ends the guest and closes what the caller didn't take.
func (v *vm) Close() error {
	v.Kill()
	<-v.Done()
	v.CloseEnds()
	return nil
}

// free closes the machine's ends, whereupon ours show its end, and removes its
// files.
func (v *vm) free() {
	for _, f := range v.theirs {
		f.Close()
	}
	if v.dir != "" {
		os.RemoveAll(v.dir)
	}
}
