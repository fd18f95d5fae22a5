package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicenet/sluice/internal/netlab"
)

// listen serves s on loopback over UDP and TCP, as a guest's network would, and
// returns the port.
func listen(t testing.TB, s *Server) string {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", pc.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 65535)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			s.ServeDatagram(buf[:n], func(answer []byte) { pc.WriteTo(answer, from) })
		}
	})
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { s.ServeConn(c) })
		}
	})
	t.Cleanup(func() { pc.Close(); l.Close(); s.Close(); wg.Wait() })
	_, port, _ := net.SplitHostPort(pc.LocalAddr().String())
	return port
}

// clientZone is what the upstream of the clients' tests knows.
func clientZone() []string {
	lines := append(chainOf(12), "www.example.com. 60 IN A 93.184.1.1", "www.example.com. 60 IN AAAA 2606:2800::1",
		"example.com. 60 IN MX 10 mail.example.com.", "1.1.184.93.in-addr.arpa. 60 IN PTR www.example.com.",
		"_http._tcp.example.com. 60 IN SRV 1 2 80 www.example.com.", "ns.example.com. 60 IN NS a.example.com.",
		"example.com. 60 IN HTTPS 1 . alpn=h2,h3 ipv4hint=93.184.1.1 ech=AEX+DQ==")
	for i := range 40 {
		lines = append(lines, fmt.Sprintf("text.example.com. 60 IN TXT \"%02d%s\"", i, strings.Repeat("x", 98)))
	}
	return append(lines, manyAddresses("many.example.com.", 60)...)
}

// TestClients asks with the tools that people use. Each row says what its output
// must hold, after "!" what not.
func TestClients(t *testing.T) {
	t.Parallel()
	up := newAuthority(t, zone(clientZone()...))
	port := listen(t, newServer(t, Config{Nameservers: []Nameserver{up.nameserver()}}))
	for _, tt := range []struct{ command, want string }{
		{"kdig @127.0.0.1 -p PORT www.example.com", "93.184.1.1|status: NOERROR|rd ra"},
		{"dig @127.0.0.1 -p PORT WwW.eXample.com", "\nWwW.eXample.com."},
		{"kdig @127.0.0.1 -p PORT +tcp www.example.com AAAA", "2606:2800::1"},
		{"kdig @127.0.0.1 -p PORT +noedns www.example.com", "93.184.1.1|!EDNS PSEUDOSECTION"},
		{"kdig @127.0.0.1 -p PORT +edns=1 www.example.com", "BADVERS|Not Supported"},
		{"kdig @127.0.0.1 -p PORT +bufsize=512 +ignore many.example.com", "tc|!many.example.com. 60 IN A 93.184.0.60"},
		{"kdig @127.0.0.1 -p PORT +bufsize=512 many.example.com", "93.184.0.1|93.184.0.60"},
		{"kdig @127.0.0.1 -p PORT text.example.com TXT", "(TCP)|39xx"},
		{"kdig @127.0.0.1 -p PORT +cookie +subnet=10.0.0.0/8 +nsid +padding www.example.com", "93.184.1.1|!COOKIE|!CLIENT-SUBNET|!NSID:"},
		{"kdig @127.0.0.1 -p PORT +notcp example.com AXFR", "REFUSED"},
		{"kdig @127.0.0.1 -p PORT +tcp example.com AXFR", "REFUSED"},
		{"kdig @127.0.0.1 -p PORT +edns CH version.bind TXT", "REFUSED|Not Supported"},
		{"kdig @127.0.0.1 -p PORT example.com HTTPS", "ipv4hint=93.184.1.1|!ech="},
		{"kdig @127.0.0.1 -p PORT -x 93.184.1.1", "www.example.com."},
		{"kdig @127.0.0.1 -p PORT c0.a", "c12.a.|93.184.1.1"},
		{"dig @127.0.0.1 -p PORT www.example.com", "93.184.1.1|status: NOERROR|!WARNING|!Warning"},
		{"dig @127.0.0.1 -p PORT +tcp www.example.com", "93.184.1.1|!WARNING"},
		{"dig @127.0.0.1 -p PORT +dnssec +cd +adflag www.example.com", "flags: do|rd ra cd"},
		{"dig @127.0.0.1 -p PORT +norecurse www.example.com", "93.184.1.1"},
		{"dig @127.0.0.1 -p PORT +opcode=notify www.example.com", "NOTIMP"},
		{"dig @127.0.0.1 -p PORT +opcode=update www.example.com", "NOTIMP"},
		{"dig @127.0.0.1 -p PORT +header-only +ignore www.example.com", "FORMERR"},
		{"dig @127.0.0.1 -p PORT +ednsflags=0x40 +ednsopt=65001:00ff www.example.com", "93.184.1.1|!MBZ|!OPT=65001"},
		{"dig @127.0.0.1 -p PORT text.example.com TXT", "39xx|!;; communications error"},
		{"dig @127.0.0.1 -p PORT +keepopen +tcp www.example.com A www.example.com AAAA", "93.184.1.1|2606:2800::1"},
		{"dig @127.0.0.1 -p PORT host.docker.internal", "172.16.0.1|aa rd ra"},
		{"dig @127.0.0.1 -p PORT nothing.example.com", "NXDOMAIN|SOA"},
		{`dig @127.0.0.1 -p PORT a\.b.example.com`, "NXDOMAIN|EDE: 15 (Blocked)"},
		{"drill -p PORT www.example.com @127.0.0.1", "93.184.1.1"},
		{"drill -p PORT -t text.example.com @127.0.0.1 TXT", "39xx"},
		{"drill -p PORT example.com @127.0.0.1 MX", "mail.example.com."},
	} {
		args := strings.Fields(strings.ReplaceAll(tt.command, "PORT", port))
		t.Run(tt.command, func(t *testing.T) {
			netlab.Tool(t, args[0])
			out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput()
			for _, want := range strings.Split(tt.want, "|") {
				unwanted, not := strings.CutPrefix(want, "!")
				if strings.Contains(string(out), unwanted) == not {
					t.Errorf("want %s in:\n%s%v", want, out, err)
				}
			}
		})
	}
}

// TestGoResolver asks with the resolver of Go's standard library.
func TestGoResolver(t *testing.T) {
	t.Parallel()
	up := newAuthority(t, zone(clientZone()...))
	port := listen(t, newServer(t, Config{Nameservers: []Nameserver{up.nameserver()}}))
	r := &net.Resolver{PreferGo: true, StrictErrors: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network[:3], "127.0.0.1:"+port)
	}}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	hosts, err := r.LookupHost(ctx, "www.example.com.")
	if slices.Sort(hosts); err != nil || !slices.Equal(hosts, []string{"2606:2800::1", "93.184.1.1"}) {
		t.Errorf("host: got %q, %v", hosts, err)
	}
	if many, err := r.LookupHost(ctx, "many.example.com."); err != nil || len(many) != 60 {
		t.Errorf("many addresses: got %d, %v", len(many), err)
	}
	if name, err := r.LookupCNAME(ctx, "c11.a."); err != nil || name != "c12.a." {
		t.Errorf("alias: got %q, %v", name, err)
	}
	if text, err := r.LookupTXT(ctx, "text.example.com."); err != nil || len(text) != 40 {
		t.Errorf("text: got %d, %v", len(text), err)
	}
	if _, srv, err := r.LookupSRV(ctx, "http", "tcp", "example.com."); err != nil || len(srv) != 1 || srv[0].Port != 80 {
		t.Errorf("service: got %v, %v", srv, err)
	}
	if names, err := r.LookupAddr(ctx, "93.184.1.1"); err != nil || !slices.Equal(names, []string{"www.example.com."}) {
		t.Errorf("address: got %q, %v", names, err)
	}
	var notFound *net.DNSError
	if _, err := r.LookupHost(ctx, "nothing.example.com."); !errors.As(err, &notFound) || !notFound.IsNotFound {
		t.Errorf("no such host: got %v", err)
	}
}

// daemon starts a name server in the foreground, and ends it with the test or
// when stop is called.
func daemon(t testing.TB, name string, args ...string) (stop func()) {
	t.Helper()
	cmd := exec.Command(netlab.Tool(t, name), args...)
	var log strings.Builder
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("%s %q:\n%s", name, args, log.String())
		}
	})
	t.Cleanup(stop)
	return stop
}

// freePort returns a port on loopback that nobody uses just now.
func freePort(t testing.TB) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

// awaitTCP waits until somebody listens on a port of loopback.
func awaitTCP(t testing.TB, port uint16) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("nobody listens on port %d: %v", port, err)
		}
	}
}

// writeFile writes a file into the test's own directory and returns its path.
func writeFile(t testing.TB, name, text string) string {
	t.Helper()
	path := t.TempDir() + "/" + name
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
