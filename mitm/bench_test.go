package mitm

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicenet/sluice/mitm/secret"
)

// body is what the servers of benchmarks send, again and again.
var body = []byte(strings.Repeat("0123456789abcdef", 4096))

// benchHandler answers with as many bytes as the path says, up to 64 KiB as text.
func benchHandler(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	var n int64
	if _, err := fmt.Sscanf(r.URL.Path, "/%d", &n); err != nil {
		n = 100
	}
	w.Header().Set("Content-Type", "text/plain")
	w.Header().Set("Content-Length", fmt.Sprint(n))
	for n > 0 {
		k, err := w.Write(body[:min(n, int64(len(body)))])
		if n -= int64(k); err != nil {
			return
		}
	}
}

// benchWays are the ways to the server that benchmarks compare.
var benchWays = []struct {
	name    string
	direct  bool
	http2   bool
	secrets bool
}{{name: "direct", direct: true}, {name: "intercepted"}, {name: "searched", secrets: true}, {name: "direct-h2", direct: true, http2: true}, {name: "intercepted-h2", http2: true}}

// benchClient returns a client on one of the ways.
func benchClient(b *testing.B, direct, http2, secrets bool) *http.Client {
	b.Helper()
	cfg := Config{}
	if secrets {
		set, _, err := secret.New(secret.Config{Secrets: []secret.Secret{{EnvVar: "TOKEN", Value: secret.NewValue("c0ffee-tok/Ab+9-Zz"), AllowHosts: []string{site}}}})
		if err != nil {
			b.Fatal(err)
		}
		cfg.Secrets = set
	}
	w := newWorld(b, cfg)
	server := w.serveTLS(http.HandlerFunc(benchHandler), nil)
	client := w.client(http2)
	if direct {
		t := client.Transport.(*http.Transport)
		t.TLSClientConfig.RootCAs = w.ca.Pool()
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", server)
		}
	}
	client.Timeout = 0
	return client
}

// fetch reads a response to its end.
func fetch(b *testing.B, client *http.Client, path string) {
	res, err := client.Get("https://" + site + path)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != 200 {
		b.Fatal(res.Status, err)
	}
	_ = res.Body.Close()
}

// BenchmarkRequest measures one request after the other on a warm connection, and
// the median of its time.
func BenchmarkRequest(b *testing.B) {
	for _, way := range benchWays {
		b.Run(way.name, func(b *testing.B) {
			client := benchClient(b, way.direct, way.http2, way.secrets)
			fetch(b, client, "/100")
			b.ReportAllocs()
			var took []time.Duration
			for b.Loop() {
				began := time.Now()
				fetch(b, client, "/100")
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
		})
	}
}

// BenchmarkParallel measures requests per second of many connections.
func BenchmarkParallel(b *testing.B) {
	for _, way := range benchWays {
		b.Run(way.name, func(b *testing.B) {
			client := benchClient(b, way.direct, way.http2, way.secrets)
			client.Transport.(*http.Transport).MaxIdleConnsPerHost = 64
			b.SetParallelism(16)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					fetch(b, client, "/100")
				}
			})
		})
	}
}

// BenchmarkDownload measures one stream.
func BenchmarkDownload(b *testing.B) {
	const size = 64 << 20
	for _, way := range benchWays {
		b.Run(way.name, func(b *testing.B) {
			client := benchClient(b, way.direct, way.http2, way.secrets)
			fetch(b, client, "/100")
			b.SetBytes(size)
			for b.Loop() {
				fetch(b, client, fmt.Sprintf("/%d", size))
			}
		})
	}
}

// BenchmarkUpload measures one stream the other way.
func BenchmarkUpload(b *testing.B) {
	const size = 64 << 20
	for _, way := range benchWays {
		b.Run(way.name, func(b *testing.B) {
			client := benchClient(b, way.direct, way.http2, way.secrets)
			fetch(b, client, "/100")
			b.SetBytes(size)
			for b.Loop() {
				req, _ := http.NewRequestWithContext(b.Context(), "PUT", "https://"+site+"/100", io.LimitReader(endless{}, size))
				req.ContentLength = size
				res, err := client.Do(req)
				if err != nil {
					b.Fatal(err)
				}
				_, _ = io.Copy(io.Discard, res.Body)
				_ = res.Body.Close()
			}
		})
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return copy(p, body), nil }

// BenchmarkHandshake measures new connections, both legs of each.
func BenchmarkHandshake(b *testing.B) {
	w := newWorld(b, Config{})
	w.serveTLS(http.HandlerFunc(benchHandler), nil)
	door, cfg := w.door(443), w.guestTLS("http/1.1")
	b.ReportAllocs()
	for b.Loop() {
		c, err := tls.Dial("tcp", door, cfg)
		if err != nil {
			b.Fatal(err)
		}
		_ = c.Close()
	}
}

// BenchmarkMint measures making a certificate.
func BenchmarkMint(b *testing.B) {
	ca, err := newAuthority(time.Now())
	if err != nil {
		b.Fatal(err)
	}
	m, err := newMint(ca, Limits{}.withDefaults())
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := m.make(site, time.Now()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkIdle measures what an intercepted connection holds that has had one
// request and waits: ours, the guest's and the server's together, and the two
// others alone.
func BenchmarkIdle(b *testing.B) {
	const conns = 500
	for _, way := range []string{"direct", "intercepted"} {
		b.Run(way, func(b *testing.B) {
			w := newWorld(b, Config{})
			target := w.serveTLS(http.HandlerFunc(benchHandler), nil)
			cfg := w.guestTLS("http/1.1")
			if way == "direct" {
				cfg.RootCAs = w.ca.Pool()
			} else {
				target = w.door(443)
			}
			before := heap()
			for b.Loop() {
				var open []net.Conn
				for range conns {
					c, err := tls.Dial("tcp", target, cfg)
					if err != nil {
						b.Fatal(err)
					}
					_, _ = io.WriteString(c, "GET /100 HTTP/1.1\r\nHost: "+site+"\r\n\r\n")
					if _, err := c.Read(make([]byte, 4096)); err != nil {
						b.Fatal(err)
					}
					open = append(open, c)
				}
				b.ReportMetric(float64(heap()-before)/conns/1024, "KiB/conn")
				for _, c := range open {
					_ = c.Close()
				}
			}
		})
	}
}

// heap returns the bytes of heap and stacks that are in use.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}
