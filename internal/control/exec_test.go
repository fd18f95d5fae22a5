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
	"os"
	"sync"
	"testing"
	"time"
)

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
