package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/sluicenet/sluice/internal/control"
	"github.com/sluicenet/sluice/internal/guest"
)

// A command is one that runs in the guest: its process, whose output goes to the
// log as it is read.
type command struct {
	*guest.Process
	s       *Sandbox
	session uint64
	out     io.Reader
	errs    io.Reader
	end     func() // tells the sandbox's activity, once
}

// Exec implements control.Sandbox.
func (s *Sandbox) Exec(ctx context.Context, cmd control.Command) (control.Process, error) {
	c, err := s.startCommand(ctx, guestCommand(cmd), cmd.TTY != nil)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// guestCommand returns a command as the agent takes it.
func guestCommand(cmd control.Command) guest.Command {
	g := guest.Command{Args: cmd.Args, Env: cmd.Env, Dir: cmd.Dir, User: cmd.User, Stdin: cmd.Stdin}
	if cmd.TTY != nil {
		g.TTY, g.Stdin = &guest.TTY{Rows: cmd.TTY.Rows, Cols: cmd.TTY.Cols, Term: cmd.TTY.Term}, false
	}
	return g
}

// startCommand starts a command of the sandbox's session.
func (s *Sandbox) startCommand(ctx context.Context, cmd guest.Command, tty bool) (*command, error) {
	end, err := s.beginSession()
	if err != nil {
		return nil, err
	}
	p, err := s.agent.Start(ctx, cmd)
	if err != nil {
		end()
		return nil, s.startError(ctx, err)
	}
	c := &command{Process: p, s: s, session: s.sessions.Add(1), end: end}
	source := control.LogStdout
	if tty {
		source = control.LogOutput
	}
	c.out = &loggedReader{p.Stdout(), c, source}
	c.errs = &loggedReader{p.Stderr(), c, control.LogStderr}
	c.note(fmt.Sprintf("%s runs as process %d\n", cmd.Args[0], p.PID()))
	return c, nil
}

// startError is the failure of a command that wasn't started.
func (s *Sandbox) startError(ctx context.Context, err error) error {
	var refused *guest.StartError
	switch {
	case errors.As(err, &refused):
		return &control.Failure{Kind: control.KindExecFailed, Message: refused.Message, Code: refused.Code}
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return s.gone(err)
}

// beginSession counts a session as activity until the function that it returns
// is called, which may be done again.
func (s *Sandbox) beginSession() (end func(), err error) {
	if !s.activity.begin() {
		return nil, &control.Failure{Kind: control.KindNotRunning, Message: fmt.Sprintf("sandbox %q is draining: nothing new begins", s.spec.Name)}
	}
	return sync.OnceFunc(func() { s.activity.end(time.Now()) }), nil
}

// note writes a line of the sandbox's own about the command to the log.
func (c *command) note(line string) {
	c.s.output.append(control.LogSystem, c.session, time.Now(), []byte(line))
}

// signalError is the failure of a signal to a command, nil if there was none.
func (s *Sandbox) signalError(err error) error {
	if err == nil {
		return nil
	}
	return s.gone(err)
}

// Session implements control.Process.
func (c *command) Session() uint64 { return c.session }

// Stdin implements control.Process.
func (c *command) Stdin() io.WriteCloser { return c.Process.Stdin() }

// Stdout implements control.Process.
func (c *command) Stdout() io.Reader { return c.out }

// Stderr implements control.Process.
func (c *command) Stderr() io.Reader { return c.errs }

// Wait implements control.Process.
func (c *command) Wait(ctx context.Context) (control.Exit, error) {
	exit, err := c.Process.Wait(ctx)
	switch {
	case err != nil && ctx.Err() != nil:
		return control.Exit{}, context.Cause(ctx)
	case err != nil:
		return control.Exit{}, c.s.gone(err)
	case exit.Signal != 0:
		c.note(fmt.Sprintf("ended by signal %d\n", exit.Signal))
	default:
		c.note(fmt.Sprintf("ended with code %d\n", exit.Code))
	}
	return control.Exit{Code: exit.Code, Signal: exit.Signal}, nil
}

// Close implements control.Process.
func (c *command) Close() error {
	defer c.end()
	return c.Process.Close()
}

// A loggedReader copies what is read to the log. It waits for the log, never for
// the log's readers.
type loggedReader struct {
	r      io.Reader
	c      *command
	source string
}

// Read reads.
func (l *loggedReader) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if n > 0 {
		l.c.s.output.append(l.source, l.c.session, time.Now(), p[:n])
	}
	return n, err
}

// SFTP implements control.Sandbox.
func (s *Sandbox) SFTP(ctx context.Context) (io.ReadWriteCloser, error) {
	end, err := s.beginSession()
	if err != nil {
		return nil, err
	}
	files, err := s.agent.SFTP(ctx)
	if err != nil {
		end()
		return nil, s.startError(ctx, err)
	}
	return &sessionStream{files, end}, nil
}

// Dial implements control.Sandbox. A port without a host is dialled over the
// guest's card, as the peer of a published port would be; without a card, and
// with a host, the agent dials.
func (s *Sandbox) Dial(ctx context.Context, network, address string) (io.ReadWriteCloser, error) {
	end, err := s.beginSession()
	if err != nil {
		return nil, err
	}
	c, err := s.dialGuest(ctx, network, address)
	switch {
	case err == nil:
		return &sessionStream{c, end}, nil
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case control.AsFailure(err).Kind == control.KindInternal:
		err = &control.Failure{Kind: control.KindIO, Message: err.Error()}
	}
	end()
	return nil, err
}

func (s *Sandbox) dialGuest(ctx context.Context, network, address string) (net.Conn, error) {
	port, isPort := portOnly(address)
	switch {
	case network == "unix":
		return s.agent.Dial(ctx, network, address)
	case network != "tcp" && network != "tcp4" && network != "tcp6":
		return nil, &control.Failure{Kind: control.KindArgument, Message: fmt.Sprintf("network: %q: want tcp or unix", network)}
	case isPort && s.network != nil:
		c, err := s.network.DialGuest(ctx, port)
		if err != nil {
			return nil, err
		}
		return s.guestConns.add(c), nil
	case isPort:
		address = net.JoinHostPort("localhost", strconv.Itoa(int(port)))
	}
	if host, _, err := net.SplitHostPort(address); err != nil || host == "" {
		return nil, &control.Failure{Kind: control.KindArgument, Message: fmt.Sprintf("address: %q: want a port, or a host and a port", address)}
	}
	return s.agent.Dial(ctx, network, address)
}

// portOnly returns the port of an address that is no more than that: "80", ":80".
func portOnly(address string) (uint16, bool) {
	if len(address) > 0 && address[0] == ':' {
		address = address[1:]
	}
	port, err := strconv.ParseUint(address, 10, 16)
	return uint16(port), err == nil && port != 0
}

// A sessionStream is a stream that counts as activity until it is closed.
type sessionStream struct {
	io.ReadWriteCloser
	end func()
}

// CloseWrite ends our side.
func (s *sessionStream) CloseWrite() error { return closeWrite(s.ReadWriteCloser) }

// Close closes the stream.
func (s *sessionStream) Close() error {
	defer s.end()
	return s.ReadWriteCloser.Close()
}
