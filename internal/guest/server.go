package guest

import (
	"errors"
	"fmt"
	"io"
	"sync"
)

// A System is what the agent acts on. Serve calls its methods from one
// goroutine.
type System interface {
	// Boot makes the guest what b says. It is called once, before Start.
	Boot(b Bootstrap) error
	// Configure changes the network to n; Boot has been called.
	Configure(n Network) error
	// Start starts a command. The error is a *StartError if the command is to
	// blame.
	Start(c Command) (Process, error)
}

// A Process is a command that was started.
type Process interface {
	// Signal sends a signal to the command and the processes of its group. It
	// fails once the command has ended.
	Signal(n int) error
	// Wait waits until the command has ended. It is called once.
	Wait() Exit
}

// Serve answers the host's requests on stream until the one command that it
// asks for has ended and the host was told; then it returns that command's
// exit. Where the host goes away first, or asks for nothing that can be
// started, it returns an error. It closes stream, whose Close must end a Read
// that waits.
func Serve(stream io.ReadWriteCloser, sys System) (Exit, error) {
	s := &server{stream: stream, sys: sys, requests: make(chan *message), readErr: make(chan error, 1)}
	var reader sync.WaitGroup
	reader.Go(s.read)
	exit, err := s.loop()
	// The reader may wait for the stream or for the loop: end both.
	stream.Close()
	for range s.requests {
	}
	reader.Wait()
	return exit, err
}

// A server is one Serve. All fields but requests and readErr are owned by the
// goroutine that runs loop.
type server struct {
	stream io.ReadWriteCloser
	sys    System

	requests chan *message // from read; closed when it ends
	readErr  chan error    // holds why read ended, before requests is closed

	booted  bool
	process Process // the command; nil before it starts
	runID   uint64  // of the request that started it
}

// read passes the host's messages on.
func (s *server) read() {
	defer close(s.requests)
	for {
		m, err := readMessage(s.stream, maxRequest)
		if err != nil {
			s.readErr <- err
			return
		}
		s.requests <- m
	}
}

// loop answers requests until the command has ended.
func (s *server) loop() (Exit, error) {
	var exited chan Exit // gets the command's exit; nil until it runs
	for {
		select {
		case m, ok := <-s.requests:
			if !ok {
				return Exit{}, fmt.Errorf("read request: %w", <-s.readErr)
			}
			reply := s.answer(m)
			if reply == nil {
				exited = make(chan Exit, 1)
				go waitProcess(s.process, exited)
				continue
			}
			if err := writeMessage(s.stream, reply, maxReply); err != nil {
				return Exit{}, fmt.Errorf("write reply: %w", err)
			}
		case exit := <-exited:
			reply := &message{ID: s.runID, Kind: kindExit, Exit: &exit}
			if err := writeMessage(s.stream, reply, maxReply); err != nil {
				return Exit{}, fmt.Errorf("write exit: %w", err)
			}
			return exit, nil
		}
	}
}

// waitProcess puts the process's exit into exited. It outlives Serve only
// where the command does, which is when the agent, process 1, ends with it.
func waitProcess(p Process, exited chan<- Exit) { exited <- p.Wait() }

// answer does what m asks and returns the reply; nil once a command runs,
// whose exit is the reply.
func (s *server) answer(m *message) *message {
	var err error
	switch m.Kind {
	case kindBoot:
		if err = s.boot(*m.Boot); err == nil {
			s.booted = true
		}
	case kindConfigure:
		if err = errors.New("not booted"); s.booted {
			err = s.sys.Configure(*m.Network)
		}
	case kindSignal:
		if err = errors.New("no command runs"); s.process != nil {
			err = s.process.Signal(m.Signal)
		}
	case kindRun:
		return s.run(m)
	default:
		err = fmt.Errorf("kind %q is not a request", m.Kind)
	}
	reply := &message{ID: m.ID, Kind: kindDone}
	if err != nil {
		reply.Error = shorten(err.Error())
	}
	return reply
}

// boot boots the system, once.
func (s *server) boot(b Bootstrap) error {
	if s.booted {
		return errors.New("booted already")
	}
	return s.sys.Boot(b)
}

// run starts the command of m, or returns why not.
func (s *server) run(m *message) *message {
	err := s.start(*m.Command)
	if err == nil {
		s.runID = m.ID
		return nil
	}
	failure := &StartError{Code: CodeRefused, Message: err.Error()}
	errors.As(err, &failure)
	return &message{ID: m.ID, Kind: kindExit, Start: &StartError{Code: failure.Code, Message: shorten(failure.Message)}}
}

// start starts the command, if it is its time.
func (s *server) start(c Command) (err error) {
	switch {
	case !s.booted:
		return errors.New("not booted")
	case s.process != nil:
		return errors.New("a command runs already")
	}
	s.process, err = s.sys.Start(c)
	return err
}

// shorten cuts an error's text to what fits well into a reply: paths in it may
// be long, and JSON may need six bytes for one.
func shorten(text string) string {
	const most = 4 << 10
	if len(text) > most {
		return text[:most] + "…"
	}
	return text
}
