package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/crypto/ssh"
)

// A Process is a command that runs in the guest, as the host sees it. Its
// methods may be called by several goroutines.
type Process struct {
	channel *channel
	stdin   bool          // it has a standard input
	started chan struct{} // closed when pid is valid
	pid     uint32
	refused chan error    // gets why it was not started, if so
	exited  chan struct{} // closed when exit is valid
	exit    Exit
}

// Start starts a command and returns when it runs; if it could not be started
// the error is a *StartError. While there are 256 channels it waits for one. ctx
// governs the start only. The caller must Close the Process.
func (c *Client) Start(ctx context.Context, cmd Command) (*Process, error) {
	text, err := encodeCommand(cmd)
	if err != nil {
		return nil, &StartError{Code: CodeRefused, Message: err.Error()}
	}
	p := &Process{
		stdin:   cmd.Stdin || cmd.TTY != nil,
		started: make(chan struct{}), refused: make(chan error, 1), exited: make(chan struct{}),
	}
	if p.channel, err = c.open(ctx, typeExec, nil, p.request); err != nil {
		return nil, err
	}
	if err := p.begin(ctx, text); err != nil {
		p.channel.close()
		return nil, err
	}
	return p, nil
}

// begin sends the command and waits until it runs, or couldn't be started.
func (p *Process) begin(ctx context.Context, command []byte) error {
	stop := context.AfterFunc(ctx, func() { p.channel.in.breakOff(context.Cause(ctx)) })
	_, _ = p.channel.in.Write(command) // an error is one that is found below
	if !stop() {
		return context.Cause(ctx)
	}
	if !p.stdin {
		p.channel.in.finish(io.EOF)
	}
	select {
	case <-p.started:
		return nil
	case err := <-p.refused:
		return err
	case <-p.channel.gone:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select { // what was said before
	case <-p.started:
		return nil
	case err := <-p.refused:
		return err
	default:
		return p.channel.cut()
	}
}

// request handles what the guest says of the process, whose channel Start may not
// have yet. It is a requestHandler.
func (p *Process) request(ch *channel, r *ssh.Request) error {
	switch {
	case r.Type == requestStarted && !closed(p.started):
		if err := parseNumbers(r.Payload, &p.pid); err != nil {
			return err
		}
		close(p.started)
		return nil
	case r.Type == requestRefused && !closed(p.started) && len(p.refused) == 0:
		f, err := parseFailure(string(r.Payload))
		if err != nil {
			return err
		}
		p.refused <- f.asError()
		return nil
	case r.Type == requestExit && closed(p.started) && closed(ch.ended) && !closed(p.exited):
		exit, err := parseExit(r.Payload)
		if err != nil {
			return err
		}
		p.exit = exit
		close(p.exited)
		return nil
	}
	return fmt.Errorf("%w: not now", errProtocol)
}

// closed reports whether c is closed, to whom nothing is ever sent.
func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// PID returns the process's number in the guest.
func (p *Process) PID() uint32 { return p.pid }

// Stdin returns what writes to the process's standard input; without one its
// writes fail. A write waits while the process doesn't read, and fails with
// syscall.EPIPE once nobody can. Close ends the input; it doesn't wait.
func (p *Process) Stdin() io.WriteCloser { return stdin{p.channel.in} }

// stdin is the way to a process's standard input.
type stdin struct{ *queue }

// Close ends the input.
func (s stdin) Close() error {
	s.finish(io.EOF)
	return nil
}

// Stdout returns what reads the process's standard output, or what its terminal
// shows. It must be read to its end, or the process waits when it has written
// more than 1 MiB; the end is io.EOF, and any other error if it was cut off.
func (p *Process) Stdout() io.Reader { return p.channel.out }

// Stderr is as Stdout, for the standard error. The two don't wait for each
// other.
func (p *Process) Stderr() io.Reader { return p.channel.errs }

// Signal sends signal n to the process and its group. It doesn't wait for the
// guest to confirm. Once the process has ended it returns os.ErrProcessDone.
func (p *Process) Signal(ctx context.Context, n int) error {
	if !validSignal(n) {
		return fmt.Errorf("signal %d is not in 1…64", n)
	}
	return p.tell(ctx, requestSignal, encodeNumbers(uint32(n)))
}

// Resize tells the process's terminal its size. Without a terminal nothing
// happens.
func (p *Process) Resize(ctx context.Context, rows, cols uint16) error {
	return p.tell(ctx, requestResize, encodeSize(rows, cols))
}

// tell sends a request of the host's.
func (p *Process) tell(ctx context.Context, request string, payload []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if closed(p.exited) {
		return os.ErrProcessDone
	}
	_, err := p.channel.ssh.SendRequest(request, false, payload)
	if errors.Is(err, io.EOF) { // the channel is closed
		return os.ErrProcessDone
	}
	return err
}

// Wait waits until the process has ended and all that it wrote was sent, and
// says how it ended. When ctx ends first, or the stream does, it returns an
// error; of the first the process knows nothing. What its own children write
// later is dropped.
func (p *Process) Wait(ctx context.Context) (Exit, error) {
	select {
	case <-p.exited:
		return p.exit, nil
	default:
	}
	select {
	case <-p.exited:
		return p.exit, nil
	case <-p.channel.gone:
		if closed(p.exited) {
			return p.exit, nil
		}
		return Exit{}, p.channel.cut()
	case <-ctx.Done():
		return Exit{}, context.Cause(ctx)
	}
}

// Close kills the process and its group if it runs, and frees what it holds. It
// is idempotent, and doesn't wait for the guest.
func (p *Process) Close() error {
	p.channel.close()
	return nil
}
