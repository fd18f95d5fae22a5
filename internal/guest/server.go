package guest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
)

// A System is what the agent acts on. Boot, Configure and SetClock are called by
// one goroutine at a time, the others by many at once.
type System interface {
	// Boot makes the guest what b says, and returns what the host should know. It
	// is called once, before everything else.
	Boot(b Bootstrap) (warnings []string, err error)
	// Configure changes the network to n.
	Configure(n Network) error
	// SetClock sets the clock.
	SetClock(t time.Time) error
	// Start starts a command. The error is a *StartError if the command is to
	// blame.
	Start(c Command) (Child, error)
	// ServeFiles answers the SFTP protocol on stream until that ends.
	ServeFiles(stream io.ReadWriteCloser) error
	// Dial connects to an address of the guest's.
	Dial(ctx context.Context, network, address string) (net.Conn, error)
	// Shutdown ends every process, and kills those that are left after grace.
	Shutdown(grace time.Duration)
}

// A Child is a command that a System started.
type Child interface {
	// PID returns the process's number.
	PID() int
	// Stdin returns the way to the standard input, nil if there is none.
	Stdin() io.WriteCloser
	// Stdout and Stderr return what the command writes, nil for nothing. They end
	// when the command has ended and what it wrote was read, even if a child of
	// its own keeps them.
	Stdout() io.Reader
	Stderr() io.Reader
	// Signal sends a signal to the command and the processes of its group. It
	// fails once the command has ended.
	Signal(n int) error
	// Resize tells the terminal its size, if there is one.
	Resize(rows, cols uint16) error
	// Wait waits until the command has ended.
	Wait() Exit
	// Close frees the command's streams once it has ended.
	Close()
}

// dialTime bounds how long the agent tries to connect.
const dialTime = 10 * time.Second

// farewellTime bounds how long, at the end, what the agent still has to say
// waits for a host that doesn't read.
const farewellTime = 2 * time.Second

// Serve answers the host's requests on stream until the host has asked for a
// shutdown; then it returns nil. Where the host goes away first, it returns an
// error, and what runs is killed. It closes stream, whose Close must end a Read
// and a Write that wait.
func Serve(stream io.ReadWriteCloser, sys System) error {
	t := newTransport(stream)
	defer t.Close()
	conn, channels, requests, err := connectServer(t)
	if err != nil {
		return fmt.Errorf("greet host: %w", err)
	}
	s := &server{transport: t, sys: sys, down: make(chan struct{})}
	s.running.Go(func() { ssh.DiscardRequests(requests) })
	for ch := range channels {
		s.running.Go(func() { s.handle(ch) })
	}
	s.running.Wait()
	if closed(s.down) {
		return nil
	}
	return fmt.Errorf("read from host: %w", conn.Wait())
}

// A server is one Serve.
type server struct {
	transport *transport
	sys       System
	running   sync.WaitGroup // a goroutine per channel
	down      chan struct{}  // closed when the shutdown is done

	mu       sync.Mutex // held by calls; guards the following fields
	state    serverState
	commands sync.WaitGroup // those that run; nothing is added once state is ending
}

// A serverState is how far a server has come.
type serverState int

const (
	stateNew serverState = iota
	stateBooted
	stateEnding // no command is started any more
)

var (
	errNotBooted = errors.New("not booted")
	errEnding    = errors.New("the guest is shutting down")
)

// readyLocked returns why nothing can be done in the guest now; nil if it can. The
// caller holds mu.
func (s *server) readyLocked() error {
	switch s.state {
	case stateNew:
		return errNotBooted
	case stateEnding:
		return errEnding
	}
	return nil
}

// handle handles one channel from its opening to its end.
func (s *server) handle(ch ssh.NewChannel) {
	var err error
	switch ch.ChannelType() {
	case typeCall:
		err = s.call(ch)
	case typeExec:
		s.exec(ch)
	case typeSFTP:
		err = s.sftp(ch)
	case typeDial:
		err = s.dial(ch)
	default:
		err = fmt.Errorf("channel of type %q", ch.ChannelType())
	}
	if err != nil {
		_ = ch.Reject(ssh.ConnectionFailed, encodeFailure(asFailure(err))) // the host may be gone
	}
}

// asFailure returns what the host is told of err.
func asFailure(err error) failure {
	f := failure{Message: err.Error()}
	var start *StartError
	switch {
	case errors.As(err, &start):
		f.Code, f.Message = start.Code, start.Message
	case errors.Is(err, syscall.ECONNREFUSED):
		f.Cause = causeRefused
	case errors.Is(err, fs.ErrNotExist):
		f.Cause = causeMissing
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		f.Cause = causeTimeout
	}
	return f
}

// call answers a call. Its error is one before the channel is accepted.
func (s *server) call(ch ssh.NewChannel) error {
	e, err := accept(s.transport, ch, nil)
	if err != nil {
		return nil // the host is gone
	}
	defer e.close()
	var answer reply
	if answer.Warnings, err = s.answer(callName(ch.ExtraData()), e.ssh); err != nil {
		answer = reply{Error: shorten(err.Error())}
	}
	text, err := json.Marshal(answer)
	if err == nil && len(text) <= maxReply {
		_, _ = e.out.Write(text) // the host may be gone
	}
	e.finish()
	if closed(s.down) {
		e.close()
		s.transport.flush(farewellTime)
		s.transport.Close()
	}
	return nil
}

// answer does what a call asks for.
func (s *server) answer(name callName, body io.Reader) ([]string, error) {
	if name == callShutdown { // booted or not
		var grace time.Duration
		if err := decode(body, maxCall, &grace); err != nil {
			return nil, err
		}
		return nil, s.shutdown(grace)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if name == callBoot {
		var b Bootstrap
		if err := decode(body, maxCall, &b); err != nil {
			return nil, err
		}
		return s.bootLocked(b)
	}
	if err := s.readyLocked(); err != nil {
		return nil, err
	}
	switch name {
	case callConfigure:
		var n Network
		if err := decode(body, maxCall, &n); err != nil {
			return nil, err
		}
		return nil, s.sys.Configure(n)
	case callClock:
		var t time.Time
		if err := decode(body, maxCall, &t); err != nil {
			return nil, err
		}
		return nil, s.sys.SetClock(t)
	}
	return nil, fmt.Errorf("unknown call %q", name)
}

// boundWarnings cuts warnings to what fits into a reply.
func boundWarnings(warnings []string) []string {
	const most, length = 16, 512 // times six, for JSON
	warnings = warnings[:min(len(warnings), most)]
	for i, w := range warnings {
		warnings[i] = w[:min(len(w), length)]
	}
	return warnings
}

// bootLocked boots the system, once. The caller holds mu.
func (s *server) bootLocked(b Bootstrap) ([]string, error) {
	if s.state != stateNew {
		return nil, errors.New("booted already")
	}
	warnings, err := s.sys.Boot(b)
	if err == nil {
		s.state = stateBooted
	}
	return boundWarnings(warnings), err
}

// shutdown ends what runs. What is asked for meanwhile is refused at once.
func (s *server) shutdown(grace time.Duration) error {
	s.mu.Lock()
	ending := s.state == stateEnding
	s.state = stateEnding
	s.mu.Unlock()
	if ending {
		return errEnding
	}
	s.sys.Shutdown(grace)
	// Their outcomes first; those that a host doesn't read are not waited for.
	done := make(chan struct{})
	go func() { s.commands.Wait(); close(done) }()
	t := time.NewTimer(farewellTime)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
	}
	close(s.down)
	return nil
}

// sftp serves files.
func (s *server) sftp(ch ssh.NewChannel) error {
	s.mu.Lock()
	err := s.readyLocked()
	s.mu.Unlock()
	if err != nil {
		return err
	}
	e, err := accept(s.transport, ch, nil)
	if err != nil {
		return nil // the host is gone
	}
	defer e.close()
	_ = s.sys.ServeFiles(e) // its clients see the end of the stream
	e.finish()
	return nil
}

// dial connects, and passes bytes on both ways.
func (s *server) dial(ch ssh.NewChannel) error {
	var to target
	if err := json.Unmarshal(ch.ExtraData(), &to); err != nil {
		return err
	}
	s.mu.Lock()
	err := s.readyLocked()
	s.mu.Unlock()
	if err == nil {
		err = to.valid()
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), dialTime)
	defer cancel()
	conn, err := s.sys.Dial(ctx, to.Network, to.Address)
	if err != nil {
		return err
	}
	defer conn.Close()
	e, err := accept(s.transport, ch, nil)
	if err != nil {
		return nil // the host is gone
	}
	defer e.close()
	var both sync.WaitGroup
	fed := make(chan struct{})
	both.Go(func() {
		defer close(fed)
		e.feed(conn)
		if half, ok := conn.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
	})
	both.Go(func() { // the host closes what it has written to the end, and is not to lose it
		<-e.gone
		t := time.NewTimer(lingerTime)
		defer t.Stop()
		select {
		case <-fed:
		case <-t.C:
		}
		conn.Close()
	})
	if copyData(e.out, conn) == nil {
		e.finish()
	} else { // a reset is not an end
		e.close()
		// Who waits for the host to read may not read what the host has written.
		_ = copyData(io.Discard, conn)
	}
	<-fed
	e.close()
	both.Wait()
	return nil
}
