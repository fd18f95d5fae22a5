package sdk

import (
	"context"
	"errors"
	"io"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/sluicenet/sluice/internal/control"
)

// An ExecEventKind says what an ExecEvent is.
type ExecEventKind int

// The kinds of events, in their order. Started comes first and Exited last but
// for Done; a command that couldn't be started has Failed and Done alone.
const (
	ExecEventStarted    ExecEventKind = iota + 1 // the command runs, as PID
	ExecEventStdout                              // it wrote Data to its standard output, or terminal
	ExecEventStderr                              // it wrote Data to its standard error
	ExecEventExited                              // it ended with ExitCode, and everything it wrote has come
	ExecEventFailed                              // it wasn't started: Failure
	ExecEventStdinError                          // it reads no more: Failure
	ExecEventDone                                // there are no more events
)

// An ExecEvent is something that a command did. Fields that its kind doesn't name
// are zero.
type ExecEvent struct {
	Kind     ExecEventKind
	PID      uint32
	Data     []byte
	ExitCode int // 128 and the signal's number if a signal ended it
	Failure  *ExecFailure
}

// An ExecHandle is a command that runs in a guest. Its events must be received:
// a command whose output nobody takes waits. Signal, Kill, Resize and Close may
// be called while another goroutine waits in Recv, Wait or Collect, which are for
// one goroutine.
type ExecHandle struct {
	s       *Sandbox
	exec    *control.Exec
	cfg     ExecConfig
	session uint64      // the command's number; 0 if it wasn't started
	timer   *time.Timer // of the timeout; nil without one
	expired atomic.Bool // the timeout has killed it

	first control.ExecMessage // what start has received already; zero when it was handed on
	done  bool                // the last event has come

	detached bool      // Detach was called; for the goroutine that calls it and Close
	sink     *ExecSink // nil when it was taken, or without standard input
}

// ID returns what tells the command from all others of the sandbox: the number
// that LogEntry.SessionID has. Its error has kind ErrExecFailed for a command that
// wasn't started.
func (h *ExecHandle) ID() (string, error) {
	if h.session == 0 {
		return "", h.s.failure("exec in", &Error{Kind: ErrExecFailed, Message: "the command wasn't started"})
	}
	return strconv.FormatUint(h.session, 10), nil
}

// TakeStdin returns the command's standard input; nil without WithExecStdinPipe
// or WithExecTTY, and from the second call on. The caller closes it.
func (h *ExecHandle) TakeStdin() *ExecSink {
	sink := h.sink
	h.sink = nil
	return sink
}

// Recv waits for the next event. Behind the last one it returns ExecEventDone,
// again and again. The error has kind ErrExecTimeout if the timeout has killed
// the command, ErrSandboxNotRunning if the sandbox ended first, ErrCancelled with
// ctx, after which Recv can be called again.
func (h *ExecHandle) Recv(ctx context.Context) (*ExecEvent, error) {
	if h.done {
		return &ExecEvent{Kind: ExecEventDone}, nil
	}
	m := h.first
	if m.Kind != 0 {
		h.first = control.ExecMessage{}
	} else {
		var err error
		m, err = h.receive(ctx)
		if errors.Is(err, io.EOF) {
			h.done = true
			return &ExecEvent{Kind: ExecEventDone}, nil
		}
		if err != nil {
			return nil, err
		}
		if m.Kind == control.ExecFailed { // it was started, so it was lost with its sandbox
			h.stopTimer()
			return nil, h.s.failure("exec in", m.Failure)
		}
	}
	return h.event(m), nil
}

// event returns a message in the words of this package.
func (h *ExecHandle) event(m control.ExecMessage) *ExecEvent {
	e := &ExecEvent{PID: m.PID, Data: m.Data}
	if m.Failure != nil {
		e.Failure = &ExecFailure{Code: m.Failure.Code, Message: m.Failure.Message}
	}
	switch m.Kind {
	case control.ExecStarted:
		e.Kind = ExecEventStarted
	case control.ExecStdout:
		e.Kind = ExecEventStdout
	case control.ExecStderr:
		e.Kind = ExecEventStderr
	case control.ExecStdinError:
		e.Kind = ExecEventStdinError
	case control.ExecExited:
		e.Kind, e.ExitCode = ExecEventExited, exitCode(m.Exit)
		h.stopTimer()
	case control.ExecFailed:
		e.Kind = ExecEventFailed
		h.stopTimer()
	}
	return e
}

// receive waits for the next message; io.EOF is behind the last one.
func (h *ExecHandle) receive(ctx context.Context) (control.ExecMessage, error) {
	m, err := h.exec.Recv(ctx)
	switch {
	case err == nil, errors.Is(err, io.EOF):
		return m, err
	case h.expired.Load():
		return m, h.s.failure("exec in", &Error{Kind: ErrExecTimeout, Message: "the command was killed after " + h.cfg.Timeout.String()})
	}
	return m, h.s.failure("exec in", err)
}

// expire kills the command when its time is up.
func (h *ExecHandle) expire() {
	h.expired.Store(true)
	if h.cfg.Keep {
		_ = h.exec.Signal(context.Background(), sigkill) // it ends without us, then
	}
	_ = h.exec.Close() // can't fail
}

func (h *ExecHandle) stopTimer() {
	if h.timer != nil {
		h.timer.Stop()
	}
}

// Collect receives everything and returns it when the command has ended. When ctx
// ends first, or more was written than is kept, the command is killed. The error
// has kind ErrExecFailed, and holds an [*ExecFailure], for a command that wasn't
// started.
func (h *ExecHandle) Collect(ctx context.Context) (*ExecOutput, error) {
	bound := h.cfg.MaxOutput
	if bound == 0 {
		bound = defaultMaxOutput
	}
	var out ExecOutput
	err := h.drain(ctx, func(e *ExecEvent) error {
		to := &out.stdout
		if e.Kind == ExecEventStderr {
			to = &out.stderr
		}
		if len(*to)+len(e.Data) > bound {
			return tooMuch(bound)
		}
		*to = append(*to, e.Data...)
		return nil
	}, &out.code)
	if err != nil {
		return nil, err
	}
	return &out, nil
}

// Wait waits for the command's end, drops what it writes, and returns its exit
// code. When ctx ends first the command goes on. The error is as Collect's.
func (h *ExecHandle) Wait(ctx context.Context) (int, error) {
	code := 0
	err := h.receiveAll(ctx, func(*ExecEvent) error { return nil }, &code)
	return code, err
}

// drain is receiveAll, but kills the command unless all is well.
func (h *ExecHandle) drain(ctx context.Context, output func(*ExecEvent) error, code *int) error {
	err := h.receiveAll(ctx, output, code)
	if err != nil {
		_ = h.exec.Close() // kills it; can't fail
	}
	return err
}

// receiveAll receives everything, hands what the command writes to output, and
// stores its exit code.
func (h *ExecHandle) receiveAll(ctx context.Context, output func(*ExecEvent) error, code *int) error {
	for {
		e, err := h.Recv(ctx)
		if err != nil {
			return err
		}
		switch e.Kind {
		case ExecEventStdout, ExecEventStderr:
			if err := output(e); err != nil {
				return h.s.failure("exec in", err)
			}
		case ExecEventExited:
			*code = e.ExitCode
		case ExecEventFailed:
			return h.s.failure("exec in", &Error{Kind: ErrExecFailed, Cause: e.Failure})
		case ExecEventDone:
			return nil
		}
	}
}

// Kill ends the command and what it started at once.
func (h *ExecHandle) Kill(ctx context.Context) error { return h.Signal(ctx, sigkill) }

// sigkill is the guest's, which is Linux, whatever the host is.
const sigkill = 9

// Signal sends a signal, by Linux's number, to the command and what it started.
func (h *ExecHandle) Signal(ctx context.Context, signal int) error {
	if err := h.exec.Signal(ctx, signal); err != nil {
		return h.s.failure("signal command in", err)
	}
	return nil
}

// Resize changes the size of the command's terminal.
func (h *ExecHandle) Resize(ctx context.Context, rows, cols uint16) error {
	if err := h.exec.Resize(ctx, rows, cols); err != nil {
		return h.s.failure("resize terminal in", err)
	}
	return nil
}

// Detach lets go of a command of WithExecKeep, which goes on: what it writes goes
// to the log only, and a standard input that was given to it ends. The handle is
// closed then.
func (h *ExecHandle) Detach(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return h.s.failure("detach command in", err)
	}
	if !h.cfg.Keep {
		return h.s.failure("detach command in", &Error{Kind: ErrInvalidArgument, Message: "the command was not started to go on", Hint: "start it with WithExecKeep"})
	}
	h.detached = true
	h.stopTimer()
	return h.exec.Close()
}

// Close lets go of the command, which is killed if it still runs, unless it was
// detached. It is idempotent.
func (h *ExecHandle) Close() error {
	h.stopTimer()
	if h.cfg.Keep && !h.detached && !h.done {
		// Nobody is to wait for it, and the sandbox always reads.
		_ = h.exec.Signal(context.Background(), sigkill)
	}
	return h.exec.Close()
}

// An ExecSink is the standard input of a command. One goroutine at a time may
// write to it.
type ExecSink struct{ h *ExecHandle }

var _ io.Writer = (*ExecSink)(nil)

// Write implements [io.Writer]. It waits while the command doesn't read, until
// that has ended.
func (k *ExecSink) Write(p []byte) (int, error) {
	if err := k.WriteCtx(context.Background(), p); err != nil { // the command's end, or the handle's, ends it
		return 0, err
	}
	return len(p), nil
}

// WriteCtx writes all of p. What was on its way when ctx ended may have arrived.
func (k *ExecSink) WriteCtx(ctx context.Context, p []byte) error {
	if err := k.h.exec.Stdin(ctx, p); err != nil {
		return k.h.s.failure("write to command in", err)
	}
	return nil
}

// Close ends the standard input: the command reads its end.
func (k *ExecSink) Close(ctx context.Context) error {
	if err := k.h.exec.CloseStdin(ctx); err != nil {
		return k.h.s.failure("close standard input in", err)
	}
	return nil
}
