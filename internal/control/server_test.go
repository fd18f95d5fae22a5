package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// A stub is a Sandbox whose answers a test sets. over is closed when it has
// ended.
type stub struct {
	Guest   // nil: see guestStub
	info    Info
	exit    Exit
	err     error // of Run, Signal, Publish and Unpublish
	lines   []string
	over    chan struct{}
	kill    sync.Once     // closes over
	running chan struct{} // gets a value when Run has begun
	signals chan int
	stops   chan time.Duration
	ports   []Port

	mu     sync.Mutex // guards the following field
	called []string   // methods without another trace, and with what
}

// call notes a call and returns the stub's error.
func (s *stub) call(format string, args ...any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.called = append(s.called, fmt.Sprintf(format, args...))
	return s.err
}

func (s *stub) Touch() Touched { return Touched{ActivitySeq: 5} }
func (s *stub) Drain()         { _ = s.call("drain") }
func (s *stub) Detach() error  { return s.call("detach") }

func (s *stub) Flows() []Flow {
	return []Flow{{ID: 1, Protocol: "tcp", Dst: netip.MustParseAddrPort("192.0.2.1:80")}}
}
func (s *stub) Stats() Stats { return Stats{FramesFromGuest: 9} }

func (s *stub) Update(config json.RawMessage) (Updated, error) {
	return Updated{Generation: 2, Warnings: []string{"w"}}, s.call("update %s", config)
}

func (s *stub) Explain(target string) (Explanation, error) {
	return Explanation{Target: target, Stages: []ExplanationStage{{Stage: "dns", Action: "allow"}}}, s.call("explain %s", target)
}

func (s *stub) Secrets() []string                  { return []string{"A"} }
func (s *stub) SetSecret(name, value string) error { return s.call("set %s %s", name, value) }
func (s *stub) RemoveSecret(name string) error     { return s.call("remove %s", name) }

func (s *stub) Metrics() (Metrics, error) { return Metrics{MemoryBytes: 3}, s.err }

func (s *stub) Logs(_ context.Context, q LogQuery, write func([]LogEntry) error) error {
	if err := s.call("logs %+v", q); err != nil {
		return err
	}
	return write([]LogEntry{{Source: LogStdout, Session: 1, Data: []byte("a")}, {Source: LogSystem, Data: []byte("b"), Cursor: "9"}})
}

func newStub() *stub {
	return &stub{over: make(chan struct{}), running: make(chan struct{}, 1), signals: make(chan int, 1), stops: make(chan time.Duration, 1)}
}

func (s *stub) Info() Info { return s.info }

func (s *stub) Run(ctx context.Context, cmd Command) (Exit, error) {
	s.running <- struct{}{}
	if s.err != nil {
		return Exit{}, s.err
	}
	if cmd.Args[0] != "sleep" {
		return s.exit, nil
	}
	select {
	case <-ctx.Done():
		close(s.over)
		return Exit{}, context.Cause(ctx)
	case <-s.over:
		return s.exit, nil
	}
}

func (s *stub) Signal(signal int) error { s.signals <- signal; return s.err }
func (s *stub) Stop(d time.Duration)    { s.stops <- d; s.Kill() }
func (s *stub) Kill()                   { s.kill.Do(func() { close(s.over) }) }

func (s *stub) Wait(ctx context.Context) (Ended, error) {
	select {
	case <-s.over:
		return Ended{Source: SourceStop, Exit: s.exit, Denied: 3, Allowed: 7}, nil
	case <-ctx.Done():
		return Ended{}, context.Cause(ctx)
	}
}

func (s *stub) Ports() []Port                { return s.ports }
func (s *stub) Publish(p Port) (Port, error) { s.ports = append(s.ports, p); return p, s.err }
func (s *stub) Unpublish(Port) error         { s.ports = nil; return s.err }

func (s *stub) Events(ctx context.Context, q EventQuery, write func([]byte) error) error {
	for _, line := range s.lines[max(q.From, 0):] {
		if err := write([]byte(line + "\n")); err != nil {
			return err
		}
	}
	if !q.Follow {
		return nil
	}
	select {
	case <-s.over:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// serve serves a sandbox on a socket and returns a client; both end with the
// test.
func serve(t *testing.T, sb Sandbox) *Client {
	t.Helper()
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
	return c
}

// TestClient checks each call, over a socket.
func TestClient(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	sb := newStub()
	sb.info = Info{Name: "a", PID: 7, Denied: 2}
	sb.exit = Exit{Code: 3}
	c := serve(t, sb)

	if info, err := c.Info(ctx); err != nil || info.Name != "a" || info.PID != 7 || info.Denied != 2 {
		t.Errorf("info %+v, %v", info, err)
	}
	if exit, err := c.Run(ctx, Command{Args: []string{"true"}}); err != nil || exit.Code != 3 {
		t.Errorf("exit %+v, %v", exit, err)
	}
	<-sb.running
	if err := c.Signal(ctx, 2); err != nil || <-sb.signals != 2 {
		t.Errorf("signal: %v", err)
	}
	p := Port{Protocol: "tcp", Host: netip.MustParseAddrPort("[::1]:80"), GuestPort: 8080}
	if got, err := c.Publish(ctx, p); err != nil || got != p {
		t.Errorf("published %+v, %v", got, err)
	}
	if got, err := c.Ports(ctx); err != nil || len(got) != 1 || got[0] != p {
		t.Errorf("ports %+v, %v", got, err)
	}
	if err := c.Unpublish(ctx, p); err != nil {
		t.Error(err)
	}
	waited := make(chan error, 1)
	go func() {
		ended, err := c.Wait(ctx)
		if ended.Source != SourceStop || ended.Denied != 3 || ended.Allowed != 7 {
			t.Errorf("ended %+v", ended)
		}
		waited <- err
	}()
	if ended, err := c.Stop(ctx, 1500*time.Millisecond); err != nil || ended.Exit.Code != 3 {
		t.Errorf("stopped %+v, %v", ended, err)
	}
	if d := <-sb.stops; d != 1500*time.Millisecond {
		t.Errorf("timeout %v", d)
	}
	if err := <-waited; err != nil {
		t.Error(err)
	}
}

// TestClientRest checks the calls about life, network, secrets and records.
func TestClientRest(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	sb := newStub()
	c := serve(t, sb)
	at := time.Date(2024, 5, 6, 7, 8, 9, 10, time.UTC)
	if got, err := c.Touch(ctx); err != nil || got.ActivitySeq != 5 {
		t.Errorf("touch: %+v, %v", got, err)
	}
	if d, err := c.Ping(ctx); err != nil || d <= 0 {
		t.Errorf("ping: %v, %v", d, err)
	}
	if got, err := c.Flows(ctx); err != nil || len(got) != 1 || got[0].Dst.String() != "192.0.2.1:80" || got[0].Dialed.IsValid() {
		t.Errorf("flows: %+v, %v", got, err)
	}
	if got, err := c.Stats(ctx); err != nil || got.FramesFromGuest != 9 {
		t.Errorf("stats: %+v, %v", got, err)
	}
	if got, err := c.Update(ctx, json.RawMessage(`{"a":1}`)); err != nil || got.Generation != 2 || len(got.Warnings) != 1 {
		t.Errorf("update: %+v, %v", got, err)
	}
	if got, err := c.Explain(ctx, "https://x"); err != nil || got.Target != "https://x" || got.Stages[0].Action != "allow" {
		t.Errorf("explain: %+v, %v", got, err)
	}
	if got, err := c.Secrets(ctx); err != nil || len(got) != 1 || got[0] != "A" {
		t.Errorf("secrets: %q, %v", got, err)
	}
	if got, err := c.Metrics(ctx); err != nil || got.MemoryBytes != 3 {
		t.Errorf("metrics: %+v, %v", got, err)
	}
	stream, err := c.Logs(ctx, LogQuery{Tail: 3, Since: at, Until: at.Add(time.Second), Sources: []string{"stdout", "stderr"}, From: "7", Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	first, err1 := stream.Next()
	second, err2 := stream.Next()
	_, err3 := stream.Next()
	if err1 != nil || err2 != nil || err3 != io.EOF || string(first.Data) != "a" || first.Session != 1 || second.Cursor != "9" {
		t.Errorf("logs: %+v, %+v, %v, %v, %v", first, second, err1, err2, err3)
	}
	err = errors.Join(c.Drain(ctx), c.Detach(ctx), c.SetSecret(ctx, "A/B", "value"), c.RemoveSecret(ctx, "A"), c.RequestStop(ctx, time.Second), c.RequestKill(ctx))
	if err != nil {
		t.Error(err)
	}
	want := []string{
		`update {"a":1}`, "explain https://x",
		"logs {Tail:3 Since:2024-05-06 07:08:09.00000001 +0000 UTC Until:2024-05-06 07:08:10.00000001 +0000 UTC Sources:[stdout stderr] From:7 Follow:true}",
		"drain", "detach", "set A/B value", "remove A",
	}
	if !slices.Equal(sb.called, want) {
		t.Errorf("called\n%q, want\n%q", sb.called, want)
	}
	if d := <-sb.stops; d != time.Second {
		t.Errorf("stop within %v", d)
	}
}

// TestKill checks that kill answers when the sandbox has ended.
func TestKill(t *testing.T) {
	t.Parallel()
	c := serve(t, newStub())
	if ended, err := c.Kill(t.Context()); err != nil || ended.Source != SourceStop {
		t.Errorf("killed %+v, %v", ended, err)
	}
}

// TestRunCancelled checks that a caller who goes takes its command along.
func TestRunCancelled(t *testing.T) {
	t.Parallel()
	sb := newStub()
	c := serve(t, sb)
	ctx, cancel := context.WithCancel(t.Context())
	errs := make(chan error, 1)
	go func() {
		_, err := c.Run(ctx, Command{Args: []string{"sleep"}})
		errs <- err
	}()
	<-sb.running
	cancel()
	if err := <-errs; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled run: %v", err)
	}
	<-sb.over // Run's context ended
}

// TestGone checks what calls say of a sandbox that has ended.
func TestGone(t *testing.T) {
	t.Parallel()
	c := NewClient(filepath.Join(t.TempDir(), "none"))
	defer c.Close()
	if _, err := c.Info(t.Context()); !errors.Is(err, ErrGone) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no socket: %v", err)
	}
}

// apiOf returns the API of sb, without a listener.
func apiOf(sb Sandbox) http.Handler { return (&handler{sb: sb, streams: newStreams()}).mux() }

// TestAPI checks what requests are answered: the API as curl sees it.
func TestAPI(t *testing.T) {
	t.Parallel()
	notFound := &Failure{Kind: KindExecFailed, Message: "nosuch: not found", Code: 127}
	for _, tt := range []struct {
		method, target, body string
		err                  error
		status               int
		want                 string
	}{
		{"GET", "/v1/sandbox", "", nil, 200, `{"name":"a","pid":0,"backend":"","created":"0001-01-01T00:00:00Z","events":"","denied":0,"status":""}`},
		{"POST", "/v1/run", `{"args":["true"]}`, nil, 200, `{"code":0}`},
		{"POST", "/v1/run", `{"args":["nosuch"]}`, notFound, 422, `{"kind":"exec failed","message":"nosuch: not found","code":127}`},
		{"POST", "/v1/run", `{}`, nil, 400, `{"kind":"invalid argument","message":"args: want at least the program"}`},
		{"POST", "/v1/run", `{"args":["x"],"shell":true}`, nil, 400, `{"kind":"invalid argument","message":"request: json: unknown field \"shell\""}`},
		{"POST", "/v1/run", `not JSON`, nil, 400, `{"kind":"invalid argument","message":"request: invalid character 'o' in literal null (expecting 'u')"}`},
		{"POST", "/v1/run", ``, nil, 400, `{"kind":"invalid argument","message":"request: EOF"}`},
		{"POST", "/v1/signal", `{"signal":9}`, nil, 200, `{}`},
		{"POST", "/v1/signal", `{"signal":0}`, nil, 400, `{"kind":"invalid argument","message":"signal: 0: want 1 to 64"}`},
		{"POST", "/v1/signal", `{"signal":15}`, &Failure{Kind: KindNotRunning, Message: "no command runs"}, 409, `{"kind":"sandbox not running","message":"no command runs"}`},
		{"POST", "/v1/stop", `{"timeout_ms":-1}`, nil, 400, `{"kind":"invalid argument","message":"timeout_ms: -1: want 0 to 86400000"}`},
		{"POST", "/v1/stop", `{"timeout_ms":0}`, nil, 200, `{"source":"stop","exit":{"code":0},"at":"0001-01-01T00:00:00Z","denied":3,"allowed":7}`},
		{"GET", "/v1/events?from=x", "", nil, 400, `{"kind":"invalid argument","message":"from: \"x\": want the number of an event"}`},
		{"GET", "/v1/events?follow=maybe", "", nil, 400, `{"kind":"invalid argument","message":"follow: \"maybe\": want true or false"}`},
		{"GET", "/v1/events?denied=2", "", nil, 400, `{"kind":"invalid argument","message":"denied: \"2\": want true or false"}`},
		{"GET", "/v1/logs?tail=x", "", nil, 400, `{"kind":"invalid argument","message":"logs: strconv.ParseUint: parsing \"x\": invalid syntax"}`},
		{"GET", "/v1/logs?since=yesterday", "", nil, 400, `{"kind":"invalid argument","message":"logs: parsing time \"yesterday\" as \"2006-01-02T15:04:05.999999999Z07:00\": cannot parse \"yesterday\" as \"2006\""}`},
		{"GET", "/v1/logs", "", &Failure{Kind: KindArgument, Message: "from: x"}, 400, `{"kind":"invalid argument","message":"from: x"}`},
		{"GET", "/v1/metrics", "", &Failure{Kind: KindMetrics, Message: "no"}, 501, `{"kind":"metrics unavailable","message":"no"}`},
		{"PUT", "/v1/secrets/A", `{"value":"v","x":1}`, nil, 400, `{"kind":"invalid argument","message":"request: json: unknown field \"x\""}`},
		{"POST", "/v1/network", `{"a":`, nil, 400, `{"kind":"invalid argument","message":"request: unexpected EOF"}`},
		{"POST", "/v1/kill", `{"no_wait":true}`, nil, 200, `{"source":"","exit":{"code":0},"at":"0001-01-01T00:00:00Z","denied":0,"allowed":0}`},
		{"POST", "/v1/ping", "", nil, 200, `{"status":""}`},
		{"GET", "/v1/ports", "", nil, 200, `null`},
		{"POST", "/v1/ports", `{"protocol":"tcp","host":"127.0.0.1:80","guest_port":0}`, nil, 400, `{"kind":"invalid argument","message":"guest_port: 0: want 1 to 65535"}`},
		{"POST", "/v1/ports", `{"protocol":"tcp","host":"127.0.0.1:80","guest_port":1}`, errors.ErrUnsupported, 501, `{"kind":"unsupported operation","message":"unsupported operation"}`},
		{"POST", "/v1/ports/remove", `{"protocol":"tcp","host":"127.0.0.1:80"}`, errors.New("odd"), 500, `{"kind":"internal","message":"odd"}`},
		{"DELETE", "/v1/sandbox", "", nil, 501, `{"kind":"unsupported operation","message":"DELETE /v1/sandbox: no such operation"}`},
		{"GET", "/v2/sandbox", "", nil, 501, `{"kind":"unsupported operation","message":"GET /v2/sandbox: no such operation"}`},
	} {
		sb := newStub()
		sb.info.Name, sb.err = "a", tt.err
		w := httptest.NewRecorder()
		apiOf(sb).ServeHTTP(w, httptest.NewRequest(tt.method, tt.target, strings.NewReader(tt.body)))
		if got := strings.TrimSpace(w.Body.String()); w.Code != tt.status || got != tt.want {
			t.Errorf("%s %s %s:\n got %d %s\nwant %d %s", tt.method, tt.target, tt.body, w.Code, got, tt.status, tt.want)
		}
	}
}

// TestAsFailure checks which kinds errors get.
func TestAsFailure(t *testing.T) {
	t.Parallel()
	f := &Failure{Kind: KindIO, Message: "m", Hint: "h"}
	if got := AsFailure(errors.Join(errors.New("x"), f)); got != f {
		t.Errorf("a failure within an error is %+v", got)
	}
	if f.Error() != "m; h" {
		t.Errorf("text %q", f.Error())
	}
	for want, err := range map[string]error{
		KindCancelled:   context.DeadlineExceeded,
		KindUnsupported: errors.ErrUnsupported,
		KindInternal:    io.EOF,
	} {
		if got := AsFailure(err).Kind; got != want {
			t.Errorf("%v is %q, want %q", err, got, want)
		}
	}
}

// TestListenReplaces checks that a dead sandbox's socket is no obstacle.
func TestListenReplaces(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s")
	for range 2 {
		l, err := Listen(path)
		if err != nil {
			t.Fatal(err)
		}
		l.(peerListener).SetUnlinkOnClose(false) // as a killed process does
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Listen(filepath.Join(t.TempDir(), "no", "dir")); err == nil {
		t.Error("listens in a directory that isn't there")
	}
}

// FuzzHandler checks that no request makes the API panic or answer without
// JSON.
func FuzzHandler(f *testing.F) {
	f.Add("POST", "/v1/run", `{"args":["a"]}`)
	f.Add("POST", "/v1/signal", `{"signal":1}`)
	f.Add("POST", "/v1/ports", `{"protocol":"tcp","host":"[::1]:1","guest_port":1}`)
	f.Add("GET", "/v1/events?from=-1&types=flow,denied", ``)
	f.Fuzz(func(t *testing.T, method, target, body string) {
		u, err := http.NewRequest(method, "http://sluice"+target, strings.NewReader(body))
		if err != nil || u.URL.Host != "sluice" {
			return
		}
		sb := newStub()
		close(sb.over)
		sb.lines = []string{`{}`}
		if strings.HasSuffix(u.URL.Path, "/stop") || strings.HasSuffix(u.URL.Path, "/kill") || strings.HasSuffix(u.URL.Path, "/events") {
			return // the stub ends once, and has few events
		}
		w := httptest.NewRecorder()
		apiOf(sb).ServeHTTP(w, u)
		if w.Header().Get("Content-Type") == "application/json" && !json.Valid(w.Body.Bytes()) {
			t.Errorf("%s %s %s: %q", method, target, body, w.Body)
		}
	})
}
