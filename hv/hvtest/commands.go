package hvtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pkg/sftp"

	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/internal/guest"
)

// begin starts a command that is closed with the test.
func begin(t *testing.T, client *guest.Client, cmd guest.Command) *guest.Process {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	p, err := client.Start(ctx, cmd)
	if err != nil {
		t.Fatalf("Start(%q): %v", cmd.Args, err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// outcome reads what a command writes to its end, and how it ends.
func outcome(t *testing.T, p *guest.Process) (out, errs string, exit guest.Exit) {
	t.Helper()
	stop := time.AfterFunc(patience, func() { p.Close() })
	defer stop.Stop()
	var stderr bytes.Buffer
	var read sync.WaitGroup
	read.Go(func() { _, _ = stderr.ReadFrom(p.Stderr()) })
	stdout, err := io.ReadAll(p.Stdout())
	if err != nil {
		t.Errorf("read standard output: %v", err)
	}
	read.Wait()
	exit, err = p.Wait(t.Context())
	if err != nil {
		t.Errorf("Wait: %v", err)
	}
	return string(stdout), stderr.String(), exit
}

// readLine reads a line of a command's output.
func readLine(t *testing.T, p *guest.Process) string {
	t.Helper()
	stop := time.AfterFunc(patience, func() { p.Close() })
	defer stop.Stop()
	var line []byte
	for one := make([]byte, 1); !bytes.HasSuffix(line, []byte("\n")); line = append(line, one...) {
		if _, err := io.ReadFull(p.Stdout(), one); err != nil {
			t.Fatalf("%v behind %q", err, line)
		}
	}
	return strings.TrimRight(string(line), "\r\n")
}

// Commands have their own pipes, apart from each other and from other commands',
// and the guest outlives them.
func testCommands(t *testing.T, h hv.Hypervisor) {
	_, client := boot(t, h, hv.Config{}, nil)
	const count = 20
	processes := make([]*guest.Process, count)
	pids := make(map[uint32]bool)
	for i := range processes { // all run at once: each waits for its line
		line := fmt.Sprintf("read x; echo out%d; echo err%d >&2; exit %d", i, i, i)
		processes[i] = begin(t, client, guest.Command{Args: []string{"sh", "-c", line}, Stdin: true})
		pids[processes[i].PID()] = true
	}
	if len(pids) != count || pids[0] {
		t.Errorf("process ids are %v; want %d", pids, count)
	}
	for i, p := range processes {
		if _, err := io.WriteString(p.Stdin(), "go\n"); err != nil {
			t.Errorf("command %d: %v", i, err)
		}
		out, errs, exit := outcome(t, p)
		if out != fmt.Sprintf("out%d\n", i) || errs != fmt.Sprintf("err%d\n", i) || exit.Code != i {
			t.Errorf("command %d wrote %q and %q, and ended %+v", i, out, errs, exit)
		}
	}
}

// Standard input ends when its writer says so, and is at its end without one.
func testStdin(t *testing.T, h hv.Hypervisor) {
	_, client := boot(t, h, hv.Config{}, nil)
	p := begin(t, client, guest.Command{Args: []string{"cat"}, Stdin: true})
	text := strings.Repeat("0123456789abcdef", 1<<13)
	go func() {
		_, _ = io.WriteString(p.Stdin(), text)
		p.Stdin().Close()
	}()
	if out, _, exit := outcome(t, p); out != text || exit != (guest.Exit{}) {
		t.Errorf("%d bytes came back, exit %+v; want %d", len(out), exit, len(text))
	}
	if out, _, exit := outcome(t, begin(t, client, guest.Command{Args: []string{"cat"}})); out != "" || exit != (guest.Exit{}) {
		t.Errorf("cat without a standard input wrote %q and ended %+v", out, exit)
	}
}

// A terminal has the size it is given, and takes another: soon, since it isn't
// told by the way that what is typed takes.
func testTTY(t *testing.T, h hv.Hypervisor) {
	const tries = 250
	_, client := boot(t, h, hv.Config{}, nil)
	script := "stty size" + strings.Repeat("; read x; stty size", tries)
	p := begin(t, client, guest.Command{Args: []string{"sh", "-c", script}, TTY: &guest.TTY{Rows: 33, Cols: 77}})
	if got := readLine(t, p); got != "33 77" {
		t.Errorf("the terminal's size is %q; want 33 77", got)
	}
	if err := p.Resize(t.Context(), 50, 132); err != nil {
		t.Error(err)
	}
	got := ""
	for try := 0; try < tries && got != "50 132"; try++ {
		time.Sleep(20 * time.Millisecond)
		if _, err := io.WriteString(p.Stdin(), "\n"); err != nil {
			t.Fatal(err)
		}
		for got = ""; got == ""; { // what is typed is echoed
			got = readLine(t, p)
		}
	}
	if got != "50 132" {
		t.Errorf("after Resize the terminal's size is %q; want 50 132", got)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

// The variables of Boot are every command's, under its own.
func testBootEnvironment(t *testing.T, h hv.Hypervisor) {
	vm := start(t, h, hv.Config{})
	client := guest.NewClient(vm.Agent())
	t.Cleanup(func() { client.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := client.Boot(ctx, guest.Bootstrap{Env: map[string]string{"FRUIT": "plum", "CITY": "Ulm"}}); err != nil {
		t.Fatal(err)
	}
	p := begin(t, client, guest.Command{Args: []string{"sh", "-c", "echo $FRUIT $CITY"}, Env: []string{"CITY=Rome"}})
	if out, _, _ := outcome(t, p); out != "plum Rome\n" {
		t.Errorf("got %q; want plum Rome", out)
	}
}

// A Process that is closed takes its command with it, and the others don't
// notice.
func testProcessClose(t *testing.T, h hv.Hypervisor) {
	_, client := boot(t, h, hv.Config{}, nil)
	other := begin(t, client, guest.Command{Args: []string{"cat"}, Stdin: true})
	p := begin(t, client, guest.Command{Args: []string{"sleep", "600"}})
	for range 2 {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
	if exit, err := p.Wait(t.Context()); err == nil {
		t.Errorf("a closed process ended %+v", exit)
	}
	if _, err := io.WriteString(other.Stdin(), "still\n"); err != nil {
		t.Error(err)
	}
	other.Stdin().Close()
	if out, _, exit := outcome(t, other); out != "still\n" || exit != (guest.Exit{}) {
		t.Errorf("the other wrote %q and ended %+v", out, exit)
	}
}

// Files go there and back.
func testSFTP(t *testing.T, h hv.Hypervisor) {
	_, client := boot(t, h, hv.Config{}, nil)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	stream, err := client.SFTP(ctx)
	if err != nil {
		t.Fatal(err)
	}
	stop := time.AfterFunc(patience, func() { stream.Close() })
	defer stop.Stop()
	files, err := sftp.NewClientPipe(stream, stream)
	if err != nil {
		t.Fatal(err)
	}
	defer files.Close()
	text := bytes.Repeat([]byte("0123456789abcdef"), 1<<14)
	if err := files.MkdirAll("/tmp/hvtest"); err != nil {
		t.Fatal(err)
	}
	f, err := files.Create("/tmp/hvtest/file")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(text); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if f, err = files.Open("/tmp/hvtest/file"); err != nil {
		t.Fatal(err)
	}
	var back bytes.Buffer
	if _, err := f.WriteTo(&back); err != nil || !bytes.Equal(back.Bytes(), text) {
		t.Errorf("%d bytes came back, %v; want %d", back.Len(), err, len(text))
	}
	f.Close()
	if err := files.Remove("/tmp/hvtest/file"); err != nil {
		t.Error(err)
	}
	if _, fake := h.(*Fake); fake {
		return // its programs have no files
	}
	if out, _, exit := outcome(t, begin(t, client, guest.Command{Args: []string{"sh", "-c", "cd /tmp/hvtest && echo *"}})); out != "*\n" || exit.Code != 0 {
		t.Errorf("a command sees %q there, and ended %+v; want the directory, empty", out, exit)
	}
}

// Who dials into a guest where nobody listens is told so.
func testDial(t *testing.T, h hv.Hypervisor) {
	vm, client := boot(t, h, hv.Config{}, nil)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := client.Dial(ctx, "tcp", "127.0.0.1:9"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("Dial where nobody listens: %v; want ECONNREFUSED", err)
	}
	fake, ok := vm.(*Guest)
	if !ok {
		return // what listens in a real guest is not among the suite's programs
	}
	fake.Listen("127.0.0.1:80", func(c net.Conn) {
		defer c.Close()
		_, _ = io.CopyN(c, c, 5)
	})
	c, err := client.Dial(ctx, "tcp", "127.0.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "hello"); err != nil {
		t.Error(err)
	}
	if out, err := io.ReadAll(c); string(out) != "hello" || err != nil {
		t.Errorf("got %q, %v; want hello", out, err)
	}
}

// A guest takes the time that it is told, where it has a clock of its own.
func testClock(t *testing.T, h hv.Hypervisor) {
	_, client := boot(t, h, hv.Config{}, nil)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := client.SetClock(ctx, time.Now()); err != nil {
		t.Errorf("SetClock: %v", err)
	}
}

// A shutdown ends what runs, the guest with it, and says that this was meant.
func testShutdown(t *testing.T, h hv.Hypervisor) {
	vm, client := boot(t, h, hv.Config{}, nil)
	p := begin(t, client, guest.Command{Args: []string{"sleep", "600"}})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := client.Shutdown(ctx); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if exit, err := p.Wait(t.Context()); err != nil || exit.Signal != 15 {
		t.Errorf("the command ended %+v, %v; want by signal 15", exit, err)
	}
	if got := wait(t, vm); got != (hv.Exit{}) {
		t.Errorf("Wait() = %+v; want success", got)
	}
	if _, err := client.Start(t.Context(), guest.Command{Args: []string{"true"}}); err == nil {
		t.Error("a command started after the shutdown")
	}
}

// An agent whose host talks nonsense ends, and the guest with it.
func testNonsense(t *testing.T, h hv.Hypervisor) {
	vm := start(t, h, hv.Config{})
	agent := vm.Agent()
	defer agent.Close()
	go func() { _, _ = io.Copy(io.Discard, agent) }()
	_, _ = io.WriteString(agent, strings.Repeat("nonsense\n", 100_000)) // until it hangs up
	if exit := wait(t, vm); exit == (hv.Exit{}) {
		t.Error("a guest whose agent got nonsense reports success")
	}
}

// A noisy is a stream into which the guest's end puts noise.
type noisy struct {
	net.Conn
	noise chan []byte // what Read returns next
}

func (n *noisy) Read(p []byte) (int, error) {
	select {
	case noise := <-n.noise:
		return copy(p, noise), nil
	default:
		return n.Conn.Read(p)
	}
}

// Noise on the agent's stream fails the client's calls, and costs nobody else
// anything: a guest's root can write to the agent's port.
func testNoise(t *testing.T, h hv.Hypervisor) {
	vm := start(t, h, hv.Config{})
	stream := &noisy{Conn: vm.Agent(), noise: make(chan []byte, 1)}
	client := guest.NewClient(stream)
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := client.Boot(ctx, guest.Bootstrap{}); err != nil {
		t.Fatal(err)
	}
	p := begin(t, client, guest.Command{Args: []string{"cat"}, Stdin: true})
	stream.noise <- []byte(strings.Repeat("noise", 100))
	_, _ = io.WriteString(p.Stdin(), "x\n") // has the guest answer, and the client read
	if exit, err := p.Wait(ctx); err == nil || ctx.Err() != nil {
		t.Errorf("a command behind noise ended %+v, %v; want an error", exit, err)
	}
	select {
	case <-client.Ended():
	case <-ctx.Done():
		t.Error("the client goes on after noise")
	}
	if _, err := client.Start(ctx, guest.Command{Args: []string{"true"}}); err == nil || ctx.Err() != nil {
		t.Errorf("a command after noise: %v; want an error", err)
	}
	wait(t, vm) // its host has hung up
}
