package bench

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicenet/sluice/internal/netlab"
	"github.com/sluicenet/sluice/mitm"
	"github.com/sluicenet/sluice/mitm/secret"
	"github.com/sluicenet/sluice/policy"
)

// mitmSite is the name of the server behind the interception: one that programs
// resolve.
const mitmSite = "localhost"

// An interceptor is a way to the server: where its clients connect.
type interceptor struct {
	name    string
	address string
}

// TestMITM measures HTTPS through interception and prints a table like
// TestTable's: to the server directly, through package mitm without a secret, with
// one whose value is searched for in every response, and through Debian's
// mitmproxy. Requests are counted by wrk, the rest by a client of ours. Server and
// package mitm share this process; mitmproxy has its own, and with it the better
// part of a second core.
func TestMITM(t *testing.T) {
	if !*table {
		t.Skip("make bench measures")
	}
	ca, err := netlab.NewCA(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	server := startHTTPS(t, ca)
	set, _, err := secret.New(secret.Config{Secrets: []secret.Secret{{EnvVar: "TOKEN", Value: secret.NewValue("c0ffee-tok/Ab+9-Zz"), AllowHosts: []string{mitmSite}}}})
	if err != nil {
		t.Fatal(err)
	}
	ways := chosen([]interceptor{
		{"direct", server},
		{"sluice", startProxy(t, mitm.Config{Roots: ca.Pool()}, server)},
		{"sluice, searching", startProxy(t, mitm.Config{Roots: ca.Pool(), Secrets: set}, server)},
		{"mitmproxy", startMitmproxy(t, server)},
	}, regexp.MustCompile(*onlyPeers), func(i interceptor) string { return i.name })
	b := bench{t: t}
	rate := &row{name: "HTTPS requests, 32 connections, wrk", unit: "per s"}
	latency := &row{name: "HTTPS request, warm connection, p50", unit: "µs"}
	download := &row{name: "HTTPS download, one stream", unit: "MB/s"}
	for range *rounds {
		for _, way := range ways {
			rate.add(way.name, result{value: requestRate(t, way.address)})
			latency.add(way.name, result{value: requestTime(t, way.address)})
			download.add(way.name, result{value: downloadRate(t, way.address)})
		}
	}
	b.rows = []*row{rate, latency, download}
	var names []string
	for _, way := range ways {
		names = append(names, way.name)
	}
	fmt.Printf("medians of %d alternating rounds, HTTP/1.1\n\n", *rounds)
	if err := printTable(os.Stdout, names, b.rows); err != nil {
		t.Fatal(err)
	}
}

// startHTTPS starts a server that answers /N with N bytes of text.
func startHTTPS(t *testing.T, ca *netlab.CA) (address string) {
	t.Helper()
	cert, err := ca.Leaf(time.Now(), nil, mitmSite)
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	chunk := []byte(strings.Repeat("0123456789abcdef", 4096))
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var n int
		_, _ = fmt.Sscanf(r.URL.Path, "/%d", &n)
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Content-Length", fmt.Sprint(n))
		for ; n > 0; n -= min(n, len(chunk)) {
			if _, err := w.Write(chunk[:min(n, len(chunk))]); err != nil {
				return
			}
		}
	})}
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.Serve(l) })
	t.Cleanup(func() { _ = server.Close(); wg.Wait() })
	return l.Addr().String()
}

// A loopFlow is a guest's connection to the port where the proxy listens; it is
// dialled where the server does.
type loopFlow struct {
	guest  net.Conn
	server string
}

func (f loopFlow) Asked() netip.AddrPort  { return f.guest.LocalAddr().(*net.TCPAddr).AddrPort() }
func (f loopFlow) Source() netip.AddrPort { return f.guest.RemoteAddr().(*net.TCPAddr).AddrPort() }
func (f loopFlow) Resolved(string) bool   { return true }
func (f loopFlow) Reset()                 {}

func (f loopFlow) Decide(string, string) policy.Verdict {
	return policy.Verdict{Action: policy.Allow, Group: policy.GroupPublic}
}

func (f loopFlow) Connect(netip.AddrPort, string) policy.Verdict { return policy.Verdict{} }

func (f loopFlow) Dial(ctx context.Context) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", f.server)
}

// startProxy starts package mitm in front of the server.
func startProxy(t *testing.T, cfg mitm.Config, server string) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Ports = []uint16{uint16(l.Addr().(*net.TCPAddr).Port)}
	proxy, err := mitm.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { proxy.Serve(t.Context(), c, loopFlow{c, server}) })
		}
	})
	t.Cleanup(func() { _ = l.Close(); _ = proxy.Close(); wg.Wait() })
	return l.Addr().String()
}

// startMitmproxy starts mitmdump in front of the server.
func startMitmproxy(t *testing.T, server string) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address = l.Addr().String()
	_ = l.Close()
	_, port, _ := net.SplitHostPort(address)
	cmd := exec.CommandContext(t.Context(), netlab.Tool(t, "mitmdump"), "-q", "--mode", "reverse:https://"+server, "--listen-host", "127.0.0.1", "-p", port,
		"--set", "confdir="+t.TempDir(), "--set", "stream_large_bodies=1m", "--set", "keep_host_header=true", "--ssl-insecure")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for range 300 {
		if c, err := net.Dial("tcp", address); err == nil {
			_ = c.Close()
			return address
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatal("mitmdump doesn't listen")
	return ""
}

// getter returns what fetches a path over one connection, kept alive.
func getter(address string) (get func(path string) error, done func()) {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		},
		// The three have three CAs, and the time to check a chain isn't ours.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true, ServerName: mitmSite, NextProtos: []string{"http/1.1"}},
		MaxConnsPerHost: 1, DisableCompression: true,
	}
	client := &http.Client{Transport: transport}
	return func(path string) error {
		res, err := client.Get("https://" + mitmSite + path)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			return err
		}
		if res.StatusCode != http.StatusOK {
			return fmt.Errorf("got %s", res.Status)
		}
		return nil
	}, transport.CloseIdleConnections
}

// requestRate returns small requests per second, 32 at a time.
func requestRate(t *testing.T, address string) float64 {
	t.Helper()
	_, port, _ := net.SplitHostPort(address)
	out, err := exec.CommandContext(t.Context(), netlab.Tool(t, "wrk"), "-t", "1", "-c", "32", "-d", fmt.Sprintf("%.0fs", max(1, duration.Seconds())),
		fmt.Sprintf("https://%s:%s/100", mitmSite, port)).CombinedOutput()
	if err != nil || strings.Contains(string(out), "Non-2xx") {
		t.Fatalf("wrk: %v: %s", err, out)
	}
	_, rest, _ := strings.Cut(string(out), "Requests/sec:")
	var rate float64
	if _, err := fmt.Sscan(rest, &rate); err != nil {
		t.Fatalf("wrk: %v: %s", err, out)
	}
	return rate
}

// requestTime returns the median time of one small request after the other, in
// microseconds.
func requestTime(t *testing.T, address string) float64 {
	t.Helper()
	get, done := getter(address)
	defer done()
	var took []time.Duration
	for began := time.Now(); time.Since(began) < *duration; {
		before := time.Now()
		if err := get("/100"); err != nil {
			t.Fatal(err)
		}
		took = append(took, time.Since(before))
	}
	slices.Sort(took)
	return float64(took[len(took)/2].Nanoseconds()) / 1000
}

// downloadRate returns the megabytes per second of one large response.
func downloadRate(t *testing.T, address string) float64 {
	t.Helper()
	const size = 256 << 20
	get, done := getter(address)
	defer done()
	if err := get("/100"); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := get(fmt.Sprintf("/%d", size)); err != nil {
		t.Fatal(err)
	}
	return size / 1e6 / time.Since(began).Seconds()
}
