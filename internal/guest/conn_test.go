package guest

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/nettest"
)

// A pipeSystem is a System that connects to its own end of a pipe, and does
// nothing else.
type pipeSystem struct {
	System
	dialled chan net.Conn // the other ends
	calls   chan string   // what was asked of it, with room
}

func newPipeSystem() *pipeSystem {
	return &pipeSystem{dialled: make(chan net.Conn, 1), calls: make(chan string, 16)}
}

func (s *pipeSystem) Boot(Bootstrap) ([]string, error) { return []string{"a\x1bwarning"}, nil }

func (s *pipeSystem) Configure(Network) error { return errors.New("no\x1bcard") }

func (s *pipeSystem) SetClock(t time.Time) error {
	s.calls <- t.UTC().String()
	return nil
}

func (s *pipeSystem) Shutdown(grace time.Duration) { s.calls <- grace.Round(time.Second).String() }

func (s *pipeSystem) ServeFiles(stream io.ReadWriteCloser) error {
	_, err := io.Copy(stream, stream)
	return err
}

func (s *pipeSystem) Dial(_ context.Context, network, address string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	s.dialled <- theirs
	return ours, nil
}

// serve runs the agent on sys and returns a client of it, and what gets Serve's
// result.
func serve(t *testing.T, sys System) (*Client, <-chan error) {
	t.Helper()
	ours, theirs := net.Pipe()
	c := NewClient(ours)
	served := make(chan error, 1)
	go func() { served <- Serve(theirs, sys) }()
	t.Cleanup(func() { c.Close() })
	return c, served
}

// TestConn holds a dialled connection to what a net.Conn promises.
func TestConn(t *testing.T) {
	t.Parallel()
	sys := newPipeSystem()
	c, _ := serve(t, sys)
	if err := c.Boot(t.Context(), Bootstrap{}); err != nil {
		t.Fatal(err)
	}
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		if c1, err = c.Dial(t.Context(), "tcp", "127.0.0.1:1"); err != nil {
			return nil, nil, nil, err
		}
		c2 = <-sys.dialled
		return c1, c2, func() { c1.Close(); c2.Close() }, nil
	})
}

// TestCloseFlushes checks that what was written before Close arrives.
func TestCloseFlushes(t *testing.T) {
	t.Parallel()
	sys := newPipeSystem()
	c, _ := serve(t, sys)
	if err := c.Boot(t.Context(), Bootstrap{}); err != nil {
		t.Fatal(err)
	}
	conn, err := c.Dial(t.Context(), "tcp", "127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	other := <-sys.dialled
	const size = 100 << 10 // of it, most is in queues when Close comes
	if _, err := conn.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if text, err := io.ReadAll(other); len(text) != size || err != nil {
		t.Errorf("%d bytes arrived, %v; want %d", len(text), err, size)
	}
}

// TestCalls checks each call's way to the System and back.
func TestCalls(t *testing.T) {
	t.Parallel()
	sys := newPipeSystem()
	c, served := serve(t, sys)
	// Nothing happens before Boot, and that happens once.
	var remote *RemoteError
	for name, err := range map[string]error{
		"Configure": c.Configure(t.Context(), Network{}),
		"SetClock":  c.SetClock(t.Context(), time.Now()),
		"SFTP":      second(c.SFTP(t.Context())),
		"Dial":      second(c.Dial(t.Context(), "tcp", "127.0.0.1:1")),
	} {
		if !errors.As(err, &remote) || remote.Message != "not booted" {
			t.Errorf("%s before Boot: %v", name, err)
		}
	}
	var failed *StartError
	if _, err := c.Start(t.Context(), Command{Args: []string{"x"}}); !errors.As(err, &failed) || failed.Code != CodeRefused {
		t.Errorf("Start before Boot: %v", err)
	}
	if err := c.Boot(t.Context(), Bootstrap{}); err != nil {
		t.Fatal(err)
	}
	if got := c.Warnings(); len(got) != 1 || got[0] != `"a\x1bwarning"` {
		t.Errorf("warnings %q; want one that a terminal can show", got)
	}
	if err := c.Boot(t.Context(), Bootstrap{}); !errors.As(err, &remote) || remote.Message != "booted already" {
		t.Errorf("a second Boot: %v", err)
	}
	if err := c.Configure(t.Context(), Network{}); !errors.As(err, &remote) || remote.Message != `"no\x1bcard"` {
		t.Errorf("Configure: %v", err)
	}
	now := time.Now()
	if err := c.SetClock(t.Context(), now); err != nil {
		t.Error(err)
	}
	if got, want := <-sys.calls, now.Round(0).UTC().String(); got != want {
		t.Errorf("the clock was set to %s; want %s", got, want)
	}
	stream, err := c.SFTP(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.WriteString(stream, "hello") }()
	if _, err := io.ReadFull(stream, make([]byte, 5)); err != nil {
		t.Errorf("the file server's stream: %v", err)
	}
	stream.Close()
	if err := c.Boot(t.Context(), Bootstrap{CA: make([]byte, maxCall)}); err == nil {
		t.Error("a message over the limit was sent")
	}
	if err := c.Shutdown(t.Context()); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if got := <-sys.calls; got != "10s" {
		t.Errorf("commands had %s; want 10s", got)
	}
	if err := <-served; err != nil {
		t.Errorf("Serve: %v; want nil after a shutdown", err)
	}
}

func second[T any](_ T, err error) error { return err }

// TestServeEndsWithItsHost checks that an agent whose host goes away, or never
// greets, says so.
func TestServeEndsWithItsHost(t *testing.T) {
	t.Parallel()
	c, served := serve(t, newPipeSystem())
	if err := c.Boot(t.Context(), Bootstrap{}); err != nil {
		t.Fatal(err)
	}
	c.Close()
	if err := <-served; err == nil {
		t.Error("Serve has no error")
	}
	for _, greeting := range []string{"", "hello\n", "SSH-2.0-other\r\n"} {
		ours, theirs := net.Pipe()
		var host sync.WaitGroup
		host.Go(func() {
			_, _ = io.WriteString(ours, greeting)
			if greeting != "SSH-2.0-other\r\n" {
				ours.Close()
				return
			}
			_, _ = io.CopyN(io.Discard, ours, int64(len(protocol)))
			ours.Close()
		})
		if err := Serve(theirs, newPipeSystem()); err == nil {
			t.Errorf("Serve of %q has no error", greeting)
		}
		host.Wait()
	}
}
