package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicenet/sluice/internal/control"
)

// started starts a sandbox's process and returns a client of it; both end with
// the test.
func started(t *testing.T, cfg testConfig) (*Process, *control.Client) {
	t.Helper()
	needNamespaces(t)
	p, err := launch(t.Context(), testDirs(t), "commands", cfg)
	if err != nil {
		t.Fatal(err)
	}
	c := control.NewClient(p.Ready().Socket)
	t.Cleanup(func() {
		c.Close()
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p, c
}

// sh returns a command of the shell.
func sh(script string) control.Command {
	return control.Command{Args: []string{"sh", "-c", script}, Env: []string{"PATH=/bin:/usr/bin"}}
}

// An outcome is all that a command said.
type outcome struct {
	out, errs string
	exit      control.Exit
	failure   *control.Failure
	session   uint64
}

// run runs a command to its end, with the given input.
func run(ctx context.Context, c *control.Client, cmd control.Command, input string) (outcome, error) {
	e, err := c.Exec(ctx, cmd)
	if err != nil {
		return outcome{}, err
	}
	defer e.Close()
	var feeder sync.WaitGroup
	defer feeder.Wait()
	if cmd.Stdin {
		feeder.Go(func() {
			_ = e.Stdin(ctx, []byte(input)) // the command may have ended
			_ = e.CloseStdin(ctx)
		})
	}
	var o outcome
	for {
		m, err := e.Recv(ctx)
		if errors.Is(err, io.EOF) {
			return o, nil
		}
		if err != nil {
			return o, err
		}
		switch m.Kind {
		case control.ExecStarted:
			o.session = m.Session
		case control.ExecStdout:
			o.out += string(m.Data)
		case control.ExecStderr:
			o.errs += string(m.Data)
		case control.ExecExited:
			o.exit = m.Exit
		case control.ExecFailed:
			o.failure = m.Failure
		}
	}
}

// TestCommands runs commands in one guest: their streams, ends, users and
// terminals.
func TestCommands(t *testing.T) {
	t.Parallel()
	_, c := started(t, testConfig{})
	ctx := t.Context()
	in := func(cmd control.Command) control.Command { cmd.Stdin = true; return cmd }
	with := func(cmd control.Command, change func(*control.Command)) control.Command { change(&cmd); return cmd }
	for _, tt := range []struct {
		name  string
		cmd   control.Command
		input string
		want  outcome
	}{
		{"output", sh("echo out; echo err >&2"), "", outcome{out: "out\n", errs: "err\n"}},
		{"code", sh("exit 42"), "", outcome{exit: control.Exit{Code: 42}}},
		{"signal", sh("kill -9 $$"), "", outcome{exit: control.Exit{Code: -1, Signal: 9}}},
		{"no input", sh("cat"), "", outcome{}},
		{"input", in(sh("cat; echo end")), "hello\n", outcome{out: "hello\nend\n"}},
		{"environment", with(sh("echo $A"), func(c *control.Command) { c.Env = append(c.Env, "A=b c") }), "", outcome{out: "b c\n"}},
		{"directory", with(sh("pwd"), func(c *control.Command) { c.Dir = "/usr" }), "", outcome{out: "/usr\n"}},
		{"user", with(sh("id -u; id -g"), func(c *control.Command) { c.User = "1234:5678" }), "", outcome{out: "1234\n5678\n"}},
		{"terminal", with(sh("stty size; test -t 2 && echo tty"), func(c *control.Command) { c.TTY = &control.TTY{Rows: 33, Cols: 77} }), "", outcome{out: "33 77\r\ntty\r\n"}},
		{"not found", control.Command{Args: []string{"nosuch"}}, "", outcome{failure: &control.Failure{Code: 127}}},
		{"not executable", control.Command{Args: []string{"/etc/passwd"}}, "", outcome{failure: &control.Failure{Code: 126}}},
	} {
		got, err := run(ctx, c, tt.cmd, tt.input)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if tt.want.failure != nil {
			if got.failure == nil || got.failure.Code != tt.want.failure.Code || got.failure.Kind != control.KindExecFailed {
				t.Errorf("%s: %+v, %+v", tt.name, got, got.failure)
			}
			continue
		}
		if got.out != tt.want.out || got.errs != tt.want.errs || got.exit != tt.want.exit || got.failure != nil {
			t.Errorf("%s: %+v (%v), want %+v", tt.name, got, got.failure, tt.want)
		}
	}
}

// TestCommandsTogether checks that commands don't wait for each other: an
// interactive one answers while another floods, and the reader of a third doesn't
// read. SLUICE_LARGE=1 floods with 1 GiB, and wants 99 of 100 echos within 50 ms.
func TestCommandsTogether(t *testing.T) {
	t.Parallel()
	size, large := 20<<20, os.Getenv("SLUICE_LARGE") == "1"
	if large {
		size = 1 << 30
	}
	_, c := started(t, testConfig{})
	ctx := t.Context()
	deaf, err := c.Exec(ctx, sh("yes")) // nobody receives
	if err != nil {
		t.Fatal(err)
	}
	defer deaf.Close()
	begun, flooded := time.Now(), make(chan struct{})
	go func() {
		defer close(flooded)
		if n, err := countOutput(ctx, c, sh(fmt.Sprintf("head -c %d /dev/zero", size))); err != nil || n != size {
			t.Errorf("%d bytes, %v", n, err)
		}
	}()
	cmd := sh("cat")
	cmd.Stdin = true
	e, err := c.Exec(ctx, cmd)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if m, err := e.Recv(ctx); err != nil || m.Kind != control.ExecStarted {
		t.Fatalf("%+v, %v", m, err)
	}
	var echos []time.Duration
	for flooding := true; flooding; {
		line, begun := fmt.Appendf(nil, "%d\n", len(echos)), time.Now()
		if err := e.Stdin(ctx, line); err != nil {
			t.Fatal(err)
		}
		if m, err := e.Recv(ctx); err != nil || !bytes.Equal(m.Data, line) {
			t.Fatalf("echo %+v, %v", m, err)
		}
		echos = append(echos, time.Since(begun))
		select {
		case <-flooded:
			flooding = false
		case <-time.After(time.Millisecond): // as a fast typist
		}
	}
	slices.Sort(echos)
	p99 := echos[len(echos)*99/100]
	t.Logf("%d MiB in %v; %d echos beside it, p99 %v", size>>20, time.Since(begun).Round(time.Millisecond), len(echos), p99)
	if large && p99 > 50*time.Millisecond {
		t.Errorf("p99 of echos is %v", p99)
	}
}

// countOutput runs a command and counts what it writes.
func countOutput(ctx context.Context, c *control.Client, cmd control.Command) (int, error) {
	e, err := c.Exec(ctx, cmd)
	if err != nil {
		return 0, err
	}
	defer e.Close()
	for n := 0; ; {
		m, err := e.Recv(ctx)
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		n += len(m.Data)
	}
}

// TestCommandKilled checks that a command ends with its client, its group with
// it, and that signals reach it.
func TestCommandKilled(t *testing.T) {
	t.Parallel()
	_, c := started(t, testConfig{})
	ctx := t.Context()
	e, err := c.Exec(ctx, sh("sleep 1000 & sleep 1000"))
	if err != nil {
		t.Fatal(err)
	}
	if m, err := e.Recv(ctx); err != nil || m.Kind != control.ExecStarted {
		t.Fatalf("%+v, %v", m, err)
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	for { // the kill is on its way
		got, err := run(ctx, c, sh("ls /proc | grep -c '^[0-9]'; cat /proc/[0-9]*/comm"), "")
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(got.out, "sleep") {
			break
		}
	}
	trap, err := c.Exec(ctx, sh("trap 'echo got it; exit 3' USR1; sleep 1000 & echo ready; wait"))
	if err != nil {
		t.Fatal(err)
	}
	defer trap.Close()
	var said string
	for {
		m, err := trap.Recv(ctx)
		if err != nil {
			t.Fatal(err)
		}
		said += string(m.Data)
		if m.Kind == control.ExecStdout && said == "ready\n" {
			if err := trap.Signal(ctx, 10); err != nil {
				t.Fatal(err)
			}
		}
		if m.Kind == control.ExecExited {
			if said != "ready\ngot it\n" || m.Exit.Code != 3 {
				t.Errorf("said %q, %+v", said, m.Exit)
			}
			return
		}
	}
}

// TestCommandLog checks what the log says of commands.
func TestCommandLog(t *testing.T) {
	t.Parallel()
	_, c := started(t, testConfig{})
	ctx := t.Context()
	first, err := run(ctx, c, sh("echo one; echo two >&2; exit 3"), "")
	if err != nil {
		t.Fatal(err)
	}
	tty := sh("echo three")
	tty.TTY = &control.TTY{Rows: 24, Cols: 80}
	second, err := run(ctx, c, tty, "")
	if err != nil {
		t.Fatal(err)
	}
	if first.session == 0 || second.session == first.session {
		t.Errorf("sessions %d and %d", first.session, second.session)
	}
	stream, err := c.Logs(ctx, control.LogQuery{})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	got := make(map[string]string)
	for {
		entry, err := stream.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if entry.Session == 0 || entry.Cursor == "" || time.Since(entry.Time) > time.Minute {
			t.Errorf("entry %+v", entry)
		}
		got[fmt.Sprint(entry.Session, " ", entry.Source)] += string(entry.Data)
	}
	for key, want := range map[string]string{
		fmt.Sprint(first.session, " stdout"):  "one\n",
		fmt.Sprint(first.session, " stderr"):  "two\n",
		fmt.Sprint(second.session, " output"): "three\r\n",
	} {
		if got[key] != want {
			t.Errorf("%s: %q, want %q", key, got[key], want)
		}
	}
	if system := got[fmt.Sprint(first.session, " system")]; !strings.Contains(system, "runs as process") || !strings.Contains(system, "ended with code 3") {
		t.Errorf("system: %q", system)
	}
}

// TestDial connects to the guest by its card and from inside.
func TestDial(t *testing.T) {
	t.Parallel()
	_, c := started(t, public)
	ctx := t.Context()
	if _, err := c.Dial(ctx, "tcp", "127.0.0.1:9"); kind(err) != control.KindIO {
		t.Errorf("nobody listens: %v", err)
	}
	for _, tt := range [][2]string{{"udp", ":80"}, {"tcp", "nonsense"}, {"tcp", ":0"}} {
		if _, err := c.Dial(ctx, tt[0], tt[1]); kind(err) != control.KindArgument {
			t.Errorf("%s %s: %v", tt[0], tt[1], err)
		}
	}
	for _, address := range []string{":8080", "localhost:8080"} {
		e, err := c.Exec(ctx, sh("busybox nc -l -p 8080 -e sh -c 'read x; echo got $x'"))
		if err != nil {
			t.Fatal(err)
		}
		var conn net.Conn
		for { // until it listens
			if conn, err = c.Dial(ctx, "tcp", address); err == nil {
				break
			}
		}
		if _, err := io.WriteString(conn, "this\n"); err != nil {
			t.Error(err)
		}
		if got, err := io.ReadAll(conn); err != nil || string(got) != "got this\n" {
			t.Errorf("%s: %q, %v", address, got, err)
		}
		conn.Close()
		e.Close()
	}
}

// TestMetrics checks what is measured of a running sandbox.
func TestMetrics(t *testing.T) {
	t.Parallel()
	_, c := started(t, public)
	ctx := t.Context()
	before, err := c.Metrics(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := run(ctx, c, sh("i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"), ""); err != nil {
		t.Fatal(err)
	}
	after, err := c.Metrics(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if after.VCPUTimeNs <= before.VCPUTimeNs || after.CPUPercent <= 0 || after.MemoryBytes < 1<<20 || *after.MemoryHostResidentBytes < 1<<20 || after.Uptime <= before.Uptime {
		t.Errorf("before %+v, after %+v", before, after)
	}
}

// TestDrain checks that a draining sandbox takes no command and ends with the
// last.
func TestDrain(t *testing.T) {
	t.Parallel()
	p, c := started(t, testConfig{})
	ctx := t.Context()
	cmd := sh("read x")
	cmd.Stdin = true
	e, err := c.Exec(ctx, cmd)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if m, err := e.Recv(ctx); err != nil || m.Kind != control.ExecStarted {
		t.Fatalf("%+v, %v", m, err)
	}
	if err := c.Drain(ctx); err != nil {
		t.Fatal(err)
	}
	if got, err := run(ctx, c, sh("true"), ""); err != nil || got.failure == nil || got.failure.Kind != control.KindNotRunning {
		t.Errorf("a new command: %+v, %v", got, err)
	}
	if err := e.CloseStdin(ctx); err != nil {
		t.Fatal(err)
	}
	<-p.Exited()
	if ended := p.Ended(); ended == nil || ended.Source != control.SourceDrain {
		t.Errorf("ended %+v", ended)
	}
}
