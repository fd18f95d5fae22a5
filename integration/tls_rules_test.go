package integration

import (
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/sluicenet/sluice/internal/netlab"
	m "github.com/sluicenet/sluice/sdk"
)

// TestTLSNames tries, from a guest and by the real resolver, to reach hosts under
// names that aren't theirs, or in ways that hide the name: rows T-01, T-02, T-03,
// T-15, T-16, T-20 and T-27. The other side sees nothing of it, and the next
// good request goes through.
func TestTLSNames(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	for _, tool := range []string{"curl", "openssl"} {
		netlab.Tool(t, tool)
	}
	good := lab.Host(t, "good.tls-names.example")
	good.HTTPS(443, asked)
	proxy := lab.Host(t, "proxy.tls-names.example")
	var heard atomic.Int64 // what hosts hear that nobody may reach
	never := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { heard.Add(1) })
	proxy.HTTP(3128, never)
	bad := lab.Host(t, "bad.tls-names.example")
	bad.HTTPS(443, never)
	forged := lab.Host(t, "forged.tls-names.example")
	forged.HTTPSWith(443, func(c *x509.Certificate) { c.DNSNames = []string{"other.example"}; c.IPAddresses = nil }, never)
	g := startGuest(t, "--tls-intercept", "--allow", good.Name+":443", "--allow", forged.Name+":443", "--allow", proxy.Name+":3128")
	replace := strings.NewReplacer("GOOD4", good.IP4.String(), "GOOD6", good.IP6.String(), "BAD4", bad.IP4.String(), "PROXY", proxy.Name,
		"GOOD", good.Name, "BAD", bad.Name, "FORGED", forged.Name, "CURL", "curl -sS --max-time 60 -o /tmp/out -w '%{http_code}' ")
	g.want(replace.Replace("CURL https://GOOD/"), "200")
	for _, row := range []struct{ name, line, want string }{
		{"T-01: an allowed name at another address", "CURL --connect-to GOOD:443:BAD4:443 https://GOOD/", "000"},
		{"T-02: a denied name at an allowed address", "CURL --connect-to BAD:443:GOOD4:443 https://BAD/", "000"},
		{"T-02: a denied name", "CURL https://BAD/", "000"},
		{"T-03: no name", "CURL https://GOOD4/", "000"},
		{"T-15: another Host, HTTP/1.1", "CURL --http1.1 -H 'Host: BAD' https://GOOD/", "421"},
		{"T-16: another authority, HTTP/2", "CURL --http2 -H 'Host: BAD' https://GOOD/", "421"},
		{"T-16: a port", "CURL -H 'Host: GOOD:444' https://GOOD/", "421"},
		{"T-16: upper case and a dot", "CURL --http1.1 -H 'Host: GOOD.' https://GOOD/", "200"},
		{"T-20: CONNECT to an allowed name", "CURL -x http://PROXY:3128 https://GOOD/", "200"},
		{"T-20: CONNECT to its address, by name inside", "CURL -x http://PROXY:3128 --connect-to GOOD:443:GOOD4:443 https://GOOD/", "200"},
		{"T-20: CONNECT to its address, another name inside", "CURL -x http://PROXY:3128 --connect-to BAD:443:GOOD4:443 https://BAD/", "000"},
		{"T-20: CONNECT to a denied name", "CURL -x http://PROXY:3128 https://BAD/", "000"},
		{"T-20: CONNECT to a denied address, an allowed name inside", "CURL -x http://PROXY:3128 --connect-to GOOD:443:BAD4:443 https://GOOD/", "000"},
		{"T-20: CONNECT to metadata", "CURL -x http://PROXY:3128 -p http://169.254.169.254/", "000"},
		{"T-20: CONNECT to the host", "CURL -x http://PROXY:3128 -p http://127.0.0.1:22/", "000"},
		{"T-20: CONNECT for names", "CURL -x http://PROXY:3128 -p http://GOOD4:53/", "000"},
		{"T-27: a certificate for another name", "CURL https://FORGED/", "502"},
	} {
		line := replace.Replace(row.line)
		out, _ := g.run(line)
		if !strings.HasSuffix(out, row.want) {
			t.Errorf("%s: %s: want %s in\n%s", row.name, line, row.want, out)
		}
		g.want(replace.Replace("CURL https://GOOD/"), "200")
	}
	if n := heard.Load(); n > 0 {
		t.Errorf("%d requests reached hosts that nobody may reach", n)
	}
	denied := 0
	for _, e := range g.denials() {
		if e.Flow.Dst.Name == bad.Name || e.Flow.Dst.Addr == bad.IP4 {
			denied++
		}
	}
	if denied == 0 {
		t.Error("no denial was told of")
	}
}

// TestTLSReplace denies a host while connections to it are open, in each way that
// sluice reads them: the streams end at once, for the guest and for the server.
// Those of a host that stays allowed, on connections of the same kinds, go on.
func TestTLSReplace(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	proxy := lab.Host(t, "proxy.tls-replace.example")
	proxy.HTTP(3128, http.NotFoundHandler())
	denied, allowed := lab.Host(t, "denied.tls-replace.example"), lab.Host(t, "allowed.tls-replace.example")
	var open atomic.Int64 // streams of the host that will be denied
	finish := make(chan struct{})
	stream := func(count *atomic.Int64) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			count.Add(1)
			defer count.Add(-1)
			_, _ = io.WriteString(w, "begun ")
			_ = http.NewResponseController(w).Flush()
			select {
			case <-finish:
				_, _ = io.WriteString(w, "ended\n")
			case <-r.Context().Done():
			}
		})
	}
	var others atomic.Int64
	denied.HTTPS(443, stream(&open))
	allowed.HTTPS(443, stream(&others))
	g := startGuest(t, "--tls-intercept", "--allow", denied.Name+":443", "--allow", allowed.Name+":443", "--allow", proxy.Name+":3128")
	ways := []string{"--http1.1", "--http2", "-x http://" + proxy.Name + ":3128"}
	for _, h := range []*netlab.Host{denied, allowed} {
		for i, way := range ways {
			g.want(fmt.Sprintf("curl -sS --max-time 100 -o /tmp/%s.%d %s https://%s/ 2>/tmp/err & echo $! >/tmp/%[1]s.%[2]d.pid", h.Name, i, way, h.Name), "")
		}
	}
	eventually(t, "all streams are open", func() bool { return open.Load() == 3 && others.Load() == 3 })
	name := g.tells(m.EventSandboxStarted, func(m.Event) bool { return true }).Sandbox
	if out, code := runSluice(t, "policy", "deny", name, denied.Name); code != 0 {
		t.Fatalf("exit code %d: %s", code, out)
	}
	eventually(t, "what is denied has ended", func() bool { return open.Load() == 0 })
	if n := others.Load(); n != 3 {
		t.Errorf("%d streams of the other host are left", n)
	}
	g.fails("curl -sS --max-time 60 https://"+denied.Name+"/", 0)
	close(finish)
	eventually(t, "the others have ended", func() bool {
		out, _ := g.run("cat /tmp/" + allowed.Name + ".?")
		return strings.Count(out, "begun ended") == 3
	})
	if out, _ := g.run("cat /tmp/" + denied.Name + ".?"); strings.Contains(out, "ended") {
		t.Errorf("the guest got %q of a denied host", out)
	}
}
