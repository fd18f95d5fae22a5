package mitm

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicenet/sluice/internal/netlab"
	"github.com/sluicenet/sluice/policy"
)

// site is the name that most tests' guests ask for, and address where it lives.
const (
	site    = "www.example.com"
	address = "93.184.216.34"
)

// patience is how long a test waits for what comes within milliseconds, unless the
// machine is busy.
const patience = 2 * time.Minute

// A world is one Proxy between guests and servers, all over the loopback. Its
// edges are fakes: which name is allowed, and where a flow is dialled.
type world struct {
	t     testing.TB
	proxy *Proxy
	ca    *netlab.CA // the upstreams' issuer
	// serverLimits are those of servers to come; nil means the defaults.
	serverLimits *http.HTTP2Config

	mu       sync.Mutex
	denied   []string // names that the policy denies
	opaque   policy.Verdict
	targets  policy.Verdict // of CONNECT, by address
	resolved func(name string) bool
	dial     map[uint16]func(context.Context) (net.Conn, error) // by the port asked for
	events   []Event
	resets   int
	dials    int
}

// newWorld makes a world whose Proxy has a configuration, with the fields that
// tests don't set filled in.
func newWorld(t testing.TB, cfg Config) *world {
	t.Helper()
	ca, err := netlab.NewCA(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, ca: ca, targets: allow, dial: make(map[uint16]func(context.Context) (net.Conn, error))}
	if cfg.Roots == nil {
		cfg.Roots = ca.Pool()
	}
	cfg.Events = func(e Event) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.events = append(w.events, e)
	}
	if w.proxy, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.proxy.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return w
}

// A testFlow is a guest's flow to a port of the address.
type testFlow struct {
	w      *world
	asked  netip.AddrPort // guarded by the world's mu
	source netip.AddrPort
}

func (f *testFlow) Source() netip.AddrPort { return f.source }

func (f *testFlow) Asked() netip.AddrPort {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	return f.asked
}

func (f *testFlow) Decide(name, from string) policy.Verdict {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	if from == fromNowhere || from == fromMalformed {
		return f.w.opaque
	}
	if slices.Contains(f.w.denied, name) {
		return policy.Verdict{Action: policy.Deny}
	}
	return policy.Verdict{Action: policy.Allow, Group: policy.GroupPublic}
}

func (f *testFlow) Resolved(name string) bool {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	return f.w.resolved == nil || f.w.resolved(name)
}

func (f *testFlow) Dial(ctx context.Context) (net.Conn, error) {
	f.w.mu.Lock()
	dial := f.w.dial[f.asked.Port()]
	f.w.dials++
	f.w.mu.Unlock()
	if dial == nil {
		return nil, errors.New("nobody there")
	}
	return dial(ctx)
}

func (f *testFlow) Connect(target netip.AddrPort, name string) policy.Verdict {
	f.w.mu.Lock()
	f.asked = target
	v := f.w.targets
	f.w.mu.Unlock()
	if name != "" {
		return f.Decide(name, fromHTTP)
	}
	return v
}

func (f *testFlow) Reset() {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	f.w.resets++
}

// at makes flows to a port end at a server on the loopback.
func (w *world) at(port uint16, server string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dial[port] = func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", server)
	}
}

// deny makes the policy deny names.
func (w *world) deny(names ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.denied = append(w.denied, names...)
}

// leaf returns a certificate of the world's CA.
func (w *world) leaf(change func(*x509.Certificate), names ...string) tls.Certificate {
	w.t.Helper()
	cert, err := w.ca.Leaf(time.Now(), change, names...)
	if err != nil {
		w.t.Fatal(err)
	}
	return cert
}

// serveTLS makes flows to port 443 end at an HTTPS server, which is that of the
// site unless change makes it something else.
func (w *world) serveTLS(handler http.Handler, change func(*tls.Config)) (addr string) {
	w.t.Helper()
	cfg := &tls.Config{Certificates: []tls.Certificate{w.leaf(nil, site)}, NextProtos: []string{"h2", "http/1.1"}}
	if change != nil {
		change(cfg)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.serve(handler, l)
	w.at(443, l.Addr().String())
	return l.Addr().String()
}

// servePlain makes flows to port 80 end at an HTTP server, of HTTP/2 too.
func (w *world) servePlain(handler http.Handler) {
	w.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	w.serve(handler, l)
	w.at(80, l.Addr().String())
}

func (w *world) serve(handler http.Handler, l net.Listener) {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Handler: handler, Protocols: protocols, DisableGeneralOptionsHandler: true, HTTP2: w.serverLimits, ErrorLog: silent()}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l)
	}()
	w.t.Cleanup(func() { _ = server.Close(); <-done })
}

// serveConns makes flows to a port end at a function, one call per connection.
func (w *world) serveConns(port uint16, serve func(net.Conn)) {
	w.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	w.serveListener(l, serve)
	w.at(port, l.Addr().String())
}

// serveTLSConns is serveConns inside TLS.
func (w *world) serveTLSConns(cfg *tls.Config, serve func(net.Conn)) {
	w.t.Helper()
	if cfg.Certificates == nil {
		cfg.Certificates = []tls.Certificate{w.leaf(nil, site)}
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.serveListener(l, serve)
	w.at(443, l.Addr().String())
}

func (w *world) serveListener(l net.Listener, serve func(net.Conn)) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	open := make(map[net.Conn]bool)
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = true
			mu.Unlock()
			wg.Go(func() {
				defer func() {
					_ = c.Close()
					mu.Lock()
					defer mu.Unlock()
					delete(open, c)
				}()
				serve(c)
			})
		}
	})
	w.t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
}

// door returns the address of a listener whose connections are the guest's flows
// to a port.
func (w *world) door(port uint16) string {
	w.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	w.t.Cleanup(cancel)
	w.serveListener(l, func(c net.Conn) {
		w.proxy.Serve(ctx, c, w.flow(c, port))
	})
	return l.Addr().String()
}

func (w *world) flow(c net.Conn, port uint16) *testFlow {
	return &testFlow{w: w, asked: netip.AddrPortFrom(netip.MustParseAddr(address), port), source: c.RemoteAddr().(*net.TCPAddr).AddrPort()}
}

// dialGuest returns a guest's connection to a port.
func (w *world) dialGuest(port uint16) net.Conn {
	w.t.Helper()
	c, err := net.Dial("tcp", w.door(port))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c
}

// guestTLS returns how a guest that trusts the sandbox's CA speaks TLS.
func (w *world) guestTLS(alpn ...string) *tls.Config {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(w.proxy.CA()) {
		w.t.Fatal("the CA isn't PEM")
	}
	return &tls.Config{ServerName: site, RootCAs: pool, NextProtos: alpn}
}

// handshake returns a guest's connection inside TLS.
func (w *world) handshake(cfg *tls.Config) (*tls.Conn, error) {
	c := tls.Client(w.dialGuest(443), cfg)
	return c, c.Handshake()
}

// mustHandshake is handshake for a guest that offers some protocols.
func (w *world) mustHandshake(alpn ...string) *tls.Conn {
	w.t.Helper()
	c, err := w.handshake(w.guestTLS(alpn...))
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// client returns a guest's HTTP client, which reaches the proxy whatever the URL
// says. http2 says which version it speaks.
func (w *world) client(http2 bool) *http.Client {
	w.t.Helper()
	secure, plain := w.door(443), w.door(80)
	dial := func(ctx context.Context, _, addr string) (net.Conn, error) {
		if strings.HasSuffix(addr, ":443") {
			return new(net.Dialer).DialContext(ctx, "tcp", secure)
		}
		return new(net.Dialer).DialContext(ctx, "tcp", plain)
	}
	protocols := new(http.Protocols)
	if http2 {
		protocols.SetHTTP2(true)
		protocols.SetUnencryptedHTTP2(true)
	} else {
		protocols.SetHTTP1(true)
	}
	t := &http.Transport{DialContext: dial, TLSClientConfig: w.guestTLS(), Protocols: protocols, DisableCompression: true}
	if !http2 {
		t.MaxConnsPerHost = 50
	}
	if !http2 {
		t.TLSClientConfig.NextProtos = []string{"http/1.1"}
	}
	t.TLSClientConfig.ServerName = ""
	w.t.Cleanup(t.CloseIdleConnections)
	return &http.Client{Transport: t, Timeout: patience, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// resetCount returns how many flows were reset.
func (w *world) resetCount() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.resets
}

// dialCount returns how often a server was dialled.
func (w *world) dialCount() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dials
}

// seen returns the events of a type.
func (w *world) seen(kind string) []Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	var events []Event
	for _, e := range w.events {
		if e.Type == kind {
			events = append(events, e)
		}
	}
	return events
}

// waitFor waits for the first event of a type.
func (w *world) waitFor(kind string) Event {
	w.t.Helper()
	for began := time.Now(); time.Since(began) < patience; {
		if events := w.seen(kind); len(events) > 0 {
			return events[0]
		}
		time.Sleep(10 * time.Millisecond)
	}
	w.t.Fatalf("no event %s among %+v", kind, w.seen(""))
	return Event{}
}

// talk sends bytes and returns everything that comes back until the end.
func talk(t testing.TB, c net.Conn, request string) string {
	t.Helper()
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(c)
	if err != nil && len(answer) == 0 {
		return "error: " + err.Error()
	}
	return string(answer)
}

// hello is a server that answers every request with its own view of it.
func hello(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	_, _ = io.WriteString(w, r.Proto+" "+r.Method+" "+r.Host+" "+r.RequestURI+" "+string(body))
}

// protocolConfig is a server's TLS that speaks one protocol.
func protocolConfig(alpn string) *tls.Config { return &tls.Config{NextProtos: []string{alpn}} }
