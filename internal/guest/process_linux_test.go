package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// start starts a command that is closed with the test.
func (g *testGuest) start(t *testing.T, c Command) *Process {
	t.Helper()
	p, err := g.Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// shell is the command of a shell's line.
func shell(line string) Command { return Command{Args: []string{"sh", "-c", line}} }

// wait waits for a command's end.
func wait(t *testing.T, p *Process) Exit {
	t.Helper()
	exit, err := p.Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return exit
}

// until reads from r until it has read text.
func until(t *testing.T, r io.Reader, text string) string {
	t.Helper()
	var got bytes.Buffer
	for !strings.Contains(got.String(), text) {
		buf := make([]byte, 256)
		n, err := r.Read(buf)
		got.Write(buf[:n])
		if err != nil {
			t.Fatalf("%v after %q; want %q", err, got.String(), text)
		}
	}
	return got.String()
}

func TestStreamsAreApart(t *testing.T) {
	t.Parallel()
	g := bootGuest(t, nil)
	// A reader of one only must not be in the way of the other: each has more
	// than a pipe and a window.
	const size = 4 << 20
	p := g.start(t, shell(fmt.Sprintf("head -c %d /dev/zero >&2; head -c %d /dev/zero", size, size)))
	if n, err := io.ReadFull(p.Stderr(), make([]byte, size)); err != nil {
		t.Errorf("standard error has %d bytes, %v; want %d", n, err, size)
	}
	out, err := io.ReadAll(p.Stdout())
	if err != nil || len(out) != size {
		t.Errorf("standard output has %d bytes, %v; want %d", len(out), err, size)
	}
	if n, err := p.Stderr().Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("standard error goes on: %d, %v", n, err)
	}
	if exit := wait(t, p); exit != (Exit{}) {
		t.Errorf("ended %+v", exit)
	}
}

func TestStdin(t *testing.T) {
	t.Parallel()
	g := bootGuest(t, nil)
	// Without a pipe it is at its end.
	if out, _ := g.sh(t, "cat; echo end"); out != "end\n" {
		t.Errorf("without a standard input: %q", out)
	}
	c := Command{Args: []string{"cat"}, Stdin: true}
	p := g.start(t, c)
	text := bytes.Repeat([]byte("0123456789abcdef"), 1<<17) // 2 MiB, through every queue
	go func() {
		_, _ = p.Stdin().Write(text)
		p.Stdin().Close()
	}()
	if out, err := io.ReadAll(p.Stdout()); err != nil || !bytes.Equal(out, text) {
		t.Errorf("%d bytes came back, %v; want %d", len(out), err, len(text))
	}
	if exit := wait(t, p); exit != (Exit{}) {
		t.Errorf("ended %+v", exit)
	}
	if _, err := p.Stdin().Write([]byte("x")); err == nil {
		t.Error("a write after the end has no error")
	}
	// A command that reads no more.
	p = g.start(t, Command{Args: []string{"sh", "-c", "exec <&-; echo closed; sleep 600"}, Stdin: true})
	until(t, p.Stdout(), "closed\n")
	var err error
	for begin := time.Now(); err == nil && time.Since(begin) < time.Minute; {
		_, err = p.Stdin().Write(make([]byte, 1024))
	}
	if !errors.Is(err, syscall.EPIPE) {
		t.Errorf("a write that nobody can read: %v; want EPIPE", err)
	}
}

func TestTerminal(t *testing.T) {
	t.Parallel()
	g := bootGuest(t, nil)
	c := shell(`tty >/dev/null && test -t 1 && test -t 2 && echo $TERM && stty size && : </dev/tty && echo controlled; trap 'stty size; exit 3' WINCH; echo ready; while :; do sleep 0.02; done`)
	c.TTY = &TTY{Rows: 33, Cols: 77, Term: "vt220"}
	p := g.start(t, c)
	got := until(t, p.Stdout(), "ready\r\n")
	if want := "vt220\r\n33 77\r\ncontrolled\r\nready\r\n"; got != want {
		t.Errorf("got %q; want %q", got, want)
	}
	if err := p.Resize(t.Context(), 50, 132); err != nil {
		t.Fatal(err)
	}
	until(t, p.Stdout(), "50 132\r\n")
	if exit := wait(t, p); exit.Code != 3 {
		t.Errorf("ended %+v; want 3", exit)
	}
	if _, err := io.ReadAll(p.Stderr()); err != nil {
		t.Error(err)
	}

	// What is typed is echoed, Ctrl-C is a signal, and an end of input Ctrl-D.
	p = g.start(t, Command{Args: []string{"cat"}, TTY: &TTY{}})
	fmt.Fprint(p.Stdin(), "typed\n")
	until(t, p.Stdout(), "typed\r\ntyped\r\n")
	fmt.Fprint(p.Stdin(), "\x03")
	if exit := wait(t, p); exit.Signal != int(unix.SIGINT) {
		t.Errorf("after Ctrl-C ended %+v; want signal 2", exit)
	}
	p = g.start(t, Command{Args: []string{"cat"}, TTY: &TTY{}})
	p.Stdin().Close()
	if exit := wait(t, p); exit != (Exit{}) {
		t.Errorf("after the end of input ended %+v", exit)
	}
}

func TestCommandsAreKilledWithTheirProcess(t *testing.T) {
	t.Parallel()
	g := bootGuest(t, nil)
	p := g.start(t, shell("sleep 1234 & echo ready; wait"))
	until(t, p.Stdout(), "ready\n")
	p.Close()
	p.Close()
	left := ""
	for range 100 {
		if left, _ = g.sh(t, "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -c 'sleep 123[4]'"); left == "0\n" {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if left != "0\n" {
		t.Errorf("%q processes are left of a command that was closed", left)
	}
	if _, err := p.Wait(t.Context()); err == nil {
		t.Error("a wait after Close has no error")
	}
	if _, err := p.Stdout().Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a read after Close: %v", err)
	}
	if err := p.Signal(t.Context(), 15); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("a signal after Close: %v", err)
	}
}

func TestEnvironmentAndUser(t *testing.T) {
	t.Parallel()
	g := startGuest(t)
	if err := g.Boot(t.Context(), Bootstrap{Env: map[string]string{"FRUIT": "plum", "CITY": "Ulm"}, Time: time.Now()}); err != nil {
		t.Fatal(err)
	}
	c := shell("echo $FRUIT $CITY $HOME $PATH $PWD")
	c.Env, c.Dir = []string{"FRUIT=fig"}, "/proc"
	if out, _ := g.run(t, c); out != "fig Ulm /root "+defaultPath+" /proc\n" {
		t.Errorf("got %q", out)
	}
	// The test's guest has one user id: root it is without asking.
	c.User = "0:0"
	_, err := g.Start(t.Context(), c)
	var failure *StartError
	if os.Getuid() != 0 && !errors.As(err, &failure) {
		t.Errorf("another identity in a guest with one: %v", err)
	}
	for user, want := range map[string]string{"nobody": `user "nobody"`, "1234": `user "1234"`} {
		c.User = user
		if _, err := g.Start(t.Context(), c); !errors.As(err, &failure) || failure.Code != CodeRefused || !strings.Contains(failure.Message, want) {
			t.Errorf("as %s: %v; want code 125 with %s", user, err, want)
		}
	}
	for _, row := range []struct {
		args []string
		dir  string
		code int
	}{
		{[]string{"nosuch"}, "", CodeNotFound},
		{[]string{"/etc"}, "", CodeNotExecutable},
		{[]string{"/proc/version"}, "", CodeNotExecutable},
		{[]string{"true"}, "/nosuch", CodeNotExecutable},
		{nil, "", CodeRefused},
		{[]string{"true", strings.Repeat("x", maxCommand)}, "", CodeRefused},
		{[]string{"true", strings.Repeat("x", 128<<10)}, "", CodeNotExecutable},                                         // Linux: 128 KiB an argument,
		{slices.Repeat([]string{strings.Repeat("x", 127<<10)}, 20), "", CodeNotFound},                                   // which is looked for first,
		{append([]string{"true"}, slices.Repeat([]string{strings.Repeat("x", 127<<10)}, 20)...), "", CodeNotExecutable}, // and 2 MiB together
	} {
		if _, err := g.Start(t.Context(), Command{Args: row.args, Dir: row.dir}); !errors.As(err, &failure) || failure.Code != row.code {
			t.Errorf("%.40q in %q: %v; want code %d", row.args, row.dir, err, row.code)
		}
	}
}

func TestDialInside(t *testing.T) {
	t.Parallel()
	g := bootGuest(t, nil)
	if _, err := g.Dial(t.Context(), "tcp", "127.0.0.1:4711"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("nobody listens: %v", err)
	}
	if _, err := g.Dial(t.Context(), "unix", "/run/nosuch"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no socket: %v", err)
	}
	if _, err := g.Dial(t.Context(), "udp", "127.0.0.1:1"); err == nil {
		t.Error("a datagram socket was dialled")
	}
	for network, address := range map[string]string{"tcp": "127.0.0.1:4712", "unix": "/etc/socket"} {
		listen := "TCP-LISTEN:4712,bind=127.0.0.1"
		if network == "unix" {
			listen = "UNIX-LISTEN:" + address
		}
		g.start(t, Command{Args: []string{"socat", listen, "EXEC:'tr a-z A-Z'"}})
		var conn net.Conn
		var err error
		for range 500 { // until it listens
			if conn, err = g.Dial(t.Context(), network, address); err == nil {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := conn.RemoteAddr(); got.Network() != network || got.String() != address {
			t.Errorf("remote address %s %s", got.Network(), got)
		}
		fmt.Fprint(conn, "hello")
		if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if out, err := io.ReadAll(conn); err != nil || string(out) != "HELLO" {
			t.Errorf("%s: %q, %v; want HELLO", network, out, err)
		}
		conn.Close()
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a read after Close: %v", err)
		}
	}
}

func TestShutdown(t *testing.T) {
	t.Parallel()
	g := bootGuest(t, nil)
	polite := g.start(t, shell("trap 'echo bye; exit 4' TERM; echo ready; while :; do sleep 0.02; done"))
	deaf := g.start(t, shell("trap '' TERM; echo ready; while :; do sleep 0.02; done"))
	for _, p := range []*Process{polite, deaf} {
		until(t, p.Stdout(), "ready\n")
	}
	ended := make(chan error, 1)
	ctx, cancel := contextWithTimeout(t, 2*time.Second)
	defer cancel()
	begin := time.Now()
	go func() { ended <- g.Shutdown(ctx) }()
	if out := until(t, polite.Stdout(), "bye\n"); out != "bye\n" {
		t.Errorf("the polite one said %q", out)
	}
	if exit := wait(t, polite); exit.Code != 4 {
		t.Errorf("the polite one ended %+v; want 4", exit)
	}
	if exit := wait(t, deaf); exit.Signal != 9 {
		t.Errorf("the deaf one ended %+v; want signal 9", exit)
	}
	if err := <-ended; err != nil || time.Since(begin) < time.Second {
		t.Errorf("shut down after %v: %v; want the grace first", time.Since(begin), err)
	}
	if err := g.cmd.Wait(); err != nil {
		t.Errorf("the agent ended with %v\n%s", err, g.out.String())
	}
	if _, err := g.Start(t.Context(), shell("true")); err == nil {
		t.Error("a command was started after the end")
	}
	<-g.Ended()
}

// TestManyCommands runs 500 commands at once, of which 256 get a channel, and
// the rest when their turn comes.
func TestManyCommands(t *testing.T) {
	t.Parallel()
	g := bootGuest(t, nil)
	begin := time.Now()
	var all sync.WaitGroup
	pids := make([]uint32, 500)
	for i := range pids {
		all.Go(func() {
			p, err := g.Start(t.Context(), shell(fmt.Sprintf("cat >/dev/null; echo out %d; echo err %d >&2; exit %d", i, i, i%200)).withStdin())
			if err != nil {
				t.Error(err)
				return
			}
			defer p.Close()
			pids[i] = p.PID()
			if i < maxChannels {
				for range 100 { // hold it until others wait
					if len(g.slots) == maxChannels {
						break
					}
					time.Sleep(10 * time.Millisecond)
				}
			}
			p.Stdin().Close()
			out, err := io.ReadAll(p.Stdout())
			errs, err2 := io.ReadAll(p.Stderr())
			exit, err3 := p.Wait(t.Context())
			if err := errors.Join(err, err2, err3); err != nil || string(out) != fmt.Sprintf("out %d\n", i) || string(errs) != fmt.Sprintf("err %d\n", i) || exit.Code != i%200 {
				t.Errorf("%d: %q, %q, %+v, %v", i, out, errs, exit, err)
			}
		})
	}
	all.Wait()
	t.Logf("500 commands in %v", time.Since(begin).Round(time.Millisecond))
	slices.Sort(pids)
	if pids[0] == 0 || len(slices.Compact(pids)) != 500 {
		t.Error("process ids aren't distinct")
	}
	for range 500 { // the guest confirms their ends
		if len(g.slots) == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d channels are left", len(g.slots))
}

func (c Command) withStdin() Command {
	c.Stdin = true
	return c
}

func contextWithTimeout(t *testing.T, d time.Duration) (context.Context, context.CancelFunc) {
	t.Helper()
	return context.WithTimeout(t.Context(), d)
}
