// Package hvtest holds the conformance suite of hypervisors, and a fake one.
//
// [Run] is what every backend's test calls: it holds a hypervisor to the
// contract of package hv. [Fake] is a hypervisor whose guests are goroutines:
// the tests of who uses a hypervisor play the guest's kernel through
// [Guest.Card] and its commands through [Fake.Programs]. [Machine] plays what a
// backend's hypervisor would run, with our agent in it.
//
// What it won't do: look at what a guest can reach of its host. That is each
// backend's own test.
package hvtest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/internal/guest"
	"github.com/sluicenet/sluice/vnet/link"
)

// patience bounds a test's waits. It covers a VM's boot without hardware help beside
// the tests of everybody else.
const patience = 2 * time.Minute

// Run runs the conformance suite against h. The guests see a file system with
// true, false, cat, sleep, stty and sh. It skips where h.Probe says that h is not
// usable, with its reason, and fails instead where the environment variable
// SLUICE_REQUIRE promises it: a list separated by commas that names h or "all".
func Run(t *testing.T, h hv.Hypervisor) {
	report := h.Probe(t.Context())
	if report.Reason == "" || strings.Contains(report.Reason, "\n") {
		t.Errorf("Probe().Reason = %q; want one line", report.Reason)
	}
	if !report.Usable {
		required := strings.Split(os.Getenv("SLUICE_REQUIRE"), ",")
		if slices.Contains(required, h.Name()) || slices.Contains(required, "all") {
			t.Fatalf("%s is not usable: %s (%s)", h.Name(), report.Reason, report.Fix)
		}
		t.Skipf("%s is not usable: %s (%s)", h.Name(), report.Reason, report.Fix)
	}
	for _, row := range []struct {
		name string
		test func(*testing.T, hv.Hypervisor)
	}{
		{"Exits", testExits},
		{"StartFailures", testStartFailures},
		{"Streams", testStreams},
		{"Files", testFiles},
		{"EnvironmentAndDirectory", testEnvironment},
		{"Signal", testSignal},
		{"Kill", testKill},
		{"CloseIsCompleteAndIdempotent", testClose},
		{"ManyCallersOfClose", testConcurrentClose},
		{"WaitHonoursItsContext", testWaitContext},
		{"StartHonoursItsContext", testStartContext},
		{"AgentGone", testAgentGone},
		{"HandedOverOnce", testHandedOver},
		{"NoCard", testNoCard},
		{"Card", testCard},
		{"CardOfBothFamilies", testFamilies},
		{"Console", testConsole},
		{"Configure", testConfigure},
		{"SecondBootIsRefused", testSecondBoot},
		{"ManyGuests", testManyGuests},
		{"Commands", testCommands},
		{"Stdin", testStdin},
		{"TTY", testTTY},
		{"BootEnvironment", testBootEnvironment},
		{"ProcessClose", testProcessClose},
		{"SFTP", testSFTP},
		{"Dial", testDial},
		{"Clock", testClock},
		{"Shutdown", testShutdown},
		{"Nonsense", testNonsense},
		{"Noise", testNoise},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			row.test(t, h)
		})
	}
}

// start starts a guest that is closed with the test.
func start(t *testing.T, h hv.Hypervisor, cfg hv.Config) hv.VM {
	t.Helper()
	cfg.Name = "hvtest"
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	vm, err := h.Start(ctx, cfg)
	if err != nil {
		t.Fatalf("Start: %v", err)
	}
	t.Cleanup(func() { vm.Close() })
	return vm
}

// boot starts a guest and boots its agent.
func boot(t *testing.T, h hv.Hypervisor, cfg hv.Config, network *guest.Network) (hv.VM, *guest.Client) {
	t.Helper()
	vm := start(t, h, cfg)
	client := guest.NewClient(vm.Agent())
	t.Cleanup(func() { client.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := client.Boot(ctx, guest.Bootstrap{Hostname: "hvtest", Network: network}); err != nil {
		t.Fatalf("Boot: %v", err)
	}
	return vm, client
}

// run runs a command with the guest's own standard files to its end.
func run(t *testing.T, client *guest.Client, cmd guest.Command) (guest.Exit, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd.Inherit = true
	p, err := client.Start(ctx, cmd)
	if err != nil {
		return guest.Exit{}, err
	}
	defer p.Close()
	return p.Wait(ctx)
}

// wait waits for the guest's end.
func wait(t *testing.T, vm hv.VM) hv.Exit {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	exit, err := vm.Wait(ctx)
	if err != nil {
		t.Fatalf("Wait: %v", err)
	}
	return exit
}

// How a command ends reaches the host, and says nothing of the guest, which goes
// on until it is told to end.
func testExits(t *testing.T, h hv.Hypervisor) {
	vm, client := boot(t, h, hv.Config{}, nil)
	for _, row := range []struct {
		args []string
		want guest.Exit
	}{
		{[]string{"true"}, guest.Exit{}},
		{[]string{"false"}, guest.Exit{Code: 1}},
		{[]string{"sh", "-c", "exit 7"}, guest.Exit{Code: 7}},
		{[]string{"sh", "-c", "exit 255"}, guest.Exit{Code: 255}},
		{[]string{"sh", "-c", "kill -9 $$"}, guest.Exit{Code: -1, Signal: 9}},
		{[]string{"sh", "-c", "kill -15 $$"}, guest.Exit{Code: -1, Signal: 15}},
	} {
		if got, err := run(t, client, guest.Command{Args: row.args}); err != nil || got != row.want {
			t.Errorf("%q ended %+v, %v; want %+v", row.args, got, err, row.want)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := client.Shutdown(ctx); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if got := wait(t, vm); got != (hv.Exit{}) {
		t.Errorf("after Shutdown, Wait() = %+v; want success", got)
	}
}

// What can't be started has a shell's codes, and costs the guest nothing.
func testStartFailures(t *testing.T, h hv.Hypervisor) {
	_, client := boot(t, h, hv.Config{}, nil)
	for _, row := range []struct {
		program string
		code    int
	}{
		{"sluice-no-such-program", guest.CodeNotFound},
		{"/no/such/program", guest.CodeNotFound},
		{"/", guest.CodeNotExecutable},
	} {
		_, err := run(t, client, guest.Command{Args: []string{row.program}})
		var failure *guest.StartError
		if !errors.As(err, &failure) || failure.Code != row.code {
			t.Errorf("%q: %v; want a StartError with code %d", row.program, err, row.code)
		}
	}
	if exit, err := run(t, client, guest.Command{Args: []string{"true"}}); err != nil || exit.Code != 0 {
		t.Errorf("true after the failures = %+v, %v", exit, err)
	}
}

// A command's standard streams are its own, apart from each other.
func testStreams(t *testing.T, h hv.Hypervisor) {
	_, client := boot(t, h, hv.Config{}, nil)
	for _, row := range []struct {
		args                  []string
		stdin, stdout, stderr string
	}{
		{[]string{"cat"}, "through\n", "through\n", ""},
		{[]string{"sh", "-c", "echo out; echo err >&2"}, "", "out\n", "err\n"},
	} {
		out, errs := streams(t, client, guest.Command{Args: row.args, Stdin: row.stdin != ""}, row.stdin)
		if out != row.stdout || errs != row.stderr {
			t.Errorf("%q wrote %q and %q; want %q and %q", row.args, out, errs, row.stdout, row.stderr)
		}
	}
}

// streams runs a command with an input and returns what it writes.
func streams(t *testing.T, client *guest.Client, cmd guest.Command, input string) (out, errs string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	p, err := client.Start(ctx, cmd)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	var readers sync.WaitGroup
	var stdout, stderr []byte
	readers.Go(func() { stdout, _ = io.ReadAll(p.Stdout()) })
	readers.Go(func() { stderr, _ = io.ReadAll(p.Stderr()) })
	if cmd.Stdin {
		if _, err := io.WriteString(p.Stdin(), input); err != nil {
			t.Errorf("write to %q: %v", cmd.Args, err)
		}
		p.Stdin().Close()
	}
	readers.Wait()
	if exit, err := p.Wait(ctx); err != nil || exit != (guest.Exit{}) {
		t.Errorf("%q ended %+v, %v", cmd.Args, exit, err)
	}
	return string(stdout), string(stderr)
}

// The guest's own standard files are those of a command that inherits them, and no
// process holds one past the guest's end; or the backend says that it can't.
func testFiles(t *testing.T, h hv.Hypervisor) {
	stdin, feed := pipe(t)
	stdout, stderr := capture(t), capture(t)
	cfg := hv.Config{Name: "hvtest", Stdio: [3]*os.File{stdin, stdout.w, stderr.w}}
	if vm, err := h.Start(t.Context(), cfg); errors.Is(err, errors.ErrUnsupported) {
		return
	} else if err == nil {
		vm.Close()
	}
	vm, client := boot(t, h, cfg, nil)
	if _, err := feed.WriteString("through\n"); err != nil {
		t.Fatal(err)
	}
	feed.Close()
	if _, err := run(t, client, guest.Command{Args: []string{"cat"}}); err != nil {
		t.Fatal(err)
	}
	vm.Close()
	if out, errs := stdout.end(t), stderr.end(t); out != "through\n" || errs != "" {
		t.Errorf("cat wrote %q and %q; want its input", out, errs)
	}

	stdout, stderr = capture(t), capture(t)
	vm, client = boot(t, h, hv.Config{Stdio: [3]*os.File{nil, stdout.w, stderr.w}}, nil)
	if _, err := run(t, client, guest.Command{Args: []string{"sh", "-c", "echo out; echo err >&2"}}); err != nil {
		t.Fatal(err)
	}
	vm.Close()
	if out, errs := stdout.end(t), stderr.end(t); out != "out\n" || errs != "err\n" {
		t.Errorf("the files got %q and %q; want out and err", out, errs)
	}
}

// A captured is a standard file whose bytes a test reads.
type captured struct {
	w    *os.File
	done chan struct{} // closed when the reader has met the end
	text bytes.Buffer  // valid once done is closed
}

// capture returns a file that remembers what is written to it.
func capture(t *testing.T) *captured {
	r, w := pipe(t)
	c := &captured{w: w, done: make(chan struct{})}
	go func() {
		defer close(c.done)
		_, _ = c.text.ReadFrom(r)
	}()
	return c
}

// end closes the test's own end and returns what was written, once no process
// has the file any more: a guest that keeps it past its end fails here.
func (c *captured) end(t *testing.T) string {
	t.Helper()
	c.w.Close()
	select {
	case <-c.done:
		return c.text.String()
	case <-time.After(patience):
		t.Fatal("a standard file is still open after the guest's end")
		return ""
	}
}

// pipe returns a pipe that is closed with the test.
func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

// A command has the directory and the environment it is given, and nothing of
// the host's.
func testEnvironment(t *testing.T, h hv.Hypervisor) {
	_, client := boot(t, h, hv.Config{}, nil)
	// The go command sets PWD for its tests, so that there is one at least.
	command := guest.Command{Args: []string{"sh", "-c", "echo $PWD $FRUIT [$OLDPWD$GOROOT$GOPATH$GOFLAGS$SSH_AUTH_SOCK]"}, Env: []string{"FRUIT=plum"}, Dir: "/etc"}
	if out, _ := streams(t, client, command, ""); out != "/etc plum []\n" {
		t.Errorf("got %q; want the directory and only the given environment", out)
	}
}

// A signal reaches the command, and its exit says which it was.
func testSignal(t *testing.T, h hv.Hypervisor) {
	_, client := boot(t, h, hv.Config{}, nil)
	p, err := client.Start(t.Context(), guest.Command{Args: []string{"sleep", "600"}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := p.Signal(t.Context(), 15); err != nil {
		t.Fatalf("Signal: %v", err)
	}
	if exit, err := p.Wait(t.Context()); err != nil || exit != (guest.Exit{Code: -1, Signal: 15}) {
		t.Errorf("ended %+v, %v; want by signal 15", exit, err)
	}
	if err := p.Signal(t.Context(), 15); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("a signal to a command that has ended: %v", err)
	}
}

// Kill ends the guest whatever it does, and the agent's callers with it.
func testKill(t *testing.T, h hv.Hypervisor) {
	vm, client := boot(t, h, hv.Config{}, nil)
	p, err := client.Start(t.Context(), guest.Command{Args: []string{"sleep", "600"}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := vm.Kill(); err != nil {
		t.Fatal(err)
	}
	if got := wait(t, vm); got != (hv.Exit{Code: -1, Signal: 9}) {
		t.Errorf("Wait() after Kill = %+v; want signal 9", got)
	}
	if exit, err := p.Wait(t.Context()); err == nil {
		t.Errorf("a command of a killed guest ended %+v", exit)
	}
	if err := vm.Kill(); err != nil {
		t.Errorf("Kill of a guest that has ended: %v", err)
	}
}

// Close may come first, twice, and before anything was handed over.
func testClose(t *testing.T, h hv.Hypervisor) {
	vm := start(t, h, hv.Config{NIC: &hv.NIC{}})
	for range 2 {
		if err := vm.Close(); err != nil {
			t.Fatalf("Close: %v", err)
		}
	}
	if nic, _ := vm.NIC(); nic != nil {
		t.Error("NIC() after Close is not nil")
	}
	if agent := vm.Agent(); agent != nil {
		t.Error("Agent() after Close is not nil")
	}
	if first, again := wait(t, vm), wait(t, vm); first != again {
		t.Errorf("Wait() = %+v, then %+v", first, again)
	}
}

// The race detector watches what several goroutines do with one guest.
func testConcurrentClose(t *testing.T, h hv.Hypervisor) {
	vm := start(t, h, hv.Config{NIC: &hv.NIC{}})
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() { vm.NIC(); vm.Agent(); vm.Kill(); vm.Close() })
	}
	callers.Wait()
}

// A context ends a Wait that waits; one that has an answer gives it.
func testWaitContext(t *testing.T, h hv.Hypervisor) {
	vm := start(t, h, hv.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := vm.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Wait of a running guest, cancelled: %v", err)
	}
	vm.Close()
	if _, err := vm.Wait(ctx); err != nil {
		t.Errorf("Wait of a guest that has ended, cancelled: %v; the answer is there", err)
	}
}

// A context that has ended starts nothing, and that of a start is not the
// guest's.
func testStartContext(t *testing.T, h hv.Hypervisor) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	vm, err := h.Start(ctx, hv.Config{Name: "hvtest"})
	if vm != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("Start with a cancelled context = %v, %v", vm, err)
	}
	// The start's context isn't the guest's.
	ctx, cancel = context.WithTimeout(t.Context(), patience)
	vm, err = h.Start(ctx, hv.Config{Name: "hvtest"})
	cancel()
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Close()
	client := guest.NewClient(vm.Agent())
	defer client.Close()
	if err := client.Boot(t.Context(), guest.Bootstrap{}); err != nil {
		t.Errorf("Boot after the start's context ended: %v", err)
	}
}

// A guest whose host has gone has no reason to live.
func testAgentGone(t *testing.T, h hv.Hypervisor) {
	vm := start(t, h, hv.Config{})
	vm.Agent().Close()
	if exit := wait(t, vm); exit == (hv.Exit{}) {
		t.Error("a guest whose agent lost its host reports success")
	}
}

// What is handed over has one owner, whom Close leaves alone.
func testHandedOver(t *testing.T, h hv.Hypervisor) {
	vm := start(t, h, hv.Config{NIC: &hv.NIC{}})
	nic, _ := vm.NIC()
	agent := vm.Agent()
	if nic == nil || agent == nil {
		t.Fatalf("NIC() = %v, Agent() = %v; want both", nic, agent)
	}
	defer nic.Close()
	defer agent.Close()
	if again, _ := vm.NIC(); again != nil {
		t.Error("a second NIC() is not nil")
	}
	if again := vm.Agent(); again != nil {
		t.Error("a second Agent() is not nil")
	}
	vm.Close()
	if err := nic.Close(); err != nil {
		t.Errorf("the card was closed under its owner: %v", err)
	}
}

// A guest without a card has loopback, and says so when asked for more.
func testNoCard(t *testing.T, h hv.Hypervisor) {
	vm, client := boot(t, h, hv.Config{}, nil)
	if nic, _ := vm.NIC(); nic != nil {
		t.Error("a guest without a card has one")
	}
	err := client.Configure(t.Context(), network())
	var remote *guest.RemoteError
	if _, fake := h.(*Fake); !fake && !errors.As(err, &remote) {
		t.Errorf("Configure without a card = %v; want the agent's refusal", err)
	}
	if _, err := run(t, client, guest.Command{Args: []string{"true"}}); err != nil {
		t.Errorf("true after a refusal: %v", err)
	}
}

// network is a guest's network configuration.
func network() guest.Network {
	return guest.Network{
		MTU:      1400,
		Addrs:    []netip.Prefix{netip.MustParsePrefix("172.16.0.2/30"), netip.MustParsePrefix("fd42:6d73:62::2/64")},
		Gateways: []netip.Addr{netip.MustParseAddr("172.16.0.1"), netip.MustParseAddr("fd42:6d73:62::1")},
		Default4: true, Default6: true,
	}
}

// The card has the address it was given, and its other end carries frames of
// the format that NIC names.
func testCard(t *testing.T, h hv.Hypervisor) {
	mac := net.HardwareAddr{0x02, 0x53, 0x4c, 0x00, 0x00, 0x07}
	config := network()
	vm, _ := boot(t, h, hv.Config{NIC: &hv.NIC{MAC: mac, MTU: 1400}}, &config)
	file, format := vm.NIC()
	l, err := link.Open(file, format)
	if err != nil {
		t.Fatal(err)
	}
	stop := time.AfterFunc(patience, func() { l.Close() })
	defer stop.Stop()
	defer l.Close()
	// A card that comes up says something: multicast reports, neighbour
	// solicitations, a gratuitous ARP.
	frames := make([]link.Frame, 1)
	frames[0].Data = make([]byte, 0, link.MaxFrame)
	if n, err := l.ReadFrames(frames); err != nil || n != 1 {
		t.Fatalf("ReadFrames = %d, %v; want the guest's first frame", n, err)
	}
	frame := frames[0].Data
	if len(frame) < 14 || !bytes.Equal(frame[6:12], mac) {
		t.Errorf("first frame is % x; want one from %v", frame, mac)
	}
	if len(frame) > 14+1400 {
		t.Errorf("first frame has %d bytes; more than the MTU allows", len(frame))
	}
}

// The network can be configured again and again, as the host's routes come and
// go.
func testConfigure(t *testing.T, h hv.Hypervisor) {
	config := network()
	_, client := boot(t, h, hv.Config{NIC: &hv.NIC{}}, &config)
	for _, usable := range []bool{false, false, true} {
		config.Default4, config.Default6 = usable, usable
		if err := client.Configure(t.Context(), config); err != nil {
			t.Errorf("Configure, usable %v: %v", usable, err)
		}
	}
}

// A guest is booted once: who comes second is told, and nothing else happens.
func testSecondBoot(t *testing.T, h hv.Hypervisor) {
	_, client := boot(t, h, hv.Config{}, nil)
	var remote *guest.RemoteError
	if err := client.Boot(t.Context(), guest.Bootstrap{}); !errors.As(err, &remote) {
		t.Errorf("a second Boot = %v; want the agent's refusal", err)
	}
	if _, err := run(t, client, guest.Command{Args: []string{"true"}}); err != nil {
		t.Errorf("true after a refusal: %v", err)
	}
}

// Guests with the same addresses live beside each other, each on its own card.
func testManyGuests(t *testing.T, h hv.Hypervisor) {
	vms := make([]hv.VM, 5)
	clients := make([]*guest.Client, len(vms))
	for i := range vms {
		config := network()
		vms[i], clients[i] = boot(t, h, hv.Config{NIC: &hv.NIC{}}, &config)
	}
	// The end of one is not another's.
	vms[0].Close()
	for i, client := range clients[1:] {
		if exit, err := run(t, client, guest.Command{Args: []string{"true"}}); err != nil || exit.Code != 0 {
			t.Errorf("guest %d of %d: true = %+v, %v", i+1, len(vms), exit, err)
		}
	}
	if _, err := run(t, clients[0], guest.Command{Args: []string{"true"}}); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("true in a guest that was closed = %v; want an error that says so", err)
	}
}
