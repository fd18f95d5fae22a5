package sdk_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicenet/sluice/hv/hvtest"
	"github.com/sluicenet/sluice/internal/guest"
	m "github.com/sluicenet/sluice/sdk"
)

// mustCreate creates a sandbox that ends with the test.
func mustCreate(t *testing.T, name string, opts ...m.SandboxOption) *m.Sandbox {
	t.Helper()
	sb, err := m.CreateSandbox(t.Context(), name, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sb.Close(); err != nil {
			t.Error(err)
		}
	})
	return sb
}

// A log collects events. Its zero value is ready.
type log struct {
	mu     sync.Mutex
	events []m.Event
}

func (l *log) add(e m.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, e)
}

// types returns the types of the events, in order.
func (l *log) types() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var types []string
	for _, e := range l.events {
		types = append(types, e.Type)
	}
	return types
}

// stateDir returns what the sandboxes of this process have on the disk: the
// entries of the state directory that are not empty, and the sockets.
func leftovers(t *testing.T) []string {
	t.Helper()
	var found []string
	for _, pattern := range []string{
		filepath.Join(os.Getenv("SLUICE_HOME"), "sandboxes", "*"),
		filepath.Join(os.Getenv("XDG_RUNTIME_DIR"), "sluice", "*"),
	} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, paths...)
	}
	return found
}

// TestLifeCycle follows a sandbox from its creation to its end, with a fake
// guest in this process.
func TestLifeCycle(t *testing.T) {
	t.Parallel()
	fake := &hvtest.Fake{}
	var seen log
	var remarks bytes.Buffer
	sb := mustCreate(t, "life-cycle",
		m.WithHypervisor(fake),
		m.WithEvents(seen.add),
		m.WithLogger(slog.New(slog.NewTextHandler(&remarks, nil))),
		m.WithHostname("guest"),
		m.WithNetwork(&m.NetworkConfig{MTU: 9000, Rules: []m.PolicyRule{{Action: "allow", Destination: "10.0.0.0/8"}}}),
	)
	if sb.Name() != "life-cycle" || sb.Backend() != "fake" {
		t.Errorf("sandbox %q on %q", sb.Name(), sb.Backend())
	}
	if w := sb.Warnings(); len(w) != 1 || !strings.Contains(w[0], "no name can be looked up") {
		t.Errorf("warnings %q, want one about names", w)
	}
	g := fake.Guests()[0]
	cfg, boot := g.Config(), g.Bootstrap()
	if cfg.NIC == nil || cfg.NIC.MTU != 9000 || boot.Hostname != "guest" || boot.Network.MTU != 9000 {
		t.Errorf("guest is started with %+v and told %+v", cfg, boot)
	}
	if len(cfg.Hide) != 2 || cfg.Hide[0] != os.Getenv("SLUICE_HOME") {
		t.Errorf("hidden from the guest: %q", cfg.Hide)
	}
	if _, err := m.CreateSandbox(t.Context(), "life-cycle", m.WithHypervisor(fake)); !m.IsKind(err, m.ErrSandboxAlreadyExists) {
		t.Errorf("the same name again: %v", err)
	}
	if _, err := os.Stat(sb.EventsPath()); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := sb.WaitUntilStopped(ctx); !m.IsKind(err, m.ErrCancelled) {
		t.Errorf("wait for a running sandbox: %v", err)
	}
	if err := sb.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	r, err := sb.WaitUntilStopped(t.Context())
	if err != nil || r.Status != m.SandboxStatusStopped || r.Source == nil || *r.Source != "stop" || r.Name != "life-cycle" {
		t.Errorf("stopped as %+v, %v", r, err)
	}
	for range 2 {
		if err := errors.Join(sb.Stop(t.Context()), sb.Kill(t.Context()), sb.Close()); err != nil {
			t.Errorf("after its end: %v", err)
		}
	}
	if _, err := sb.Attach(t.Context(), "true"); !m.IsKind(err, m.ErrSandboxNotRunning) {
		t.Errorf("attach after its end: %v", err)
	}
	types := seen.types()
	if len(types) != 3 || types[0] != m.EventWarning || types[1] != m.EventSandboxStarted || types[2] != m.EventSandboxStopped {
		t.Errorf("events %q", types)
	}
	if !strings.Contains(remarks.String(), "no name can be looked up") {
		t.Errorf("the logger got %q", remarks.String())
	}
	// The name can be used at once.
	mustCreate(t, "life-cycle", m.WithHypervisor(fake), m.WithNetwork(m.NetworkPolicy.None()))
}

// TestAttach checks what a command gets, and what comes back.
func TestAttach(t *testing.T) {
	t.Parallel()
	report := make(chan guest.Command, 1)
	fake := &hvtest.Fake{Programs: map[string]hvtest.Program{
		"report": func(_ context.Context, p *hvtest.Process) guest.Exit {
			report <- p.Command
			return guest.Exit{Code: 3}
		},
	}}
	create := func(name string, opts ...m.SandboxOption) *m.Sandbox {
		return mustCreate(t, name, append(opts, m.WithHypervisor(fake), m.WithNetwork(m.NetworkPolicy.None()))...)
	}

	sb := create("attach", m.WithEnv(map[string]string{"A": "1", "HOME": "/h"}), m.WithWorkdir("/srv"), m.WithEntrypoint("report"), m.WithCmd("x"))
	code, err := sb.AttachDefault(t.Context(), m.WithAttachEnv(map[string]string{"A": "2"}), m.WithAttachCwd("/tmp"))
	if code != 3 || err != nil {
		t.Errorf("exit code %d, %v", code, err)
	}
	got := <-report
	if strings.Join(got.Args, " ") != "report x" || got.Dir != "/tmp" {
		t.Errorf("command %+v", got)
	}
	env := map[string]string{}
	for _, e := range got.Env { // the last counts
		name, value, _ := strings.Cut(e, "=")
		env[name] = value
	}
	if want := map[string]string{"A": "2", "HOME": "/h", "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}; !maps.Equal(env, want) {
		t.Errorf("environment %q, want %q", env, want)
	}
	if _, err := sb.Ping(t.Context()); err != nil {
		t.Errorf("the sandbox ended with its command: %v", err)
	}

	if _, err := create("no-default").AttachDefault(t.Context()); !m.IsKind(err, m.ErrNoDefaultCommand) {
		t.Errorf("no default command: %v", err)
	}
	var failure *m.ExecFailure
	if _, err := create("not-found").Attach(t.Context(), "nosuch"); !m.IsKind(err, m.ErrExecFailed) || !errors.As(err, &failure) || failure.Code != 127 {
		t.Errorf("a program that isn't there: %v", err)
	}
	if _, err := create("bad").AttachWith(t.Context(), "true", nil, m.WithAttachCwd("tmp")); !m.IsKind(err, m.ErrInvalidConfig) {
		t.Errorf("a relative directory: %v", err)
	}

	// The context kills the command.
	sb = create("cancelled")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := sb.Attach(ctx, "sleep", "1000"); !m.IsKind(err, m.ErrCancelled) {
		t.Errorf("a context that ended: %v", err)
	}
	if _, err := sb.Ping(t.Context()); err != nil {
		t.Errorf("the sandbox ended with a cancelled command: %v", err)
	}

	// A signal reaches it.
	sb = create("signalled")
	signals := make(chan os.Signal, 1)
	signals <- os.Interrupt
	exits := make(chan int, 1)
	go func() {
		code, err := sb.AttachWith(t.Context(), "sleep", []string{"1000"}, m.WithAttachSignals(signals))
		if err != nil {
			t.Error(err)
		}
		exits <- code
	}()
	for code := -1; code < 0; { // a signal that comes before the command is lost
		select {
		case code = <-exits:
			if code != 130 {
				t.Errorf("interrupted with exit code %d, want 130", code)
			}
		case signals <- os.Interrupt:
		}
	}
}

// TestStopAsks checks that Stop asks the command first, and only for so long.
func TestStopAsks(t *testing.T) {
	t.Parallel()
	started := make(chan struct{}, 2)
	stubborn := make(chan struct{})
	fake := &hvtest.Fake{Programs: map[string]hvtest.Program{
		"polite": func(ctx context.Context, _ *hvtest.Process) guest.Exit {
			started <- struct{}{}
			<-ctx.Done()
			return guest.Exit{}
		},
		"stubborn": func(ctx context.Context, _ *hvtest.Process) guest.Exit {
			started <- struct{}{}
			<-stubborn
			return guest.Exit{}
		},
	}}
	for _, tt := range []struct {
		program string
		timeout time.Duration
	}{{"polite", time.Minute}, {"stubborn", 50 * time.Millisecond}} {
		sb := mustCreate(t, "stop-"+tt.program, m.WithHypervisor(fake), m.WithNetwork(m.NetworkPolicy.None()))
		attached := make(chan struct{})
		go func() {
			defer close(attached)
			_, _ = sb.Attach(t.Context(), tt.program) // ends with the sandbox
		}()
		<-started
		began := time.Now()
		if tt.program == "stubborn" {
			time.AfterFunc(100*time.Millisecond, func() { close(stubborn) }) // a fake can't kill a goroutine
		}
		if err := sb.Stop(t.Context(), m.WithStopTimeout(tt.timeout)); err != nil {
			t.Fatal(err)
		}
		r, err := sb.WaitUntilStopped(t.Context())
		if err != nil || *r.Source != "stop" {
			t.Errorf("%s: stopped as %+v, %v", tt.program, r, err)
		}
		if took := time.Since(began); took > time.Minute/2 {
			t.Errorf("%s: stopped after %v", tt.program, took)
		}
		<-attached
	}
}

// TestKill checks that Kill returns when nothing is left, or with its context.
func TestKill(t *testing.T) {
	t.Parallel()
	sb := mustCreate(t, "kill", m.WithHypervisor(&hvtest.Fake{}), m.WithNetwork(m.NetworkPolicy.None()), m.WithMemory(64))
	if err := sb.Kill(t.Context(), m.WithKillTimeout(10*time.Second)); err != nil {
		t.Fatal(err)
	}
	if r, err := sb.WaitUntilStopped(t.Context()); err != nil || *r.Source != "kill" {
		t.Errorf("stopped as %+v, %v", r, err)
	}
	sb = mustCreate(t, "kill-cancelled", m.WithHypervisor(&hvtest.Fake{}), m.WithNetwork(m.NetworkPolicy.None()))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := sb.Kill(ctx); !m.IsKind(err, m.ErrCancelled) {
		t.Errorf("kill with an ended context: %v", err)
	}
}

// TestCreateFails checks that a failed creation leaves nothing, whatever fails.
func TestCreateFails(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		fake *hvtest.Fake
		kind m.ErrorKind
		text string
	}{
		{"no-start", &hvtest.Fake{StartError: errors.New("no room")}, m.ErrInternal, "start guest: no room"},
		{"unsupported", &hvtest.Fake{StartError: errors.ErrUnsupported}, m.ErrUnsupportedOperation, "start guest: unsupported operation; sluice doctor says what this machine lacks"},
		{"no-boot", &hvtest.Fake{BootError: errors.New("bad address")}, m.ErrInternal, "set up guest: boot: agent: bad address"},
	} {
		_, err := m.CreateSandbox(t.Context(), tt.name, m.WithHypervisor(tt.fake))
		if !m.IsKind(err, tt.kind) || !strings.HasSuffix(err.Error(), tt.text) {
			t.Errorf("%s: %v, want %v ending in %q", tt.name, err, tt.kind, tt.text)
		}
		for _, path := range leftovers(t) {
			if strings.HasSuffix(path, tt.name) {
				t.Errorf("%s left %s", tt.name, path)
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.CreateSandbox(ctx, "cancelled-creation", m.WithHypervisor(&hvtest.Fake{})); !m.IsKind(err, m.ErrCancelled) {
		t.Errorf("a context that ended: %v", err)
	}
	if _, err := m.CreateSandbox(ctx, "cancelled-process"); !m.IsKind(err, m.ErrCancelled) {
		t.Errorf("a context that ended, in a process: %v", err)
	}
}

// TestNoBackend checks the error where nothing may be chosen without its name.
func TestNoBackend(t *testing.T) {
	t.Parallel()
	_, err := m.CreateSandbox(t.Context(), "no-backend")
	if !m.IsKind(err, m.ErrUnsupportedOperation) {
		t.Fatalf("kind of %v", err)
	}
	for _, want := range []string{
		`create sandbox "no-backend": choose a backend: none is usable`,
		"\n\tnamespace: must be named to be used, since its guests share the host's kernel",
		"; sluice doctor says what each backend needs",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nlacks %s", err, want)
		}
	}
}

// TestEvents checks that the public type holds all that a sandbox writes, and
// that the file and the callback have the same.
func TestEvents(t *testing.T) {
	t.Parallel()
	var seen log
	sb := mustCreate(t, "events", m.WithHypervisor(&hvtest.Fake{}), m.WithEvents(seen.add),
		m.WithNetwork(&m.NetworkConfig{Ports: map[uint16]uint16{0: 80}}))
	if err := sb.Close(); err != nil {
		t.Fatal(err)
	}
	for i, e := range seen.events {
		dec := json.NewDecoder(bytes.NewReader(e.Line()))
		dec.DisallowUnknownFields()
		var again m.Event
		if err := dec.Decode(&again); err != nil {
			t.Errorf("event %s: %v", e.Line(), err)
		}
		if e.Version != 1 || e.Seq != int64(i) || e.Sandbox != "events" || e.Time.IsZero() {
			t.Errorf("event %d: %s", i, e.Line())
		}
	}
}

// TestEventTypes checks that a function which asks for types of events gets no
// others, also where a logger needs more.
func TestEventTypes(t *testing.T) {
	t.Parallel()
	var seen log
	var remarks bytes.Buffer
	sb := mustCreate(t, "event-types", m.WithHypervisor(&hvtest.Fake{}),
		m.WithEvents(seen.add, m.EventDenied, "sandbox"), m.WithLogger(slog.New(slog.NewTextHandler(&remarks, nil))),
		m.WithNetwork(&m.NetworkConfig{Rules: []m.PolicyRule{{Action: "allow", Destination: "10.0.0.0/8"}}}))
	if err := sb.Close(); err != nil {
		t.Fatal(err)
	}
	var types []string
	for _, e := range seen.events {
		types = append(types, e.Type)
	}
	if !slices.Contains(types, m.EventSandboxStarted) || !slices.Contains(types, m.EventSandboxStopped) || slices.Contains(types, m.EventWarning) {
		t.Errorf("the function got %q", types)
	}
	if !strings.Contains(remarks.String(), "no name can be looked up") {
		t.Errorf("the logger got %q", remarks.String())
	}
}

// TestLivePorts checks the ports that are published while a sandbox runs.
func TestLivePorts(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	sb := mustCreate(t, "ports", m.WithHypervisor(&hvtest.Fake{}), m.WithPortBindings(m.PortBinding{GuestPort: 80}))
	ports, err := sb.Ports().List(ctx)
	if err != nil || len(ports) != 1 || ports[0].Bind != "127.0.0.1" || ports[0].HostPort == 0 || ports[0].GuestPort != 80 {
		t.Fatalf("published at creation: %+v, %v", ports, err)
	}
	taken := ports[0]
	if _, err := sb.Ports().Add(ctx, taken); !m.IsKind(err, m.ErrIO) || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("a port that is taken: %v", err)
	}
	if _, err := m.CreateSandbox(ctx, "ports-taken", m.WithHypervisor(&hvtest.Fake{}), m.WithPortBindings(taken)); !m.IsKind(err, m.ErrIO) {
		t.Errorf("a port that is taken, at creation: %v", err)
	}
	added, err := sb.Ports().Add(ctx, m.PortBinding{Bind: "::1", GuestPort: 81})
	if err != nil || added.Bind != "::1" || added.HostPort == 0 || added.Protocol != m.PortProtocolTCP {
		t.Errorf("added %+v, %v", added, err)
	}
	if _, err := sb.Ports().Add(ctx, m.PortBinding{}); !m.IsKind(err, m.ErrInvalidConfig) {
		t.Errorf("no guest port: %v", err)
	}
	udp, err := sb.Ports().Add(ctx, m.PortBinding{GuestPort: 53, Protocol: m.PortProtocolUDP})
	if err != nil || udp.Protocol != m.PortProtocolUDP || udp.HostPort == 0 {
		t.Errorf("added %+v, %v", udp, err)
	}
	if err := sb.Ports().Remove(ctx, udp); err != nil {
		t.Error(err)
	}
	if err := sb.Ports().Remove(ctx, taken); err != nil {
		t.Error(err)
	}
	if err := sb.Ports().Remove(ctx, taken); !m.IsKind(err, m.ErrInvalidArgument) {
		t.Errorf("removed twice: %v", err)
	}
	if ports, err := sb.Ports().List(ctx); err != nil || len(ports) != 1 || ports[0] != added {
		t.Errorf("published in the end: %+v, %v", ports, err)
	}
	none := mustCreate(t, "ports-none", m.WithHypervisor(&hvtest.Fake{}), m.WithNetwork(m.NetworkPolicy.None()))
	if _, err := none.Ports().Add(ctx, m.PortBinding{GuestPort: 80}); !m.IsKind(err, m.ErrUnsupportedOperation) {
		t.Errorf("without a network: %v", err)
	}
}
