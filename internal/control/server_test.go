package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A stub is a Sandbox whose answers a test sets. over is closed when it has
// ended.
type stub struct {
	info    Info
	exit    Exit
	err     error // of Run, Signal, Publish and Unpublish
	lines   []string
	over    chan struct{}
	running chan struct{} // gets a value when Run has begun
	signals chan int
	stops   chan time.Duration
	ports   []Port
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
func (s *stub) Stop(d time.Duration)    { s.stops <- d; close(s.over) }
func (s *stub) Kill()                   { close(s.over) }

func (s *stub) Wait(ctx context.Context) (Ended, error) {
	select {
	case <-s.over:
		return Ended{Source: SourceStop, Exit: s.exit, Denied: 3}, nil
	case <-ctx.Done():
		return Ended{}, context.Cause(ctx)
	}
}

func (s *stub) Ports() []Port                { return s.ports }
func (s *stub) Publish(p Port) (Port, error) { s.ports = append(s.ports, p); return p, s.err }
func (s *stub) Unpublish(Port) error         { s.ports = nil; return s.err }

func (s *stub) Events(ctx context.Context, from int64, write func([]byte) error) error {
	for _, line := range s.lines[max(from, 0):] {
		if err := write([]byte(line + "\n")); err != nil {
			return err
		}
	}
	select {
	case <-s.over:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// serve serves the stub on a socket and returns a client; both end with the
// test.
func serve(t *testing.T, sb *stub) *Client {
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
		if ended.Source != SourceStop || ended.Denied != 3 {
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

// TestEventStream checks that events come from the number asked for until the
// sandbox's end.
func TestEventStream(t *testing.T) {
	t.Parallel()
	sb := newStub()
	sb.lines = []string{`{"seq":0}`, `{"seq":1}`, `{"seq":2}`}
	c := serve(t, sb)
	stream, err := c.Events(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	lines := bufio.NewReader(stream)
	for _, want := range sb.lines[1:] {
		if got, err := lines.ReadString('\n'); err != nil || got != want+"\n" {
			t.Errorf("line %q, %v, want %q", got, err, want)
		}
	}
	close(sb.over)
	if _, err := lines.ReadString('\n'); err != io.EOF {
		t.Errorf("behind the last event: %v, want EOF", err)
	}
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
		{"POST", "/v1/stop", `{"timeout_ms":0}`, nil, 200, `{"source":"stop","exit":{"code":0},"at":"0001-01-01T00:00:00Z","denied":3}`},
		{"GET", "/v1/events?from=x", "", nil, 400, `{"kind":"invalid argument","message":"from: \"x\": want the number of an event"}`},
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
		Handler(sb).ServeHTTP(w, httptest.NewRequest(tt.method, tt.target, strings.NewReader(tt.body)))
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
	f.Add("GET", "/v1/events?from=-1", ``)
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
		Handler(sb).ServeHTTP(w, u)
		if w.Header().Get("Content-Type") == "application/json" && !json.Valid(w.Body.Bytes()) {
			t.Errorf("%s %s %s: %q", method, target, body, w.Body)
		}
	})
}
