package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/sluicenet/sluice/internal/control"
)

// A Launch describes a sandbox that is to run in a process of its own.
type Launch struct {
	Dirs Dirs
	Name string // checked by the caller: it can't lead out of a directory
	// Again starts the sandbox of that name again, which has ended and was kept.
	Again  bool
	Config json.RawMessage // for the Compile function over there
	// Stdio are the standard files of the guest's command; nil entries are the
	// null device. They stay the caller's.
	Stdio [3]*os.File
	// Executable is the program to start; "" is the running one.
	Executable string
	// Kernel is the path of what virtual machines boot, and backends are tried
	// with, where nothing else is said; "" is this process's SLUICE_KERNEL.
	Kernel string
}

// A Process is a sandbox's process, seen from its creator. Its methods may be
// called by several goroutines.
type Process struct {
	dirs     Dirs
	name     string
	cmd      *exec.Cmd
	conn     *net.UnixConn  // our end of the conversation
	lifeline *os.File       // the end that nobody writes to
	output   *os.File       // its standard output and error; nameless
	talked   chan struct{}  // closed by StartProcess when it reads conn no more
	exited   chan struct{}  // closed by attend when the process is gone and swept
	ready    control.Ready  // valid once StartProcess has returned
	detached atomic.Bool    // the sandbox outlives us
	ended    *control.Ended // valid once exited is closed; nil if it didn't say
}

const (
	// helloTime bounds how long the process may take to say hello: the
	// initialisers of the caller's program run in it first.
	helloTime = 20 * time.Second
	// endTime bounds how long a process that was told to end may take, before
	// it is killed. It is longer than answerTime.
	endTime = 5 * time.Second
	// abortTime is endTime for a start that failed: there is less to clean up,
	// and the caller waits.
	abortTime = time.Second
)

// StartProcess starts a sandbox's process and returns when the sandbox runs.
// ctx governs the start only. The error is a *[control.Failure] where the
// sandbox said why.
func StartProcess(ctx context.Context, l Launch) (*Process, error) {
	p := &Process{dirs: l.Dirs, name: l.Name, talked: make(chan struct{}), exited: make(chan struct{})}
	if err := p.spawn(l); err != nil {
		return nil, fmt.Errorf("start sandbox process: %w", err)
	}
	err := p.converse(ctx, l)
	close(p.talked)
	if err == nil {
		return p, nil
	}
	p.Release()
	p.await(abortTime)
	if ctx.Err() != nil {
		err = control.Cause(ctx) // what the process said when it was let go explains nothing
	} else {
		err = p.explain(err)
	}
	return nil, errors.Join(err, p.output.Close())
}

// attend starts the process, waits for its end, hears how the sandbox ended, and
// removes what the process left if it didn't come to that itself.
//
// It keeps its thread for so long: the parent-death signal, which is the second
// means to end with the creator, is sent when the thread that started the
// process ends, not the creator.
func (p *Process) attend(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := p.cmd.Start()
	started <- err
	if err != nil {
		return
	}
	defer close(p.exited)
	_ = p.cmd.Wait() // how the sandbox ended is told below, if at all
	<-p.talked
	var ended control.Ended
	_ = p.conn.SetReadDeadline(time.Now().Add(answerTime)) // what it started may hold the other end
	if control.Receive(p.conn, &ended) == nil {
		p.ended = &ended
	}
	_ = p.conn.Close() // only read
	if p.ended == nil {
		_, _ = p.dirs.Sweep() // the next sandbox would do it otherwise
	}
}

// converse is the creator's side of descriptor 3, up to the sandbox's start.
func (p *Process) converse(ctx context.Context, l Launch) error {
	if err := p.conn.SetReadDeadline(time.Now().Add(helloTime)); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() {
		p.Release()
		_ = p.conn.CloseRead() // wakes us: nothing that may still come matters
	})
	defer stop()
	var hello control.Hello
	if err := control.Receive(p.conn, &hello); err != nil {
		return fmt.Errorf("%s says no hello (does it import the sdk?): %w", p.cmd.Path, err)
	}
	if build := control.Build(); hello.Build != build {
		return fmt.Errorf("%s is sluice %s, this program has %s: install the same version", p.cmd.Path, hello.Build, build)
	}
	if err := p.conn.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	spec := control.Spec{Name: l.Name, Home: l.Dirs.Home, Runtime: l.Dirs.Runtime, Again: l.Again, Config: l.Config}
	if err := control.Send(p.conn, spec); err != nil {
		return err
	}
	var answer control.Answer
	if err := control.Receive(p.conn, &answer); err != nil {
		return fmt.Errorf("the process ended before the sandbox had started: %w", err)
	}
	switch {
	case answer.Failure != nil:
		return answer.Failure
	case answer.Ready == nil:
		return errors.New("the process answered nothing")
	}
	if !stop() { // it was let go, and is ending
		return control.Cause(ctx)
	}
	p.ready = *answer.Ready
	p.detached.Store(p.ready.Info.Detached)
	return nil
}

// Ready returns what the process said when the sandbox ran.
func (p *Process) Ready() control.Ready { return p.ready }

// Exited is closed when the process has ended and nothing of it is left.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Ended returns how the sandbox ended; nil if its process died. It is valid once
// Exited is closed.
func (p *Process) Ended() *control.Ended { return p.ended }

// Detach lets the sandbox outlive this process: Release and Close don't end it
// any more.
func (p *Process) Detach(ctx context.Context) error {
	c := control.NewClient(p.ready.Socket)
	defer c.Close()
	if err := c.Detach(ctx); err != nil {
		return err
	}
	p.detached.Store(true)
	return nil
}

// Release lets go of the sandbox, which then ends unless it is detached. It
// doesn't wait, and is idempotent.
func (p *Process) Release() { _ = p.lifeline.Close() }

// Close lets go of the sandbox and, unless it is detached, waits for the end of
// its process, which it kills if it takes too long. It is idempotent. A goroutine
// waits for the end of a detached one, which Exited tells.
func (p *Process) Close() error {
	p.Release()
	if !p.detached.Load() {
		p.await(endTime)
	}
	_ = p.output.Close() // only read, and closed again by a second call
	return nil
}

// await waits for the end of the process, no longer than d; then it kills it.
func (p *Process) await(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-p.exited:
		return
	case <-t.C:
	}
	_ = p.cmd.Process.Kill() // it may just have ended
	<-p.exited
}
