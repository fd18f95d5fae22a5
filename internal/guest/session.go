package guest

import (
	"sync"

	"golang.org/x/crypto/ssh"
)

// exec starts a command and stays with it to its end.
func (s *server) exec(ch ssh.NewChannel) {
	var child Child
	started := make(chan struct{}) // closed when child is valid
	e, err := accept(s.transport, ch, func(r *ssh.Request) {
		if closed(started) { // it is told of by then
			control(child, r)
		}
	})
	if err != nil {
		return // the host is gone
	}
	defer e.close()
	if child, err = s.start(e); err != nil {
		e.tell(requestRefused, []byte(encodeFailure(asFailure(err))))
		return
	}
	close(started)
	defer s.commands.Done()
	defer child.Close()
	e.tell(requestStarted, encodeNumbers(uint32(child.PID())))
	exit := s.accompany(e, child)
	e.finish()
	e.tell(requestExit, encodeExit(exit))
}

// start starts the command that e begins with, if it is its time. The caller says
// when it is done with s.commands.
func (s *server) start(e *endpoint) (Child, error) {
	c, err := readCommand(e)
	if err != nil {
		return nil, &StartError{Code: CodeRefused, Message: err.Error()}
	}
	s.mu.Lock()
	err = s.readyLocked()
	if err == nil {
		s.commands.Add(1)
	}
	s.mu.Unlock()
	if err != nil {
		return nil, &StartError{Code: CodeRefused, Message: err.Error()}
	}
	child, err := s.sys.Start(c)
	if err != nil {
		s.commands.Done()
		if asFailure(err).Code == 0 {
			err = &StartError{Code: CodeRefused, Message: err.Error()}
		}
		return nil, err
	}
	return child, nil
}

// sigkill is the number of SIGKILL, which is Linux's: guests are, whatever the
// tests of this file run on.
const sigkill = 9

// control does what a request asks of a command. One for a command that has
// ended comes too late, and one that is malformed is a newer host's.
func control(child Child, r *ssh.Request) {
	switch r.Type {
	case requestSignal:
		var n uint32
		if parseNumbers(r.Payload, &n) == nil && validSignal(int(n)) {
			_ = child.Signal(int(n))
		}
	case requestResize:
		if rows, cols, err := parseSize(r.Payload); err == nil {
			_ = child.Resize(rows, cols)
		}
	}
}

// accompany passes on what a command reads and writes, and returns how it ended
// when all that it wrote is on its way. If the host closes the channel, the
// command is killed.
func (s *server) accompany(e *endpoint, child Child) Exit {
	var streams sync.WaitGroup
	if r := child.Stdout(); r != nil {
		streams.Go(func() { _ = copyData(e.out, r) })
	}
	if r := child.Stderr(); r != nil {
		streams.Go(func() { _ = copyData(e.errs, r) })
	}
	if w := child.Stdin(); w != nil {
		// Not waited for here: it ends with the channel, which ends after this.
		s.running.Go(func() {
			e.feed(w)
			_ = w.Close() // its reader may be gone
		})
	}
	ended := make(chan struct{})
	s.running.Go(func() {
		select {
		case <-e.gone:
			_ = child.Signal(sigkill)
		case <-ended:
		}
	})
	exit := child.Wait()
	streams.Wait()
	close(ended)
	return exit
}
