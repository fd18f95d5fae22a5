package control

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
)

// A program is what a fakeProcess runs. It should return when its stdin ends or
// ctx does.
type program func(ctx context.Context, p *fakeProcess) Exit

// A fakeProcess is a Process that is a goroutine of the test.
type fakeProcess struct {
	cmd        Command
	in         *io.PipeReader
	inW        *io.PipeWriter
	out, err   *io.PipeReader
	outW, errW *io.PipeWriter
	signals    chan int
	sizes      chan [2]uint16
	cancel     context.CancelFunc
	done       chan struct{}
	exit       Exit
	lost       error // Wait's error, if there is one
}

func startFake(cmd Command, run program) *fakeProcess {
	ctx, cancel := context.WithCancel(context.Background())
	p := &fakeProcess{cmd: cmd, signals: make(chan int, 8), sizes: make(chan [2]uint16, 8), cancel: cancel, done: make(chan struct{})}
	p.in, p.inW = io.Pipe()
	p.out, p.outW = io.Pipe()
	p.err, p.errW = io.Pipe()
	go func() {
		defer close(p.done)
		p.exit = run(ctx, p)
		p.outW.Close()
		p.errW.Close()
		p.in.Close()
	}()
	return p
}

func (p *fakeProcess) PID() uint32                           { return 42 }
func (p *fakeProcess) Session() uint64                       { return 7 }
func (p *fakeProcess) Stdin() io.WriteCloser                 { return p.inW }
func (p *fakeProcess) Stdout() io.Reader                     { return p.out }
func (p *fakeProcess) Stderr() io.Reader                     { return p.err }
func (p *fakeProcess) Signal(_ context.Context, n int) error { p.signals <- n; return nil }
func (p *fakeProcess) Resize(_ context.Context, r, c uint16) error {
	p.sizes <- [2]uint16{r, c}
	return nil
}
func (p *fakeProcess) Wait(context.Context) (Exit, error) { <-p.done; return p.exit, p.lost }
func (p *fakeProcess) Close() error {
	p.cancel()
	p.in.CloseWithError(io.ErrClosedPipe)
	p.out.Close()
	p.err.Close()
	<-p.done
	return nil
}

// A guestStub is a Sandbox whose guest runs programs by name.
type guestStub struct {
	*stub
	programs map[string]program
	lost     error
	gate     chan struct{} // unless nil, commands wait for it to be closed

	mu      sync.Mutex // guards the following field
	started []*fakeProcess
}

func (s *guestStub) Exec(ctx context.Context, cmd Command) (Process, error) {
	if s.gate != nil {
		select {
		case <-s.gate:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	run, ok := s.programs[cmd.Args[0]]
	if !ok {
		return nil, &Failure{Kind: KindExecFailed, Message: cmd.Args[0] + ": not found", Code: 127}
	}
	p := startFake(cmd, run)
	p.lost = s.lost
	s.mu.Lock()
	defer s.mu.Unlock()
	s.started = append(s.started, p)
	return p, nil
}

func (s *guestStub) SFTP(context.Context) (io.ReadWriteCloser, error) { return echo(), nil }

func (s *guestStub) Dial(_ context.Context, network, address string) (io.ReadWriteCloser, error) {
	if address == "refused" {
		return nil, &Failure{Kind: KindIO, Message: network + " refused"}
	}
	return echo(), nil
}

// echo returns a connection whose other end sends back what it gets, then "bye"
// when our side has ended.
func echo() io.ReadWriteCloser {
	here, there := net.Pipe()
	go func() {
		defer there.Close()
		var all []byte
		buf := make([]byte, 1024)
		for {
			n, err := there.Read(buf)
			all = append(all, buf[:n]...)
			if bytes.HasSuffix(all, []byte(".")) {
				_, _ = there.Write(append(all, "bye"...))
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return here
}

// cat copies its input.
func cat(_ context.Context, p *fakeProcess) Exit {
	_, _ = io.Copy(p.outW, p.in)
	return Exit{}
}

// hang waits to be killed.
func hang(ctx context.Context, _ *fakeProcess) Exit {
	<-ctx.Done()
	return Exit{Code: -1, Signal: 9}
}

// serveGuestStub serves a guest on a socket.
func serveGuestStub(t *testing.T, programs map[string]program) (*guestStub, *Client) {
	t.Helper()
	sb := &guestStub{stub: newStub(), programs: programs}
	return sb, serve(t, sb)
}

// start starts a command and receives its first message.
func startExec(t *testing.T, c *Client, cmd Command) *Exec {
	t.Helper()
	e, err := c.Exec(t.Context(), cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	if m, err := e.Recv(t.Context()); err != nil || m.Kind != ExecStarted || m.PID != 42 || m.Session != 7 {
		t.Fatalf("first message %+v, %v", m, err)
	}
	return e
}

// transcript receives everything as text.
func transcript(ctx context.Context, e *Exec) (string, error) {
	var b strings.Builder
	for {
		m, err := e.Recv(ctx)
		if err != nil {
			return b.String(), err
		}
		switch m.Kind {
		case ExecStarted:
			fmt.Fprintf(&b, "started %d\n", m.PID)
		case ExecStdout:
			fmt.Fprintf(&b, "out %s\n", m.Data)
		case ExecStderr:
			fmt.Fprintf(&b, "err %s\n", m.Data)
		case ExecStdinError:
			fmt.Fprintf(&b, "stdin error\n")
		case ExecExited:
			fmt.Fprintf(&b, "exit %d %d\n", m.Exit.Code, m.Exit.Signal)
		case ExecFailed:
			fmt.Fprintf(&b, "failed %s %d\n", m.Failure.Message, m.Failure.Code)
		}
	}
}
