package guest

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
)

// A fakeSystem is a System that remembers what it was told.
type fakeSystem struct {
	bootErr  error
	startErr error

	mu      sync.Mutex // guards the following fields
	booted  []Bootstrap
	nets    []Network
	started []Command
	signals []int
	exit    chan Exit // what the command's Wait returns
}

func (s *fakeSystem) Boot(b Bootstrap) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.booted = append(s.booted, b)
	return s.bootErr
}

func (s *fakeSystem) Configure(n Network) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nets = append(s.nets, n)
	return nil
}

func (s *fakeSystem) Start(c Command) (Process, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.started = append(s.started, c)
	if s.startErr != nil {
		return nil, s.startErr
	}
	return s, nil
}

// Signal ends the command.
func (s *fakeSystem) Signal(n int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.signals) > 0 {
		return os.ErrProcessDone
	}
	s.signals = append(s.signals, n)
	s.exit <- Exit{Code: -1, Signal: n}
	return nil
}

func (s *fakeSystem) Wait() Exit { return <-s.exit }

// serve runs the agent on sys and returns a client of it, and a channel that
// gets what Serve returns.
func serve(t *testing.T, sys *fakeSystem) (*Client, <-chan error) {
	t.Helper()
	sys.exit = make(chan Exit, 8)
	ours, theirs := net.Pipe()
	served := make(chan error, 1)
	go func() {
		_, err := Serve(theirs, sys)
		served <- err
	}()
	c := NewClient(ours)
	t.Cleanup(func() { c.Close() })
	return c, served
}

func TestServeRunsOneCommand(t *testing.T) {
	t.Parallel()
	sys := &fakeSystem{}
	c, served := serve(t, sys)
	if err := c.Boot(t.Context(), Bootstrap{Hostname: "box"}); err != nil {
		t.Fatal(err)
	}
	sys.exit <- Exit{Code: 9}
	exit, err := c.Run(t.Context(), Command{Args: []string{"a", "b"}, Env: []string{"C=d"}, Dir: "/e"})
	if err != nil || exit != (Exit{Code: 9}) {
		t.Errorf("Run = %+v, %v; want code 9", exit, err)
	}
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if len(sys.booted) != 1 || sys.booted[0].Hostname != "box" || len(sys.started) != 1 || sys.started[0].Dir != "/e" {
		t.Errorf("the system was told %+v, %+v", sys.booted, sys.started)
	}
	if _, err := c.Run(t.Context(), Command{Args: []string{"a"}}); err == nil || !strings.Contains(err.Error(), "ended") {
		t.Errorf("Run after the end = %v; want an error that says so", err)
	}
}

func TestServeRefusesOutOfOrder(t *testing.T) {
	t.Parallel()
	c, _ := serve(t, &fakeSystem{})
	refused := func(what string, err error) {
		t.Helper()
		var remote *RemoteError
		var start *StartError
		if !errors.As(err, &remote) && !errors.As(err, &start) {
			t.Errorf("%s = %v; want the agent's refusal", what, err)
		}
	}
	_, err := c.Run(t.Context(), Command{Args: []string{"a"}})
	refused("Run before Boot", err)
	refused("Configure before Boot", c.Configure(t.Context(), Network{}))
	if err := c.Boot(t.Context(), Bootstrap{}); err != nil {
		t.Fatal(err)
	}
	refused("a second Boot", c.Boot(t.Context(), Bootstrap{}))
	if err := c.Configure(t.Context(), Network{}); err != nil {
		t.Errorf("Configure after Boot: %v", err)
	}
}

func TestServeRefusesSecondCommand(t *testing.T) {
	t.Parallel()
	c, served := serve(t, &fakeSystem{})
	if err := c.Boot(t.Context(), Bootstrap{}); err != nil {
		t.Fatal(err)
	}
	// Whichever comes second is refused, while the first runs on.
	type outcome struct {
		exit Exit
		err  error
	}
	ended := make(chan outcome, 2)
	for range 2 {
		go func() {
			exit, err := c.Run(t.Context(), Command{Args: []string{"a"}})
			ended <- outcome{exit, err}
		}()
	}
	var start *StartError
	if o := <-ended; !errors.As(o.err, &start) || start.Code != CodeRefused {
		t.Errorf("the second Run = %+v, %v; want code 125", o.exit, o.err)
	}
	if err := c.Signal(15); err != nil {
		t.Error(err)
	}
	if o := <-ended; o.err != nil || o.exit.Signal != 15 {
		t.Errorf("the first Run = %+v, %v; want signal 15", o.exit, o.err)
	}
	<-served
}

func TestServePassesFailures(t *testing.T) {
	t.Parallel()
	sys := &fakeSystem{bootErr: errors.New("no card\x1b[2J"), startErr: &StartError{Code: CodeNotFound, Message: "x: gone"}}
	c, _ := serve(t, sys)
	err := c.Boot(t.Context(), Bootstrap{})
	if err == nil || err.Error() != `boot: agent: "no card\x1b[2J"` {
		t.Errorf("Boot = %v; want the reason, quoted", err)
	}
	sys.bootErr = nil
	if err := c.Boot(t.Context(), Bootstrap{}); err != nil {
		t.Fatal(err)
	}
	_, err = c.Run(t.Context(), Command{Args: []string{"x"}})
	var start *StartError
	if !errors.As(err, &start) || start.Code != CodeNotFound || err.Error() != "start command: x: gone" {
		t.Errorf("Run = %v; want the StartError", err)
	}
	sys.startErr = errors.New(strings.Repeat("ä", 1<<20))
	if _, err = c.Run(t.Context(), Command{Args: []string{"x"}}); !errors.As(err, &start) || start.Code != CodeRefused {
		t.Errorf("Run = %.80v; want a StartError with code 125", err)
	}
}

func TestServeEndsWithTheStream(t *testing.T) {
	t.Parallel()
	sys := &fakeSystem{}
	c, served := serve(t, sys)
	if err := c.Boot(t.Context(), Bootstrap{}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Run(ctx, Command{Args: []string{"a"}}); !errors.Is(err, context.Canceled) {
		t.Errorf("Run = %v; want cancelled", err)
	}
	c.Close()
	if err := <-served; err == nil {
		t.Error("Serve has no error although the host went away")
	}
}

func TestServePassesTheNetworkOn(t *testing.T) {
	t.Parallel()
	sys := &fakeSystem{}
	c, _ := serve(t, sys)
	n := Network{Interface: "eth0", MTU: 1400, Default4: true, GatewayMAC: HardwareAddr{2, 0, 0, 0, 0, 1}}
	if err := c.Boot(t.Context(), Bootstrap{Network: &n}); err != nil {
		t.Fatal(err)
	}
	n.Default4 = false
	if err := c.Configure(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	got := sys.booted[0].Network
	if got == nil || got.MTU != 1400 || !got.Default4 || got.GatewayMAC.String() != "02:00:00:00:00:01" {
		t.Errorf("Boot was told %+v", got)
	}
	if len(sys.nets) != 1 || sys.nets[0].Default4 || sys.nets[0].Interface != "eth0" {
		t.Errorf("Configure was told %+v", sys.nets)
	}
}

// The agent trusts its host, but not every bit of its stream: a message that
// isn't one ends it.
func TestServeEndsAtAMalformedRequest(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name string
		data []byte
	}{
		{"too long", []byte{0xff, 0, 0, 0}},
		{"no JSON", framed("x")},
		{"a later version", framed(`{"v":2,"id":1,"kind":"signal","signal":9}`)},
		{"nothing to run", framed(`{"v":1,"id":1,"kind":"run","command":{"args":[]}}`)},
		{"no signal", framed(`{"v":1,"id":1,"kind":"signal"}`)},
		{"cut off", framed(`{"v":1}`)[:6]},
	} {
		ours, theirs := net.Pipe()
		go func() {
			_, _ = ours.Write(row.data)
			ours.Close()
		}()
		if _, err := Serve(theirs, &fakeSystem{}); err == nil {
			t.Errorf("%s: Serve has no error", row.name)
		}
	}
}

func TestServeAnswersAReplyWithARefusal(t *testing.T) {
	t.Parallel()
	ours, theirs := net.Pipe()
	go func() { _, _ = Serve(theirs, &fakeSystem{}) }()
	defer ours.Close()
	if _, err := ours.Write(framed(`{"v":1,"id":5,"kind":"done"}`)); err != nil {
		t.Fatal(err)
	}
	reply, err := readMessage(ours, maxReply)
	if err != nil || reply.ID != 5 || reply.Error == "" {
		t.Errorf("the reply is %+v, %v; want a refusal of request 5", reply, err)
	}
}
