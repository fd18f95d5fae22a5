package control

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
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
	socket := filepath.Join(t.TempDir(), "s")
	l, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	s := Serve(l, sb)
	c := NewClient(socket)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		s.Shutdown(ctx)
		c.Close()
	})
	return sb, c
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

// TestExec checks what commands of every kind say.
func TestExec(t *testing.T) {
	t.Parallel()
	programs := map[string]program{
		"true": func(context.Context, *fakeProcess) Exit { return Exit{} },
		"speak": func(_ context.Context, p *fakeProcess) Exit {
			fmt.Fprint(p.outW, "one")
			return Exit{Code: 7}
		},
		"complain": func(_ context.Context, p *fakeProcess) Exit {
			fmt.Fprint(p.errW, "two")
			return Exit{Code: 8}
		},
		"die": func(context.Context, *fakeProcess) Exit { return Exit{Code: -1, Signal: 11} },
	}
	for _, tt := range []struct {
		program string
		lost    error
		want    string
	}{
		{"true", nil, "started 42\nexit 0 0\n"},
		{"speak", nil, "started 42\nout one\nexit 7 0\n"},
		{"complain", nil, "started 42\nerr two\nexit 8 0\n"},
		{"die", nil, "started 42\nexit -1 11\n"},
		{"nosuch", nil, "failed nosuch: not found 127\n"},
		{"true", &Failure{Kind: KindNotRunning, Message: "the guest died"}, "started 42\nfailed the guest died 0\n"},
	} {
		sb, c := serveGuestStub(t, programs)
		sb.lost = tt.lost
		e, err := c.Exec(t.Context(), Command{Args: []string{tt.program}})
		if err != nil {
			t.Fatal(err)
		}
		got, err := transcript(t.Context(), e)
		if got != tt.want || !errors.Is(err, io.EOF) {
			t.Errorf("%s: %q, %v, want %q", tt.program, got, err, tt.want)
		}
		for range 2 {
			if err := e.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestExecOrders checks input, signals and sizes.
func TestExecOrders(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	sb, c := serveGuestStub(t, map[string]program{
		"cat":  cat,
		"true": func(context.Context, *fakeProcess) Exit { return Exit{} },
	})
	e := startExec(t, c, Command{Args: []string{"cat"}, Stdin: true, TTY: &TTY{Rows: 1, Cols: 2, Term: "xterm"}, User: "nobody"})
	p := sb.started[0]
	if p.cmd.User != "nobody" || *p.cmd.TTY != (TTY{1, 2, "xterm"}) {
		t.Errorf("command %+v", p.cmd)
	}
	if err := errors.Join(e.Signal(ctx, 2), e.Resize(ctx, 30, 100), e.Stdin(ctx, []byte("hello")), e.CloseStdin(ctx)); err != nil {
		t.Fatal(err)
	}
	if n := <-p.signals; n != 2 {
		t.Errorf("signal %d", n)
	}
	if size := <-p.sizes; size != [2]uint16{30, 100} {
		t.Errorf("size %v", size)
	}
	if got, err := transcript(ctx, e); got != "out hello\nexit 0 0\n" || err != io.EOF {
		t.Errorf("%q, %v", got, err)
	}
	if err := e.Signal(ctx, 65); err == nil {
		t.Error("signal 65 was sent")
	}
	for e.Resize(ctx, 1, 1) == nil { // until the sandbox has hung up
	}
	if err := e.Signal(ctx, 2); !errors.Is(err, os.ErrProcessDone) || errors.Is(err, ErrGone) {
		t.Errorf("signal for a command that has ended: %v", err)
	}
	if err := e.Stdin(ctx, []byte("late")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("input behind its end: %v", err)
	}
	if err := e.CloseStdin(ctx); err != nil {
		t.Errorf("end of input again: %v", err)
	}
	ended := startExec(t, c, Command{Args: []string{"true"}, Stdin: true})
	if got, err := transcript(ctx, ended); got != "exit 0 0\n" {
		t.Fatalf("%q, %v", got, err)
	}
	if err := ended.Stdin(ctx, []byte("late")); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("input for a command that has ended: %v", err)
	}
	none := startExec(t, c, Command{Args: []string{"cat"}})
	if err := none.Stdin(ctx, []byte("x")); err == nil {
		t.Error("input for a command without stdin")
	}
}

// TestExecBulk sends much through a command, both ways at once.
func TestExecBulk(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	_, c := serveGuestStub(t, map[string]program{"cat": cat})
	e := startExec(t, c, Command{Args: []string{"cat"}, Stdin: true})
	sent, got := sha256.New(), sha256.New()
	var sender sync.WaitGroup
	sender.Go(func() {
		chunk := make([]byte, 100_000)
		for i := range 300 {
			chunk[0] = byte(i)
			sent.Write(chunk)
			if err := e.Stdin(ctx, chunk); err != nil {
				t.Error(err)
				return
			}
		}
		if err := e.CloseStdin(ctx); err != nil {
			t.Error(err)
		}
	})
	for {
		m, err := e.Recv(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if m.Kind == ExecExited {
			break
		}
		got.Write(m.Data)
	}
	sender.Wait()
	if !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
		t.Error("what came back is not what was sent")
	}
}

// TestExecStdinUnread checks that a command that doesn't read makes its input
// wait, but neither its signals nor other commands.
func TestExecStdinUnread(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	sb, c := serveGuestStub(t, map[string]program{"hang": hang, "cat": cat})
	e := startExec(t, c, Command{Args: []string{"hang"}, Stdin: true})
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if err := e.Stdin(short, make([]byte, 2*stdinWindow)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("input that nobody reads: %v", err)
	}
	if err := e.Signal(ctx, 15); err != nil || <-sb.started[0].signals != 15 {
		t.Errorf("a signal behind it: %v", err)
	}
	other := startExec(t, c, Command{Args: []string{"cat"}, Stdin: true})
	if err := errors.Join(other.Stdin(ctx, []byte("x")), other.CloseStdin(ctx)); err != nil {
		t.Fatal(err)
	}
	if got, err := transcript(ctx, other); got != "out x\nexit 0 0\n" || err != io.EOF {
		t.Errorf("beside it: %q, %v", got, err)
	}
}

// TestExecStdinRefused checks that input for a command that has closed its own
// is told of once, and doesn't block.
func TestExecStdinRefused(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	_, c := serveGuestStub(t, map[string]program{"deaf": func(ctx context.Context, p *fakeProcess) Exit {
		p.in.Close()
		return hang(ctx, p)
	}})
	e := startExec(t, c, Command{Args: []string{"deaf"}, Stdin: true})
	if err := e.Stdin(ctx, make([]byte, 4*stdinWindow)); err != nil {
		t.Fatal(err)
	}
	if m, err := e.Recv(ctx); err != nil || m.Kind != ExecStdinError || m.Failure.Kind != KindIO {
		t.Errorf("message %+v, %v", m, err)
	}
	short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	if m, err := e.Recv(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second message %+v, %v", m, err)
	}
}

// TestExecSlowReader checks that a client that doesn't receive holds up its own
// command only.
func TestExecSlowReader(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	endless := func(ctx context.Context, p *fakeProcess) Exit {
		for ctx.Err() == nil {
			if _, err := p.outW.Write(make([]byte, 4096)); err != nil {
				break
			}
		}
		return Exit{Signal: 9, Code: -1}
	}
	sb, c := serveGuestStub(t, map[string]program{"endless": endless, "cat": cat})
	slow := startExec(t, c, Command{Args: []string{"endless"}})
	for range 20 {
		e := startExec(t, c, Command{Args: []string{"cat"}, Stdin: true})
		if err := errors.Join(e.Stdin(ctx, []byte("x")), e.CloseStdin(ctx)); err != nil {
			t.Fatal(err)
		}
		if got, err := transcript(ctx, e); got != "out x\nexit 0 0\n" || err != io.EOF {
			t.Fatalf("%q, %v", got, err)
		}
	}
	if err := slow.Close(); err != nil {
		t.Error(err)
	}
	<-sb.started[0].done // killed
	if _, err := transcript(ctx, slow); !errors.Is(err, net.ErrClosed) && err != io.EOF {
		t.Errorf("after close: %v", err)
	}
}

// TestExecGone checks that a command ends with its client, also while it waits
// to be started, and a client hears of the sandbox's end.
func TestExecGone(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	sb, c := serveGuestStub(t, map[string]program{"hang": hang})
	sb.gate = make(chan struct{})
	waiting, err := c.Exec(ctx, Command{Args: []string{"hang"}})
	if err != nil {
		t.Fatal(err)
	}
	waiting.Close()
	if _, err := waiting.Recv(ctx); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed before it was started: %v", err)
	}
	close(sb.gate)
	e := startExec(t, c, Command{Args: []string{"hang"}})
	e.conn.Conn.Close() // as the end of the sandbox's process would
	if _, err := e.Recv(ctx); !errors.Is(err, ErrGone) {
		t.Errorf("the sandbox is gone: %v", err)
	}
	if err := e.Signal(ctx, 1); !errors.Is(err, ErrGone) {
		t.Errorf("a signal then: %v", err)
	}
}

// TestExecCutOff checks that a command whose sandbox was killed isn't one that has
// ended: its stream ends without a last message.
func TestExecCutOff(t *testing.T) {
	t.Parallel()
	ours, theirs := net.Pipe()
	e := &Exec{
		conn:     &stream{Conn: ours, early: bufio.NewReader(ours)},
		messages: make(chan ExecMessage, messagesHeld),
		closing:  make(chan struct{}),
		fed:      make(chan struct{}),
		room:     newCredit(0),
		stdin:    true,
	}
	go e.read()
	defer e.Close()
	theirs.Close()
	if _, err := e.Recv(t.Context()); !errors.Is(err, ErrGone) || errors.Is(err, io.EOF) {
		t.Errorf("%v, want that the sandbox is gone", err)
	}
	if err := e.Stdin(t.Context(), []byte("x")); !errors.Is(err, ErrGone) {
		t.Errorf("input: %v, want that the sandbox is gone", err)
	}
}

// TestExecKept checks that a command that is to be kept goes on without its
// client: a pipe ends, a terminal doesn't.
func TestExecKept(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	told := make(chan string, 1)
	sb, c := serveGuestStub(t, map[string]program{
		"flood": func(ctx context.Context, p *fakeProcess) Exit {
			_, err := p.outW.Write(make([]byte, 10<<20))
			told <- fmt.Sprint("wrote ", err)
			return Exit{}
		},
		"read": func(ctx context.Context, p *fakeProcess) Exit {
			text, err := io.ReadAll(p.in)
			told <- fmt.Sprintf("read %s %v", text, err)
			return Exit{}
		},
	})
	for _, tt := range []struct {
		cmd  Command
		want string
	}{
		{Command{Args: []string{"flood"}, Keep: true}, "wrote <nil>"},
		{Command{Args: []string{"read"}, Keep: true, Stdin: true}, "read x <nil>"},
	} {
		e := startExec(t, c, tt.cmd)
		if tt.cmd.Stdin {
			if err := e.Stdin(ctx, []byte("x")); err != nil {
				t.Fatal(err)
			}
		}
		e.Close()
		if got := <-told; got != tt.want {
			t.Errorf("%s: %q, want %q", tt.cmd.Args[0], got, tt.want)
		}
	}
	e := startExec(t, c, Command{Args: []string{"read"}, Keep: true, TTY: &TTY{}})
	e.Close()
	select {
	case got := <-told:
		t.Errorf("a terminal's input has ended: %s", got)
	case <-time.After(20 * time.Millisecond):
	}
	sb.mu.Lock()
	defer sb.mu.Unlock()
	sb.started[len(sb.started)-1].Close()
	<-told
}

// TestShutdownCuts checks that a server's end ends streams that don't end
// themselves, and that there are none afterwards.
func TestShutdownCuts(t *testing.T) {
	t.Parallel()
	sb := &guestStub{stub: newStub(), programs: map[string]program{"hang": hang}}
	socket := filepath.Join(t.TempDir(), "s")
	l, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	s := Serve(l, sb)
	c := NewClient(socket)
	defer c.Close()
	e := startExec(t, c, Command{Args: []string{"hang"}})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	s.Shutdown(ctx)
	<-sb.started[0].done
	if _, err := e.Recv(t.Context()); !errors.Is(err, ErrGone) {
		t.Errorf("after the end: %v", err)
	}
	if err := s.streams.reserve(new(stream)); err == nil {
		t.Error("takes streams after its end")
	}
}

// TestStreams checks files and connections.
func TestStreams(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	_, c := serveGuestStub(t, nil)
	files, err := c.SFTP(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer files.Close()
	conn, err := c.Dial(ctx, "tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for name, rw := range map[string]io.ReadWriter{"sftp": files, "dial": conn} {
		if _, err := io.WriteString(rw, "hello."); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(rw); err != nil || string(got) != "hello.bye" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	var f *Failure
	if _, err := c.Dial(ctx, "tcp", "refused"); !errors.As(err, &f) || f.Kind != KindIO {
		t.Errorf("refused: %v", err)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := c.SFTP(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestUpgradeRefused checks requests that aren't upgrades, and the bound.
func TestUpgradeRefused(t *testing.T) {
	t.Parallel()
	sb := &guestStub{stub: newStub(), programs: map[string]program{"cat": cat}}
	h := &handler{sb: sb, streams: newStreams()}
	post := func(upgrade string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodPost, "/v1/exec", strings.NewReader(`{"args":["cat"]}`))
		if upgrade != "" {
			r.Header.Set("Connection", "Upgrade")
			r.Header.Set("Upgrade", upgrade)
		}
		h.mux().ServeHTTP(w, r)
		return w
	}
	for _, upgrade := range []string{"", "sluice-exec/2", "websocket"} {
		if w := post(upgrade); w.Code != http.StatusUpgradeRequired || w.Header().Get("Upgrade") != execProtocol {
			t.Errorf("upgrade %q: %d %s", upgrade, w.Code, w.Body)
		}
	}
	if w := post(execProtocol); w.Code != http.StatusInternalServerError && w.Code != http.StatusNotImplemented { // a recorder can't
		t.Errorf("%d %s", w.Code, w.Body)
	}
	for range maxStreams {
		if err := h.streams.reserve(new(stream)); err != nil {
			t.Fatal(err)
		}
	}
	if w := post(execProtocol); !strings.Contains(w.Body.String(), "streams are open already") {
		t.Errorf("over the bound: %d %s", w.Code, w.Body)
	}
}

// FuzzCarrier checks that no client makes a sandbox's side panic, hang or hold
// more than its window.
func FuzzCarrier(f *testing.F) {
	f.Add([]byte("\x01\x00\x00\x00\x02ab\x02\x00\x00\x00\x00"))
	f.Add([]byte("\x03\x00\x00\x00\x0d{\"signal\":15}\x04\x00\x00\x00\x15{\"rows\":24,\"cols\":80}"))
	f.Add([]byte("\x02\x00\x00\x00\x00\x01\x00\x00\x00\x01x"))
	f.Fuzz(func(t *testing.T, in []byte) {
		here, there := net.Pipe()
		c := &carrier{conn: &stream{Conn: here}, orders: make(chan order, ordersHeld), input: newInbox()}
		ctx, cancel := context.WithCancelCause(t.Context())
		var all sync.WaitGroup
		all.Go(func() {
			defer here.Close()
			cancel(c.receive(ctx))
		})
		sb := &guestStub{programs: map[string]program{"cat": cat}}
		all.Go(func() {
			c.carry(ctx, sb, Command{Args: []string{"cat"}})
			here.Close()
		})
		all.Go(func() { _, _ = io.Copy(io.Discard, there) })
		_, _ = there.Write(in) // refused at the first mistake
		there.Close()
		all.Wait()
		if n := c.input.held.Len(); n > stdinWindow {
			t.Errorf("holds %d bytes", n)
		}
	})
}
