package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
)

// A Command is a program to run in the guest.
type Command struct {
	Args []string `json:"args"` // Args[0] is looked up in the guest's PATH
	Env  []string `json:"env,omitempty"`
	Dir  string   `json:"dir,omitempty"`  // "" is the root
	User string   `json:"user,omitempty"` // name, uid, name:group or uid:gid; "" is root
	// TTY gives the command a terminal of that size; all it writes is stdout
	// then.
	TTY *TTY `json:"tty,omitempty"`
	// Stdin gives the command a pipe to read from; without, it reads nothing.
	Stdin bool `json:"stdin,omitempty"`
	// Keep lets the command go on when its client lets go of it, or is gone: its
	// output goes to the log only, and a pipe that it reads from ends.
	Keep bool `json:"keep,omitempty"`
}

// A TTY is a terminal for a command.
type TTY struct {
	Rows uint16 `json:"rows"`
	Cols uint16 `json:"cols"`
	Term string `json:"term,omitempty"` // value of TERM
}

// An Exit says how a command ended.
type Exit struct {
	Code   int `json:"code"`             // -1 if a signal ended it
	Signal int `json:"signal,omitempty"` // number of that signal
}

// An ExecKind says what an ExecMessage is.
type ExecKind uint8

// The kinds of messages, in their order: Started first, Exited or Failed last.
const (
	ExecStarted    ExecKind = iota + 1 // it runs, as PID
	ExecStdout                         // it wrote Data
	ExecStderr                         // it wrote Data
	ExecStdinError                     // it reads no more; Failure says why
	ExecExited                         // it has ended, by Exit, and all of its output was received
	ExecFailed                         // it wasn't started, or is lost with its sandbox: Failure
)

// An ExecMessage is what a running command has to say. Fields that its kind
// doesn't name are zero.
type ExecMessage struct {
	Kind    ExecKind
	PID     uint32
	Session uint64 // beside PID: the number that the command's log entries have
	Data    []byte // the receiver's
	Exit    Exit
	Failure *Failure
}

// messagesHeld bounds the messages that wait for Recv; the command waits beyond.
const messagesHeld = 8

// An Exec is a command in a sandbox, seen from its client. Its methods may be
// called by several goroutines. The caller must Close it.
type Exec struct {
	conn     *stream
	stdin    bool
	messages chan ExecMessage // closed by read after the last
	err      error            // why read ended without a last message; valid once messages is closed
	closing  chan struct{}    // closed by Close
	close    sync.Once
	fed      chan struct{} // closed by CloseStdin
	feeding  sync.Once
	room     *credit

	writing sync.Mutex // held for the length of a frame
}

// Exec starts a command. ctx governs the asking only: the command is killed by
// Close, and by the end of this process, unless it is to be kept. That it could not be started is a
// message.
func (c *Client) Exec(ctx context.Context, cmd Command) (*Exec, error) {
	s, err := c.upgrade(ctx, http.MethodPost, "/v1/exec", execProtocol, cmd)
	if err != nil {
		return nil, err
	}
	e := &Exec{
		conn:     s,
		stdin:    cmd.Stdin || cmd.TTY != nil,
		messages: make(chan ExecMessage, messagesHeld),
		closing:  make(chan struct{}),
		fed:      make(chan struct{}),
		room:     newCredit(stdinWindow),
	}
	go e.read()
	return e, nil
}

// Recv returns the next message, io.EOF behind the last one. The error matches
// ErrGone if the sandbox went before it had told the last one, and net.ErrClosed
// after Close.
func (e *Exec) Recv(ctx context.Context) (ExecMessage, error) {
	select { // what is there is given, whatever ctx says
	case m, ok := <-e.messages:
		return e.received(m, ok)
	default:
	}
	select {
	case m, ok := <-e.messages:
		return e.received(m, ok)
	case <-ctx.Done():
		return ExecMessage{}, Cause(ctx)
	}
}

func (e *Exec) received(m ExecMessage, ok bool) (ExecMessage, error) {
	if ok {
		return m, nil
	}
	return ExecMessage{}, e.err
}

// Stdin sends p to the command's standard input. It waits while the command
// doesn't read, so somebody must call Recv meanwhile. One goroutine at a time
// should call it.
func (e *Exec) Stdin(ctx context.Context, p []byte) error {
	if !e.stdin {
		return &Failure{Kind: KindArgument, Message: "the command has no standard input"}
	}
	select {
	case <-e.fed:
		return fmt.Errorf("standard input: %w", net.ErrClosed)
	default:
	}
	for len(p) > 0 {
		n, err := e.room.take(ctx, min(len(p), maxPayload))
		if err != nil {
			return err
		}
		if err := e.send(appendFrame(nil, frameStdin, p[:n])); err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// CloseStdin ends the command's standard input, of which a command that has ended
// needs no word. It is idempotent; Stdin's error matches net.ErrClosed afterwards.
func (e *Exec) CloseStdin(context.Context) error {
	var err error
	e.feeding.Do(func() {
		close(e.fed)
		err = e.send(appendFrame(nil, frameStdinEOF, nil))
	})
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// Signal sends signal n to the command's processes. The error matches
// os.ErrProcessDone once the command has ended.
func (e *Exec) Signal(_ context.Context, n int) error {
	if err := checkSignal(n); err != nil {
		return err
	}
	return e.sendJSON(frameSignal, signalRequest{n})
}

// Resize changes the size of the command's terminal.
func (e *Exec) Resize(_ context.Context, rows, cols uint16) error {
	return e.sendJSON(frameResize, resizePayload{rows, cols})
}

// Close lets go of the command, which is killed if it runs and isn't to be kept.
// It is idempotent.
func (e *Exec) Close() error {
	e.close.Do(func() {
		close(e.closing)
		_ = e.conn.Close() // which read notices
	})
	for range e.messages { // until read has ended
	}
	return nil
}

// sendJSON sends a frame whose payload is v.
func (e *Exec) sendJSON(kind frameKind, v any) error {
	f, err := appendJSON(nil, kind, v)
	if err != nil {
		return err
	}
	return e.send(f)
}

// send writes a frame. The sandbox always reads, so it doesn't wait for long.
func (e *Exec) send(f []byte) error {
	e.writing.Lock()
	defer e.writing.Unlock()
	_, err := e.conn.Write(f)
	switch over := e.room.over(); {
	case err == nil:
		return nil
	case e.isClosing():
		return e.broken(err)
	case over != nil && !errors.Is(over, io.EOF):
		return over
	}
	// The sandbox hangs up behind a command's last message, which may still wait
	// for Recv. If it was the sandbox that went, the command went with it.
	return errEnded
}

// errEnded is the error of a call that concerns a command that has ended.
var errEnded = fmt.Errorf("the command has ended: %w", os.ErrProcessDone)

func (e *Exec) isClosing() bool {
	select {
	case <-e.closing:
		return true
	default:
		return false
	}
}

// broken is the error of a stream that doesn't work any more.
func (e *Exec) broken(err error) error {
	if e.isClosing() {
		return fmt.Errorf("exec: %w", net.ErrClosed)
	}
	if errors.Is(err, io.EOF) { // which Recv returns behind a last message, and there was none
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%w: %w", ErrGone, err)
}

// read passes on what the sandbox sends, up to the last message.
func (e *Exec) read() {
	defer close(e.messages)
	e.err = e.readAll()
	e.room.end(e.err)
}

func (e *Exec) readAll() error {
	buf := make([]byte, maxPayload)
	for {
		kind, payload, err := readFrame(e.conn, buf)
		if err != nil {
			return e.broken(err)
		}
		if kind == frameRoom {
			var room roomPayload
			if err := readJSON(kind, payload, &room); err != nil {
				return e.broken(err)
			}
			e.room.give(room.Bytes)
			continue
		}
		m, err := execMessage(kind, payload)
		if err != nil {
			return e.broken(err)
		}
		select {
		case e.messages <- m:
		case <-e.closing:
			return e.broken(net.ErrClosed)
		}
		if m.Kind == ExecExited || m.Kind == ExecFailed {
			return io.EOF
		}
	}
}

// execMessage decodes a frame from the sandbox.
func execMessage(kind frameKind, payload []byte) (ExecMessage, error) {
	var m ExecMessage
	var err error
	switch kind {
	case frameStdout, frameStderr:
		m.Kind, m.Data = ExecStdout, append([]byte(nil), payload...)
		if kind == frameStderr {
			m.Kind = ExecStderr
		}
	case frameStarted:
		var p startedPayload
		err = readJSON(kind, payload, &p)
		m.Kind, m.PID, m.Session = ExecStarted, p.PID, p.Session
	case frameExit:
		m.Kind = ExecExited
		err = readJSON(kind, payload, &m.Exit)
	case frameFailure, frameStdinError:
		m.Kind, m.Failure = ExecFailed, new(Failure)
		if kind == frameStdinError {
			m.Kind = ExecStdinError
		}
		err = readJSON(kind, payload, m.Failure)
	default:
		err = fmt.Errorf("%w: kind %#02x from the sandbox", errFrame, byte(kind))
	}
	return m, err
}

// A credit is how many bytes may be sent.
type credit struct {
	mu    sync.Mutex // guards the following fields
	bytes int
	err   error         // no more will come, and why
	more  chan struct{} // closed, and replaced, when the fields above change
}

func newCredit(n int) *credit { return &credit{bytes: n, more: make(chan struct{})} }

// take takes up to n bytes, at least one, once they are there.
func (c *credit) take(ctx context.Context, n int) (int, error) {
	for {
		c.mu.Lock()
		got, err, more := min(n, c.bytes), c.err, c.more
		if err == nil {
			c.bytes -= got
		}
		c.mu.Unlock()
		switch {
		case errors.Is(err, io.EOF):
			return 0, errEnded
		case err != nil:
			return 0, err
		case got > 0:
			return got, nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return 0, Cause(ctx)
		}
	}
}

// give adds n bytes; the sandbox is trusted no further than a window.
func (c *credit) give(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bytes = min(c.bytes+max(n, 0), stdinWindow)
	c.wake()
}

// over returns what end was called with, nil before.
func (c *credit) over() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// end ends the credit: take fails with err.
func (c *credit) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
	c.wake()
}

// wake wakes who waits. The caller holds mu.
func (c *credit) wake() {
	close(c.more)
	c.more = make(chan struct{})
}
