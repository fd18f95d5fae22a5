package mitm

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/sluicenet/sluice/internal/netlab"
)

// A programWorld is a world in which programs reach the site as localhost, at a
// port of the loopback that is intercepted.
type programWorld struct {
	*world
	url  string
	ca   string // a file
	port string
}

func newProgramWorld(t *testing.T, handler http.Handler) *programWorld {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	w := newWorld(t, Config{Ports: []uint16{port}})
	server := w.serveTLS(handler, func(c *tls.Config) { c.Certificates[0] = w.leaf(nil, "localhost") })
	w.at(port, server)
	w.serveListener(l, func(c net.Conn) { w.proxy.Serve(t.Context(), c, w.flow(c, port)) })
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, w.proxy.CA(), 0o600); err != nil {
		t.Fatal(err)
	}
	return &programWorld{world: w, url: fmt.Sprintf("https://localhost:%d", port), ca: ca, port: fmt.Sprint(port)}
}

// run runs a program of a guest, in whose arguments {url}, {ca} and {port} stand
// for the world's.
func (w *programWorld) run(t *testing.T, stdin string, argv ...string) (out string, code int) {
	t.Helper()
	fill := strings.NewReplacer("{url}", w.url, "{ca}", w.ca, "{port}", w.port)
	for i := range argv {
		argv[i] = fill.Replace(argv[i])
	}
	cmd := exec.CommandContext(t.Context(), netlab.Tool(t, argv[0]), argv[1:]...)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "NODE_EXTRA_CA_CERTS="+w.ca, "SSL_CERT_FILE="+w.ca, "REQUESTS_CA_BUNDLE="+w.ca, "GIT_SSL_CAINFO="+w.ca)
	cmd.Stdin = strings.NewReader(stdin)
	var buf bytes.Buffer
	cmd.Stdout, cmd.Stderr = &buf, &buf
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return buf.String(), cmd.ProcessState.ExitCode()
}

// TestPrograms shows that guests' own programs get through, as they are.
func TestPrograms(t *testing.T) {
	t.Parallel()
	const post = "import urllib.request; print(urllib.request.urlopen('{url}/py', data=b'body').read().decode())"
	for _, row := range []struct {
		name, stdin string
		argv        []string
		want        string // a regular expression
	}{
		{"curl", "", []string{"curl", "-sS", "--http1.1", "--cacert", "{ca}", "{url}/curl?q"}, `HTTP/1.1 GET localhost:\d+ /curl\?q`},
		{"curl, HTTP/2", "", []string{"curl", "-sS", "--http2", "--cacert", "{ca}", "{url}/curl"}, "HTTP/2.0 GET localhost"},
		{"curl posts", "", []string{"curl", "-sS", "--cacert", "{ca}", "-d", "body", "{url}/"}, "POST .* body"},
		{"curl uploads in chunks", "chunked body", []string{"curl", "-sS", "--http1.1", "--cacert", "{ca}", "-T", "-", "{url}/up"}, "PUT .* /up chunked body"},
		{"curl expects 100", "", []string{"curl", "-sS", "--http1.1", "--cacert", "{ca}", "-H", "Expect: 100-continue", "-d", "body", "{url}/"}, "POST .* body"},
		{"curl asks for a head", "", []string{"curl", "-sS", "-I", "--cacert", "{ca}", "{url}/"}, "200"},
		{"curl, TLS 1.2", "", []string{"curl", "-sS", "--tls-max", "1.2", "--cacert", "{ca}", "{url}/"}, "GET localhost"},
		{"curl, four on a connection", "", []string{"curl", "-sS", "--cacert", "{ca}", "{url}/[1-4]"}, "/1 .*/2 .*/3 .*/4 "},
		{"wget with GnuTLS", "", []string{"wget", "-q", "-O", "-", "--ca-certificate={ca}", "{url}/wget"}, "HTTP/1.1 GET localhost:.* /wget"},
		{"openssl s_client", "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", []string{"openssl", "s_client", "-quiet", "-verify_return_error", "-CAfile", "{ca}", "-servername", "localhost", "-verify_hostname", "localhost", "-connect", "127.0.0.1:{port}"}, "HTTP/1.1 GET localhost /"},
		{"Python", "", []string{"/usr/bin/python3", "-c", post}, "HTTP/1.1 POST .* /py body"},
		{"Python requests", "", []string{"/usr/bin/python3", "-c", "import requests; s = requests.Session(); print(s.get('{url}/1').text, s.get('{url}/2').text)"}, "/1 .*/2 "},
		{"Node fetch", "", []string{"node", "-e", "fetch('{url}/node', {method: 'POST', body: 'body'}).then(r => r.text()).then(console.log)"}, "POST .* /node body"},
		{"Apache bench", "", []string{"ab", "-q", "-k", "-n", "100", "-c", "5", "{url}/"}, `Failed requests: +0`},
		{"nghttp", "", []string{"nghttp", "{url}/nghttp"}, "HTTP/2.0 GET localhost:.* /nghttp"},
		{"h2load", "", []string{"h2load", "-n", "500", "-c", "2", "-m", "50", "{url}/"}, "500 succeeded, 0 failed"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			w := newProgramWorld(t, http.HandlerFunc(hello))
			out, code := w.run(t, row.stdin, row.argv...)
			if matched, err := regexp.MatchString("(?s)"+row.want, out); code != 0 || err != nil || !matched {
				t.Errorf("exit %d: %s", code, out)
			}
			if failed := w.seen(EventFail); len(failed) > 0 {
				t.Errorf("got %+v", failed)
			}
		})
	}
}

// TestProgramsDistrust shows that programs which don't trust the CA fail as they
// would at a server that isn't the one, and that the event says why.
func TestProgramsDistrust(t *testing.T) {
	t.Parallel()
	for _, argv := range [][]string{
		{"curl", "-sS", "--capath", "/nonexistent", "{url}"},
		{"curl", "-sS", "--cacert", "{ca}", "--pinnedpubkey", "sha256//AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "{url}"},
		{"gnutls-cli", "--logfile=/dev/null", "--port={port}", "localhost"},
		{"openssl", "s_client", "-quiet", "-verify_return_error", "-no-CAfile", "-no-CApath", "-no-CAstore", "-servername", "localhost", "-connect", "127.0.0.1:{port}"},
		{"/usr/bin/python3", "-c", "import ssl, urllib.request; urllib.request.urlopen('{url}', context=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))"},
	} {
		t.Run(argv[0], func(t *testing.T) {
			t.Parallel()
			w := newProgramWorld(t, http.HandlerFunc(hello))
			out, code := w.run(t, "", argv...)
			if code == 0 || strings.Contains(out, "GET localhost") {
				t.Errorf("got through: %s", out)
			}
			if e := w.waitFor(EventFail); e.Leg != "guest" || !strings.Contains(e.Fix, "Bypass") {
				t.Errorf("got %+v", e)
			}
		})
	}
}

// TestGit clones a repository over HTTPS, which git does with curl's GnuTLS build.
func TestGit(t *testing.T) {
	t.Parallel()
	git := netlab.Tool(t, "git")
	root := t.TempDir()
	src, bare := filepath.Join(root, "src"), filepath.Join(root, "www", "repo.git")
	for _, args := range [][]string{
		{"init", "-q", src},
		{"-C", src, "-c", "user.name=x", "-c", "user.email=x@example.com", "commit", "-q", "--allow-empty", "-m", "hello"},
		{"clone", "-q", "--bare", src, bare},
		{"-C", bare, "update-server-info"},
	} {
		if out, err := exec.CommandContext(t.Context(), git, args...).CombinedOutput(); err != nil {
			t.Fatalf("git %q: %v: %s", args, err, out)
		}
	}
	w := newProgramWorld(t, http.FileServer(http.Dir(filepath.Join(root, "www"))))
	clone := filepath.Join(root, "clone")
	if out, code := w.run(t, "", "git", "clone", "-q", "{url}/repo.git", clone); code != 0 {
		t.Fatalf("exit %d: %s", code, out)
	}
	out, err := exec.CommandContext(t.Context(), git, "-C", clone, "log", "--format=%s").Output()
	if err != nil || strings.TrimSpace(string(out)) != "hello" {
		t.Errorf("got %q, %v", out, err)
	}
}

// TestProgramsSee502 shows what a program prints of a server with a bad
// certificate.
func TestProgramsSee502(t *testing.T) {
	t.Parallel()
	w := newProgramWorld(t, http.HandlerFunc(hello))
	w.proxy.trust.roots = w.guestTLS().RootCAs // which know nothing of the server's issuer
	out, code := w.run(t, "", "curl", "-sS", "-w", "%{http_code}", "--cacert", "{ca}", "{url}")
	if code != 0 || !strings.HasSuffix(out, "502") || !strings.Contains(out, "UpstreamCACerts") {
		t.Errorf("exit %d: %s", code, out)
	}
}
